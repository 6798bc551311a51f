#!/usr/bin/env bash
# Makes Moat's test images in an engine, from a static busybox and the suite's agent: no registry, no BuildKit.
#
#   build.sh [--check] ENGINE_URL [SEEDED]
#
# Images are rebuilt only when this script or the suite's sources of them change. --check builds nothing, it fails when
# something is to be built.
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

sources() { find "$suite/agent" "$suite/cmd" "$suite/internal/image" -name '*.go' ! -name '*_test.go' | LC_ALL=C sort | xargs cat; }

want=$({ cat "${BASH_SOURCE[0]}" && sources; } | sha256sum | cut -d' ' -f1)
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

load() { # load [OPTION]… TAG: the options are those of the suite's command
	(cd "$suite" && go run ./cmd/image -label moat.test=true -label "$label=$want" "$@") | engine load -q >/dev/null
	echo "build.sh: ${*: -1} in $url" >&2
}

[[ $base_ok ]] || load -busybox "$busybox" moat/test-base:latest
[[ $config_ok ]] || load -busybox "$busybox" -config moat/test-config:latest
[[ ! $seed_ok ]] || exit 0

# To pull: layers that no other image has, or the engine would find them there and pull nothing. One is large and does not
# compress, so that progress can be seen.
registry=127.0.0.1:5000/moat
mkdir "$work"/{own,big,small,tiny}
echo own >"$work/own/for-pull"
head -c 8000000 /dev/urandom >"$work/big/random"
echo small >"$work/small/small"
echo smaller >"$work/tiny/small"
load -busybox "$busybox" -layer "$work/own" -layer "$work/big" -layer "$work/small" "$registry/test-pull:latest"
load -bare -layer "$work/tiny" "$registry/test-pull-small:latest"
for image in test-pull test-pull-small; do
	engine push -q "$registry/$image:latest" >/dev/null
	engine rmi "$registry/$image:latest" >/dev/null # or a pull would have nothing to do
done
echo "$want" >"$seeded"
