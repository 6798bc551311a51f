#!/usr/bin/env bash
# demo.sh: an untrusted script in the sandbox, on the engine that the user has, or on the private one of make setup.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
make --no-print-directory build

eval "$(bash tools/engine.sh env)"
if ! bin/moat doctor >/dev/null 2>&1; then
	[[ -n ${MOAT_TEST_ENGINE:-} ]] || { echo "demo: no usable engine: run 'make setup' first" >&2; exit 1; }
	export DOCKER_HOST=$MOAT_TEST_ENGINE
fi
image=moat/test-base:latest
if ! bin/moat images | grep -q "^$image "; then
	bash tools/images/build.sh "${DOCKER_HOST:-unix:///var/run/docker.sock}"
fi

script=$(mktemp)
trap 'rm -f "$script"' EXIT
chmod 644 "$script"
cat >"$script" <<'END'
echo "I am $(id -un) on kernel $(uname -r), and the host's is another."
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
echo '$ moat run --rm -m 128m --cpus 1 --network none -v SCRIPT:/script:ro '"$image"' sh /script'
status=0
bin/moat run --rm -m 128m --cpus 1 --network none -v "$script:/script:ro" "$image" sh /script || status=$?
echo "exit status: $status (the script's own)"
[[ $status == 42 ]]
