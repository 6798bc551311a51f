#!/usr/bin/env bash
# Makes Moat's test images in an engine, from a static busybox and the suite's agent: no registry, no BuildKit.
#
#   build.sh [--check] ENGINE_URL [SEEDED]
#
# Images are rebuilt only when this script or the agent's source changes. --check builds nothing, it fails when something is to be built.
# SEEDED (a file) also pushes images to pull to the registry at the engine's 127.0.0.1:5000, and remembers that in the file.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=$(cd "$tools/../contracttests" && pwd)
busybox=${MOAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/moat}/bin/busybox
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_API_VERSION DOCKER_TLS_VERIFY DOCKER_CERT_PATH
export DOCKER_CONFIG=/run/moat-engine/no-client-settings

check=
[[ ${1:-} != --check ]] || { check=yes; shift; }
url=${1:?usage: build.sh [--check] ENGINE_URL [SEEDED]}
seeded=${2:-}
engine() { docker -H "$url" "$@"; }

agent_source() { find "$suite/agent" "$suite/cmd/agent" -name '*.go' ! -name '*_test.go' | LC_ALL=C sort | xargs cat; }

want=$({ cat "${BASH_SOURCE[0]}" && agent_source; } | sha256sum | cut -d' ' -f1)
label=moat.test.content
has() { [[ $(engine image inspect -f "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null) == "$want" ]]; }

base_ok='' config_ok='' seed_ok=''
has moat/test-base:latest && base_ok=yes
has moat/test-config:latest && config_ok=yes
[[ ! $seeded || $(cat "$seeded" 2>/dev/null) == "$want" ]] && seed_ok=yes
[[ $base_ok && $config_ok && $seed_ok ]] && exit 0
[[ ! $check ]] || exit 1

[[ -x $busybox ]] || { echo "build.sh: $busybox is missing: run 'make setup'" >&2; exit 1; }
"$tools/need-go.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pack() { # pack FILE FOLDER: a layer, the same bytes every time; all is root's but what is tester's
	tar -C "$2" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --exclude=./home/tester --exclude=./data -cf "$1" .
	local own=()
	[[ ! -d $2/home/tester ]] || own+=(./home/tester)
	[[ ! -d $2/data ]] || own+=(./data)
	((!${#own[@]})) || tar -C "$2" --sort=name --mtime=@0 --owner=1000 --group=1000 --numeric-owner -rf "$1" "${own[@]}"
}

load() { # load TAG CONFIG LAYER…: the archive that `docker save` writes; CONFIG is the "config" object's inside
	local tag=$1 config=$2 dir=$work/image layer sums=() names=() history=()
	shift 2
	rm -rf "$dir" && mkdir "$dir"
	for layer; do
		sums+=("\"sha256:$(sha256sum <"$layer" | cut -d' ' -f1)\"")
		names+=("\"$(basename "$layer")\"")
		history+=("{\"created\":\"2026-01-01T00:00:00Z\",\"created_by\":\"build.sh\"}") # Podman's builder wants one entry a layer
		ln "$layer" "$dir"
	done
	local IFS=,
	cat >"$dir/config.json" <<-END
		{"architecture":"$arch","os":"linux","created":"$(date -u +%FT%TZ)",
		 "config":{"Labels":{"moat.test":"true","$label":"$want"},
		  "Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"$config},
		 "history":[${history[*]}],"rootfs":{"type":"layers","diff_ids":[${sums[*]}]}}
	END
	echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"$tag\"],\"Layers\":[${names[*]}]}]" >"$dir/manifest.json"
	tar -C "$dir" -c . | engine load -q >/dev/null
	echo "build.sh: $tag in $url" >&2
}

case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac

root=$work/root
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,dev,proc,sys,root,tmp,var/tmp,home/tester,data}
chmod 1777 "$root/tmp" "$root/var/tmp"
(cd "$suite" && CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$root/bin/agent" ./cmd/agent)
cp "$busybox" "$root/bin/busybox"
for applet in $("$busybox" --list-full); do
	[[ $applet == bin/busybox ]] || ln -s /bin/busybox "$root/$applet" 2>/dev/null || true # linuxrc and the like
done
printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'tester:x:1000:1000:Tester:/home/tester:/bin/sh' \
	'nobody:x:65534:65534:nobody:/:/bin/false' >"$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'tester:x:1000:' 'extra:x:2000:tester' 'nogroup:x:65534:' >"$root/etc/group"
printf '#!/bin/sh\n# Tells that it ran, then becomes the command.\nexport ENTRYPOINT_RAN=yes\nexec "$@"\n' >"$root/entry.sh"
chmod 755 "$root/entry.sh"
pack "$work/base.tar" "$root"

[[ $base_ok ]] || load moat/test-base:latest '],"Cmd":["sh"]' "$work/base.tar"
[[ $config_ok ]] || load moat/test-config:latest \
	',"FROM_IMAGE=yes"],"Entrypoint":["/entry.sh"],"Cmd":["sh"],"User":"tester","WorkingDir":"/home/tester",
	"ExposedPorts":{"8080/tcp":{}},"Volumes":{"/data":{}}' "$work/base.tar"
[[ ! $seed_ok ]] || exit 0

# To pull: layers that no other image has, or the engine would find them there and pull nothing. One is large and does not
# compress, so that progress can be seen.
registry=127.0.0.1:5000/moat
mkdir "$work"/{big,small}
touch "$root/for-pull"
pack "$work/pull-1.tar" "$root"
head -c 8000000 /dev/urandom >"$work/big/random"
pack "$work/pull-2.tar" "$work/big"
echo small >"$work/small/small"
pack "$work/pull-3.tar" "$work/small"
echo smaller >"$work/small/small"
pack "$work/tiny.tar" "$work/small"
load "$registry/test-pull:latest" '],"Cmd":["sh"]' "$work"/pull-{1,2,3}.tar
load "$registry/test-pull-small:latest" '],"Cmd":["/small"]' "$work/tiny.tar"
for image in test-pull test-pull-small; do
	engine push -q "$registry/$image:latest" >/dev/null
	engine rmi "$registry/$image:latest" >/dev/null # or a pull would have nothing to do
done
echo "$want" >"$seeded"
