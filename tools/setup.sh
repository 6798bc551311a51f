#!/usr/bin/env bash
# Prepares this machine. docs/setup.md lists what goes where.
#
#   setup.sh            for the tests: says what is missing and how long it takes, then installs, builds and starts that
#   setup.sh demo       for the demo: only the distribution's engine, gVisor and one image
#   setup.sh tool NAME  builds one pinned tool (tools/versions.env) or busybox, unless it is there, and prints its path
#
# Each may be repeated: it leaves alone what is there already.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=versions.env
. "$tools/versions.env"
# shellcheck source=podman.sh
. "$tools/podman.sh"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin # sudo leaves these out
bin=${MOAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/moat}/bin

die() { echo "setup: $*" >&2; exit 1; }
say() { echo "setup: $*" >&2; }
have() { command -v "$1" >/dev/null; }
about() { if (($1 < 100)); then echo "$1 s"; else echo "$((($1 + 30) / 60)) min"; fi; }

describe() { # describe TOOL: its version, package and build settings, into variables
	cgo=0 flags=()
	case $1 in
	# cgo off: a dynamic runsc cannot start its own sandbox. The version would otherwise read VERSION_MISSING.
	runsc)
		version=$RUNSC_VERSION package=gvisor.dev/gvisor/runsc
		flags=(-ldflags "-X gvisor.dev/gvisor/runsc/version.version=$version")
		;;
	registry) version=$REGISTRY_VERSION package=github.com/distribution/distribution/v3 ;;
	dockerd)
		version=$DOCKERD_VERSION package=github.com/moby/moby/v2/cmd/dockerd
		flags=(-ldflags "-X github.com/moby/moby/v2/dockerversion.Version=29.0.0-moby.$version")
		;;
	docker-proxy) version=$DOCKERD_VERSION package=github.com/moby/moby/v2/cmd/docker-proxy ;;
	buildkitd) version=$BUILDKIT_VERSION package=github.com/moby/buildkit/cmd/buildkitd ;;
	runc) version=$RUNC_VERSION package=github.com/opencontainers/runc cgo=1 flags=(-tags seccomp) ;;
	golangci-lint) version=$GOLANGCI_LINT_VERSION package=github.com/golangci/golangci-lint/v2/cmd/golangci-lint ;;
	govulncheck) version=$GOVULNCHECK_VERSION package=golang.org/x/vuln/cmd/govulncheck ;;
	*) die "no tool is called '$1'" ;;
	esac
	target=$bin/$1-$version
}

# The registry's own main package has the clients of all clouds in it, which are four of its five minutes of building.
registry_main() {
	cat <<-'END'
		package main

		import (
			"os"

			"github.com/distribution/distribution/v3/registry"
			_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
			_ "github.com/distribution/distribution/v3/registry/auth/token"
			_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
		)

		func main() {
			if registry.RootCmd.Execute() != nil {
				os.Exit(1)
			}
		}
	END
}

build() { # build TOOL: a half-built one never gets the name that the others look for
	describe "$1"
	[[ ! -x $target ]] || return 0
	"$tools/need-go.sh"
	local new
	new=$(mktemp -d "$bin/.building-XXXXXX")
	# shellcheck disable=SC2064
	trap "rm -rf '$new'" EXIT
	(
		export GOBIN=$new CGO_ENABLED=$cgo GOFLAGS=-buildvcs=false GOWORK=off
		cd "$new"
		if [[ $1 == registry ]]; then
			registry_main >main.go
			go mod init registry
			go get "$package@$version"
			go mod tidy
			go install .
		elif [[ $1 == buildkitd ]]; then # its module has settings that "go install" wants in a main module only
			go mod init buildkitd
			go get -tool "$package@$version"
			go build -o "$new" "$package"
		else
			go install "${flags[@]}" "$package@$version"
		fi
	) >"$new/log" 2>&1 || {
		tail -n 30 "$new/log" >&2
		die "building $1 failed; its sources come from the Go module proxy (go env GOPROXY)"
	}
	mv -f "$new/$1" "$target"
	rm -rf "$new"
}

install_packages() {
	# Debian's answer to "may this package start its service?"; without it an engine that nobody asked for would run.
	local policy=/usr/sbin/policy-rc.d ours='# made by make setup of Moat, for the time of one installation'
	[[ ! -e $policy ]] || ! grep -qF "$ours" "$policy" || rm -f "$policy" # of a run that was killed
	if [[ ! -e $policy ]]; then
		# shellcheck disable=SC2064
		trap "rm -f $policy" EXIT
		printf '#!/bin/sh\n%s\nexit 101\n' "$ours" >$policy
		chmod 755 $policy
	elif "$policy" docker start >/dev/null 2>&1; then
		die "$policy lets packages start their services: install ${packages[*]} yourself, then run this again"
	fi
	local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
	export DEBIAN_FRONTEND=noninteractive
	"${apt[@]}" update
	# Newer distributions have the client in a package of its own.
	if [[ " ${packages[*]} " == *' docker.io '* ]] && ! have docker && apt-cache show docker-cli >/dev/null 2>&1; then
		packages+=(docker-cli)
	fi
	"${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null ||
		die "the packages could not be installed: ${packages[*]}"
	if [[ " ${packages[*]} " == *' docker.io '* && -d /run/systemd/system ]]; then
		systemctl disable --quiet docker.service docker.socket containerd.service # nor at the next boot
	fi
	if [[ " ${packages[*]} " == *' podman '* && -d /run/systemd/system ]]; then
		systemctl disable --quiet "${podman_units[@]}"
	fi
	! grep -qsF "$ours" "$policy" || rm -f "$policy"
	trap - EXIT
}

put_busybox() {
	[[ ! -x $bin/busybox ]] || return 0
	local new
	new=$(mktemp -d "$bin/.building-XXXXXX")
	# Unpacked, not installed: on many machines busybox-static would push another busybox out.
	if have apt-get; then
		(
			cd "$new"
			apt=(apt-get -qq -o APT::Sandbox::User=root)
			"${apt[@]}" download busybox-static 2>/dev/null || { "${apt[@]}" update && "${apt[@]}" download busybox-static; }
			dpkg-deb -x busybox-static_*.deb .
		) || die "Debian's package busybox-static, of which the images are made, could not be fetched"
	else
		have busybox || die "busybox is missing: install a static one"
		mkdir "$new/bin"
		cp "$(command -v busybox)" "$new/bin"
	fi
	mv -f "$(find "$new" -type f -name busybox -perm -100 | head -n 1)" "$bin/busybox"
	rm -rf "$new"
}

start_engine() { # start_engine NAME IMAGES…: starts or repairs it; IMAGES are scripts of tools/images
	local name=$1 url=unix:///run/moat-engine/$1/docker.sock image
	shift
	"$tools/engine.sh" up "$name" >&2 8>&-
	for image; do
		# shellcheck disable=SC2046
		"$tools/images/$image.sh" "$url" $(seeded "$name")
	done
}

# The file that remembers which images to pull are in an engine's registry. The demo's engine has no registry.
seeded() { [[ $purpose == demo ]] || echo "/var/lib/moat-engine/$1/seeded"; }

trap 'say "interrupted; run it again to go on"; exit 130' INT TERM

purpose=${1:-tests}
case $purpose in
tests) built=(runsc registry docker-proxy runc dockerd buildkitd) ;;
demo) built=(runsc) ;;
tool) ;;
*) die "usage: setup.sh [demo | tool NAME]" ;;
esac
[[ $purpose == tool || $(uname -s) == Linux ]] ||
	die "the private engines need Linux; here Moat uses the container engine that you have (moat doctor)"

# One at a time: a second run waits, and then finds nothing left to do.
mkdir -p "$bin"
if have flock; then # macOS, where only "tool" works, has none
	exec 8>"$bin/.lock"
	flock -n 8 || { say "another one is running; waiting for it"; flock 8; }
fi
rm -rf "$bin"/.building-* # of a run that was killed

if [[ $purpose == tool ]]; then
	case ${2:?usage: setup.sh tool NAME} in
	busybox) target=$bin/busybox && put_busybox ;;
	*) build "$2" ;;
	esac
	echo "$target"
	exit
fi

# Each step: how long it takes on two cores that do nothing else, what it does, and the command.
seconds=() texts=() commands=()
step() { # step SECONDS TEXT COMMAND…
	seconds+=("$1")
	texts+=("$2")
	shift 2
	commands+=("$*")
}

step_build() { # step_build SECONDS TOOL
	describe "$2"
	[[ -x $target ]] || step "$1" "build $2 $version into $bin" build "$2"
}

step_engine() { # step_engine NAME IMAGES…
	local name=$1 url=unix:///run/moat-engine/$1/docker.sock start='' missing='' time=0 image part
	shift
	if ! "$tools/engine.sh" status "$name" >/dev/null 2>&1; then
		start="start the private engine '$name': network namespace moat-$name, /run/moat-engine/$name, /var/lib/moat-engine/$name"
		time=5
	fi
	for image; do
		# shellcheck disable=SC2046
		! "$tools/images/$image.sh" --check "$url" $(seeded "$name") || continue
		case $image in
		build) part='images of a static busybox' time=$((time + 3)) ;;
		services) part="images of Debian's PostgreSQL, Redis and MariaDB" time=$((time + 15)) ;;
		registry) part='an image of a registry' time=$((time + 2)) ;;
		buildkit) part='an image of BuildKit' time=$((time + 3)) ;;
		esac
		missing+="${missing:+, }$part"
	done
	((!time)) || step "$time" "${start:-"make in the engine '$name': $missing"}" start_engine "$name" "$@"
}

packages=()
have dockerd || packages+=(docker.io)
have docker || ! have dockerd || packages+=(docker-cli)
have iptables || packages+=(iptables)
have ip || packages+=(iproute2)
have ps || packages+=(procps)
[[ $purpose == demo ]] || packages+=($(podman_packages))
if [[ $purpose != demo ]]; then # for adapters/docker/programs; the machine's own compiler has no prefix in its package's name
	for target in x86_64:x86-64 aarch64:aarch64; do
		have "${target%:*}-linux-gnu-gcc" || packages+=("gcc-${target#*:}-linux-gnu")
	done
	packages=("${packages[@]/#gcc-$(uname -m | tr _ -)-linux-gnu/gcc}")
	[[ -e /usr/include/stdio.h ]] || packages+=(libc6-dev)
fi
if [[ " ${built[*]} " == *' runc '* ]] && describe runc && [[ ! -x $target ]]; then
	have pkg-config || packages+=(pkg-config)
	have pkg-config && pkg-config --exists libseccomp || packages+=(libseccomp-dev)
fi
((!${#packages[@]})) || step 40 "install the packages: ${packages[*]} (no service of theirs is started)" install_packages
[[ -x $bin/busybox ]] || step 2 "put a static busybox into $bin, for the images" put_busybox
step_build 80 runsc
# The engine that most tests use comes first: who waits for it need not wait for the other's build.
if [[ $purpose == demo ]]; then
	step_engine main build
else
	step_build 50 registry
	step_engine main build services registry
	step_engine podman build services
	step_build 5 docker-proxy
	step_build 20 runc
	step_build 330 dockerd
	step_build 150 buildkitd
	# BuildKit needs a privileged container, which old engines cannot start on every machine.
	step_engine current build services registry buildkit
fi
# Who cannot start engines needs nothing to start them with.
[[ $(id -u) == 0 || "${commands[*]}" == *start_engine* ]] || commands=()

if ((!${#commands[@]})); then
	say "all is there, nothing to do"
	exit
fi
left=0
for time in "${seconds[@]}"; do left=$((left + time)); done
say "to change on this machine, in about $(about "$left") on two cores:"
for i in "${!texts[@]}"; do printf '  - %s (%s)\n' "${texts[i]}" "$(about "${seconds[i]}")" >&2; done
if [[ $(id -u) != 0 ]]; then
	die "this needs root, and nothing was changed: sudo make ${purpose/tests/setup}"
fi
if ((${#packages[@]})) && ! have apt-get; then
	die "packages can be installed here on Debian and Ubuntu only, and nothing was changed.
  Install the content of these Debian packages, then run this again: ${packages[*]}"
fi
[[ ! " ${commands[*]/#build / build:}" == *' build:'* ]] || "$tools/need-go.sh"

start=$SECONDS
for i in "${!commands[@]}"; do
	say "${texts[i]%%[:;]*}: takes $(about "${seconds[i]}"); $(about "$left") to go in all"
	since=$SECONDS
	${commands[i]}
	say "done in $((SECONDS - since)) s"
	left=$((left - seconds[i]))
done
[[ $purpose == demo ]] || "$tools/engine.sh" env
say "all done in $((SECONDS - start)) s"
