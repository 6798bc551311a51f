#!/usr/bin/env bash
# What `make setup` runs: everything that Moat's tests and demo need on this machine. docs/setup.md tells what goes where.
#
#   setup.sh            says what is missing, then installs, builds and starts just that; may be run as often as one likes
#   setup.sh tool NAME  builds one pinned tool (see tools/versions.env) where it is not there yet, and prints its path
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=versions.env
. "$tools/versions.env"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin # sudo leaves these out
bin=${MOAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/moat}/bin

die() { echo "setup: $*" >&2; exit 1; }
say() { echo "setup: $*" >&2; }
have() { command -v "$1" >/dev/null; }

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
	have go || die "go is missing: install Go 1.26 or newer"
	local new start=$SECONDS
	new=$(mktemp -d "$bin/.building-XXXXXX")
	# shellcheck disable=SC2064
	trap "rm -rf '$new'" EXIT
	say "building $1 $version"
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
	) >"$new/log" 2>&1 || { tail -n 30 "$new/log" >&2; die "building $1 failed"; }
	mv -f "$new/$1" "$target"
	rm -rf "$new"
	say "built $1 in $((SECONDS - start)) s"
}

# One at a time: a second run waits, and then finds nothing left to do.
mkdir -p "$bin"
exec 8>"$bin/.lock"
flock -n 8 || { say "another one is running; waiting for it"; flock 8; }
rm -rf "$bin"/.building-* # of a run that was killed

if [[ ${1:-} == tool ]]; then
	build "${2:?usage: setup.sh tool NAME}"
	echo "$target"
	exit
fi

[[ $(uname -s) == Linux ]] || die "the test engines need Linux; here Moat uses the container engine that you have (moat doctor)"

# What is missing?
packages=()
plan=()
built=(runsc registry dockerd docker-proxy runc buildkitd)
to_build=()
for tool in "${built[@]}"; do
	describe "$tool"
	[[ -x $target ]] || to_build+=("$tool")
done
have dockerd || packages+=(docker.io)
have docker || ! have dockerd || packages+=(docker-cli)
have iptables || packages+=(iptables)
have ip || packages+=(iproute2)
have ps || packages+=(procps)
if [[ " ${to_build[*]} " == *' runc '* ]]; then
	have gcc || packages+=(gcc libc6-dev)
	have pkg-config || packages+=(pkg-config)
	have pkg-config && pkg-config --exists libseccomp || packages+=(libseccomp-dev)
fi
((!${#packages[@]})) || plan+=("install the packages: ${packages[*]} (no service of theirs is started)")
((!${#to_build[@]})) || plan+=("build into $bin: ${to_build[*]} (15 minutes on two cores if it is all of them)")
[[ -x $bin/busybox ]] || plan+=("put a static busybox into $bin, for the test images")
# Who cannot start the engines needs nothing to build them with.
[[ $(id -u) == 0 ]] || plan=()
for name in main current; do
	if ! "$tools/engine.sh" status "$name" >/dev/null 2>&1; then
		plan+=("start the private engine '$name' with its registry: network namespace moat-$name, /run/moat-engine/$name, /var/lib/moat-engine/$name")
	else
		url=unix:///run/moat-engine/$name/docker.sock
		"$tools/images/build.sh" --check "$url" "/var/lib/moat-engine/$name/seeded" || plan+=("build the test images in the engine '$name'")
		"$tools/images/services.sh" --check "$url" ||
			plan+=("load PostgreSQL, Redis and MariaDB into the engine '$name' (built once, from Debian's packages)")
		"$tools/images/registry.sh" --check "$url" || plan+=("build the image of a registry in the engine '$name'")
		[[ $name == main ]] || "$tools/images/buildkit.sh" --check "$url" || plan+=("build the image of BuildKit in the engine '$name'")
	fi
done
if ((!${#plan[@]})); then
	say "all is there, nothing to do"
	exit
fi
say "to change on this machine:"
printf '  - %s\n' "${plan[@]}" >&2
if [[ $(id -u) != 0 ]]; then
	die "this needs root, and nothing was changed: run it as root (sudo make setup)"
fi
if ((${#packages[@]})) && ! have apt-get; then
	die "packages can be installed here on Debian and Ubuntu only, and nothing was changed.
  Install what has these Debian packages' content, then run this again: ${packages[*]}"
fi
have go || die "go is missing, and nothing was changed: install Go 1.26 or newer"

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
	"${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null
	if [[ " ${packages[*]} " == *' docker.io '* && -d /run/systemd/system ]]; then
		systemctl disable --quiet docker.service docker.socket containerd.service # nor at the next boot
	fi
	! grep -qsF "$ours" "$policy" || rm -f "$policy"
	trap - EXIT
}

put_busybox() {
	local new
	new=$(mktemp -d "$bin/.building-XXXXXX")
	# Unpacked, not installed: on many machines busybox-static would push another busybox out.
	if have apt-get; then
		(
			cd "$new"
			apt-get -qq download busybox-static 2>/dev/null || { apt-get -qq update && apt-get -qq download busybox-static; }
			dpkg-deb -x busybox-static_*.deb .
		)
	else
		have busybox || die "busybox is missing: install a static one"
		mkdir "$new/bin"
		cp "$(command -v busybox)" "$new/bin"
	fi
	mv -f "$(find "$new" -type f -name busybox -perm -100 | head -n 1)" "$bin/busybox"
	rm -rf "$new"
}

start_engine() { # start_engine NAME
	local start=$SECONDS
	"$tools/engine.sh" up "$1" 8>&-
	"$tools/images/build.sh" "unix:///run/moat-engine/$1/docker.sock" "/var/lib/moat-engine/$1/seeded"
	"$tools/images/services.sh" "unix:///run/moat-engine/$1/docker.sock"
	"$tools/images/registry.sh" "unix:///run/moat-engine/$1/docker.sock"
	# It needs a privileged container, which old engines cannot start on every machine.
	[[ $1 == main ]] || "$tools/images/buildkit.sh" "unix:///run/moat-engine/$1/docker.sock"
	say "engine $1 with its images: $((SECONDS - start)) s"
}

start=$SECONDS
if ((${#packages[@]})); then
	install_packages
	say "installed packages in $((SECONDS - start)) s"
fi
[[ -x $bin/busybox ]] || put_busybox
# The engine that most tests use comes first: who waits for it need not wait for the other's build.
build runsc
build registry
start_engine main
build docker-proxy
build runc
build dockerd
build buildkitd
start_engine current
"$tools/engine.sh" env
say "done in $((SECONDS - start)) s"
