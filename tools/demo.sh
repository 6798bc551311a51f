#!/usr/bin/env bash
# Runs an untrusted script in the sandbox, on the engine that the user has. Where there is none, on a private one, which needs root.
#
#   demo.sh [private]   private: on a private engine with gVisor, whatever engine the user has
#
# It changes nothing of the user's engine but for one small image. macOS has bash 3.2, so nothing newer is used here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { echo "demo: $*" >&2; }
die() { say "$*"; exit 1; }
trap 'exit 130' INT TERM

say "building Moat: takes a minute on two cores the first time"
make --no-print-directory moat
[[ -z ${SUDO_UID:-} ]] || chown -R "$SUDO_UID:$SUDO_GID" bin # or the user's next `make build` could not write there
plain=
moat() { bin/moat ${plain:+--no-sandbox} "$@"; }
usable() { moat doctor >/dev/null 2>&1; } # as `moat run` would find it, with or without gVisor

engine=${1:-}
if [[ ! $engine ]] && ! usable; then
	plain=yes
	if ! usable; then
		moat doctor 2>/dev/null | grep -E '^  (reason|remedy):' | sort -u >&2 || true
		[[ -z ${DOCKER_HOST:-} ]] || die "the engine of DOCKER_HOST is not usable: $DOCKER_HOST"
		[[ $(uname -s) == Linux ]] || die "start a container engine, then run this again"
		say "there is no engine that you can use; a private one takes its place"
		plain='' engine=private
	fi
fi
case $engine in
'') ;;
private)
	bash tools/setup.sh demo
	eval "$(bash tools/engine.sh env main)"
	export DOCKER_HOST=$MOAT_TEST_ENGINE
	;;
*) die "usage: make demo [ENGINE=private]" ;;
esac
if [[ $plain ]]; then
	say "your engine has no gVisor that works (moat doctor), so the script will share the kernel of the engine's host (--no-sandbox)"
fi

image=moat/test-base:latest
if ! moat run --rm --pull never $image true 2>/dev/null; then
	image=busybox
	if ! moat run --rm $image true; then
		image=moat/test-base:latest
		say "without the image busybox: making $image of Debian's package busybox-static"
		bash tools/setup.sh tool busybox >/dev/null
		bash tools/images/build.sh "$(moat doctor | sed -nE 's/^(gvisor|docker) (.*): usable$/\2/p' | head -n 1)"
	fi
fi

script=$(mktemp "$PWD/bin/demo-XXXXXX") # engines in a virtual machine see a user's own directories, not /tmp
trap 'rm -f "$script"' EXIT
chmod 644 "$script"
cat >"$script" <<'END'
echo "I am $(id -un) on kernel $(uname -r)."
echo "Memory that I see: $(grep MemTotal /proc/meminfo | tr -s ' ')"
grep -E '^(CapEff|NoNewPrivs):' /proc/self/status | tr '\t' ' '
try() { if "$@" >/dev/null 2>&1; then echo "ALLOWED: $*"; else echo "refused: $*"; fi; }
try mount -t tmpfs none /mnt
try sh -c 'mknod /tmp/disk b 8 0 && head -c 1 /tmp/disk'
try hostname owned
try touch /script
try nc -w 1 192.0.2.1 80
exit 42
END
options=(--rm -m 128m --cpus 1)
unset MOAT_EGRESS # a run is closed by default
echo "$ moat ${plain:+--no-sandbox }run ${options[*]} -v SCRIPT:/script:ro $image sh /script"
status=0
moat run "${options[@]}" -v "$script:/script:ro" $image sh /script || status=$?
echo "exit status: $status (the script's own)"
echo "this machine's kernel: $(uname -sr)"
if [[ $plain ]]; then
	say "for a kernel of its own: install gVisor (docs/gvisor.md), or run 'make demo ENGINE=private'"
	say "(that builds gVisor and starts a private engine beside yours; it needs root, and changes nothing of yours)"
fi
[[ $status == 42 ]]
