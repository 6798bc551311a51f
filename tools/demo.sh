#!/usr/bin/env bash
# Runs an untrusted script in the sandbox, on the engine that the user has. Where there is none, on a private one, which needs root.
#
#   demo.sh [private]   private: on a private engine with gVisor, whatever engine the user has
#
# It leaves nothing on the user's engine but small images. macOS has bash 3.2, so nothing newer is used here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { echo "demo: $*" >&2; }
die() { say "$*"; exit 1; }
trap 'exit 130' INT TERM

say "building Moat: takes a minute on two cores the first time"
make --no-print-directory moat proxy
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
name=moat-${script##*/}                 # of the containers, which outlive `moat run -d`
cleanup() {
	trap '' INT TERM
	set -m # in a process group of its own, which a terminal's Ctrl-C does not reach
	moat rm -f "$name" "$name-server" >/dev/null 2>&1 & # those that there are
	wait $! || true
	rm -f "$script" "$script.log"
}
trap cleanup EXIT
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

# One server is both allowed.example and denied.example, so only the rule makes the difference. It writes a warning, since the
# server's own network is open.
answers=''
egress() {
	local address
	moat run -d --name "$name-server" --network bridge $image \
		sh -c 'mkdir /www && echo "hello from outside" >/www/index.html && exec httpd -f -p 8080 -h /www' || return
	moat exec "$name-server" timeout 10 sh -c 'until nc 127.0.0.1 8080 </dev/null; do sleep 0.1; done' || return
	address=$(moat inspect "$name-server" | sed -nE 's/.*"ipaddress": "([^"]+)".*/\1/p')
	cat >"$script" <<-'END'
		proxy=${http_proxy#http://} at=${http_proxy#*@}
		credential=$(printf %s "${proxy%@*}" | base64 | tr -d '\n')
		get() { # BusyBox's wget cannot use a proxy that has a password
			echo >/tmp/answer
			{
				printf 'CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\nConnection: close\r\n\r\n' "$1" "$1" "$credential"
				until grep -q HTTP/ /tmp/answer; do sleep 0.1; done # the proxy cuts a client that hangs up before
				! grep -q ' 200 ' /tmp/answer || printf 'GET / HTTP/1.0\r\n\r\n'
			} | nc "${at%:*}" "${at#*:}" >>/tmp/answer
			echo "CONNECT $1: $(tr -d '\r' </tmp/answer | sed -n '2s/^[^ ]* //p'): $(tail -n 1 /tmp/answer)"
		}
		get allowed.example:8080
		get denied.example:8080
	END
	moat run -d --name "$name" --egress allowed.example:8080 --egress-private "$address/32" \
		--add-host allowed.example:"$address" --add-host denied.example:"$address" \
		-v "$script:/script:ro" $image timeout 30 sh /script
}
if egress >"$script.log" 2>&1; then
	echo "$ moat ${plain:+--no-sandbox }run -d --name demo --egress allowed.example:8080 … sh /script; moat logs -f demo; moat egress log demo | grep -v ended"
	answers=$(moat logs -f "$name")
	echo "$answers"
	moat egress log "$name" | grep -v '"verdict":"ended"'
elif grep -q 'not supported by this runtime' "$script.log"; then
	answers=unsupported
	say "the requests of a run with --egress are left out: $(sed -nE 's/.*(not supported by this runtime)/\1/p' "$script.log" | tail -n 1)"
else
	cat "$script.log" >&2
fi

if [[ $plain ]]; then
	say "for a kernel of its own: install gVisor (docs/gvisor.md), or run 'make demo ENGINE=private'"
	say "(that builds gVisor and starts a private engine beside yours; it needs root, and changes nothing of yours)"
fi
[[ $status == 42 && ($answers == unsupported || $answers == *': 200 '*': 403 '*) ]]
