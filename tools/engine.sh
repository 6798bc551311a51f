#!/usr/bin/env bash
# Private container engines for Moat's own tests and demo: engine.sh up|down|status|env|help [NAME]…
#
# An engine here shares nothing with one that the machine may already run: it has its own daemons, directories, socket
# and network namespace, and an image registry on that namespace's 127.0.0.1:5000. The namespace has no way out, on purpose:
# nothing that a test container sends can leave the machine.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=versions.env
. "$tools/versions.env"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
bin=${MOAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/moat}/bin
# The caller's own Docker settings are for the caller's own engine.
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_API_VERSION DOCKER_TLS_VERIFY DOCKER_CERT_PATH
export DOCKER_CONFIG=/run/moat-engine/no-client-settings

usage() {
	cat <<-'END'
		usage: engine.sh COMMAND [NAME]…      (without NAME: main, current and podman; down: every one)
		  up      start what is not running, repair what was killed
		  down    end it with its containers; images stay (down --purge: they go too)
		  status  what runs; exit status 1 unless all of it does
		  env     shell lines that tell the tests where the engines are, for those that answer
		  exec    run a command in the engine's network: engine.sh exec NAME COMMAND…
		NAME: main (the distribution's dockerd), current (Docker Engine 29) or podman (the distribution's Podman); a test
		that has to kill its engine takes one of its own, such as main-ANYTHING. It may set MOAT_DOCKERD_FLAGS to what
		dockerd is to be started with, and mount a disk at /var/lib/moat-engine/NAME before, which goes when the engine
		is taken down.
	END
}

die() { echo "engine.sh: $*" >&2; exit 1; }
say() { echo "engine.sh: $*" >&2; }
need_root() { [[ $(id -u) == 0 ]] || die "'$1' needs root: network namespaces and mounts are made for the engine"; }

use() { # use NAME: where this engine lives, from here on
	name=$1
	[[ $name =~ ^(main|current|podman)(-[a-z0-9]{1,20})?$ ]] || die "no engine can be called '$name' (see engine.sh help)"
	run=/run/moat-engine/$name      # sockets, settings: gone after `down`
	data=/var/lib/moat-engine/$name # images, registry, logs: kept until `down --purge`
	sock=$run/docker.sock
	netns=moat-$name
	dockerd=$(command -v dockerd || true)
	[[ $name != current* ]] || dockerd=$bin/dockerd-$DOCKERD_VERSION
	registry=$bin/registry-$REGISTRY_VERSION
}
is_podman() { [[ $name == podman* ]]; }
# shellcheck source=podman.sh
. "$tools/podman.sh"

engine() { timeout 60 docker -H "unix://$sock" "$@"; }
# Also takes the place of a ping. Five seconds: a busy machine with two cores is slow, not dead.
engine_version() { timeout 5 docker -H "unix://$sock" version --format '{{.Server.Version}} (API {{.Server.APIVersion}})' 2>/dev/null; }

# Who runs is read from the processes themselves, by an argument that nobody else has: pid files outlive a kill -9 and a reboot.
# shellcheck disable=SC2062 # the pattern comes on standard input, or grep would find itself
pids_with() { grep -slzxF --file=- /proc/[0-9]*/cmdline <<<"$1" | cut -d/ -f3 || true; }
pid_of() {
	case $1 in
	containerd) pids_with "--config=$run/containerd.toml" ;;
	dockerd) pids_with "--config-file=$run/dockerd.json" ;;
	registry) pids_with "$run/registry.yml" ;;
	podman) pids_with "--tmpdir=$run/tmp" ;;
	esac
}

stop() { # stop ROLE SECONDS: TERM, and KILL when that did not help in time
	local pids i
	mapfile -t pids < <(pid_of "$1")
	((${#pids[@]})) || return 0
	kill -TERM "${pids[@]}" 2>/dev/null || true
	for ((i = 0; i < $2 * 10; i++)); do
		[[ $(pid_of "$1") ]] || return 0
		sleep 0.1
	done
	kill -KILL "${pids[@]}" 2>/dev/null || true
}

descendants() { local p; for p in $(ps -o pid= --ppid "$1"); do descendants "$p"; echo "$p"; done; }

settings() { # writes the settings of all daemons into the directory $1
	if is_podman; then
		podman_settings "$1"
	else
		docker_settings "$1"
	fi
	cat >"$1/registry.yml" <<-END
		version: 0.1
		log: {level: warn, accesslog: {disabled: true}}
		storage:
		  filesystem: {rootdirectory: $data/registry}
		  delete: {enabled: true}
		http: {addr: "127.0.0.1:5000"}
	END
}

docker_settings() {
	cat >"$1/containerd.toml" <<-END
		version = 2
		root = "$data/containerd"
		state = "$run/containerd"
		disabled_plugins = ["io.containerd.grpc.v1.cri"]
		[grpc]
		address = "$run/containerd.sock"
		[plugins."io.containerd.internal.v1.opt"]
		path = "$data/opt"
	END
	# runsc ignores set-user-ID bits unless told, and then refuses nothing that Config.AllowNewPrivileges asks for.
	# moat-sandbox: people give the runtime other names. runsc-broken and runsc-missing: a runtime that is listed need not work.
	# runsc-alone wants the helper programs of gVisor's archive, which a runsc that "go install" built lacks.
	cat >"$1/dockerd.json" <<-END
		{
		  "hosts": ["unix://$sock"],
		  "pidfile": "$run/docker.pid",
		  "data-root": "$data/docker",
		  "exec-root": "$run/exec",
		  "containerd": "$run/containerd.sock",
		  "runtimes": {
		    "runsc": {"path": "$bin/runsc-$RUNSC_VERSION", "runtimeArgs": ["--allow-suid"]},
		    "moat-sandbox": {"path": "$bin/runsc-$RUNSC_VERSION"},
		    "runsc-alone": {"path": "$bin/runsc-$RUNSC_VERSION", "runtimeArgs": ["--sidecar-usage-policy=STRICT"]},
		    "runsc-broken": {"path": "/bin/false"},
		    "runsc-missing": {"path": "/nonexistent/runsc"}
		  }
		}
	END
	echo "$dockerd ${MOAT_DOCKERD_FLAGS:-} $RUNC_VERSION $REGISTRY_VERSION" >"$1/versions"
}

start() { # start ROLE COMMAND…: in the engine's network, on its own, nothing inherited from the caller but the user
	local role=$1 log=$data/$1.log
	shift
	[[ ! -e $log ]] || mv -f "$log" "$log.old"
	# Not `ip netns exec`: that mounts a new /sys, without the cgroups in it. 9 is the lock, which must not outlive this script.
	(
		cd /
		ulimit -n "$(ulimit -Hn)"
		exec setsid nsenter --net="/run/netns/$netns" \
			env -i PATH="$run/path:$PATH" HOME=/root OTEL_TRACES_EXPORTER=none "$@" </dev/null >"$log" 2>&1 9>&-
	) &
	child=$!
}

wait_for() { # wait_for ROLE SECONDS COMMAND…: until it succeeds; with the end of the log when it does not
	local role=$1 end=$((SECONDS + $2))
	shift 2
	until "$@" >/dev/null 2>&1; do
		sleep 0.1
		if ((SECONDS >= end)) || { ! kill -0 "$child" 2>/dev/null && [[ ! $(pid_of "$role") ]]; }; then
			say "$name: $role did not come up; the end of $data/$role.log:"
			tail -n 20 "$data/$role.log" >&2
			return 1
		fi
	done
}

lock() { # two at once wait for each other
	mkdir -p /run/moat-engine
	exec 9>"/run/moat-engine/$name.lock"
	flock -w 300 9 || die "$name: another engine.sh has held /run/moat-engine/$name.lock for 5 minutes"
}

stale() { # stale SETTINGS: is it half there, or was it started with other settings?
	[[ -d $run || $(pid_of containerd)$(pid_of dockerd)$(pid_of podman)$(pid_of registry) || -e /run/netns/$netns ]] || return 1
	exec_in true 2>/dev/null || return 0 # after a reboot its file may be there, and empty
	diff -rq "$1" "$run/settings" >/dev/null 2>&1 || return 0
	[[ ! $(pid_of dockerd)$(pid_of podman) || -S $sock ]] || return 0
	# Only the service that was killed saw the mounts of its containers' network namespaces.
	! is_podman || [[ ! -d $run || $(pid_of podman) ]] || return 0
	[[ ! $(pid_of containerd) || -S $run/containerd.sock ]] || return 0
	return 1
}

up() {
	local new f child=none daemons=("$dockerd" containerd "$bin/runsc-$RUNSC_VERSION")
	! is_podman || daemons=("${podman_needs[@]}")
	for f in "${daemons[@]}" ip nsenter docker iptables; do
		command -v "${f:-dockerd}" >/dev/null || die "$name: ${f:-dockerd} is missing: run 'make setup'"
	done
	lock
	mkdir -p "$data/registry"
	new=$(mktemp -d)
	settings "$new"
	if stale "$new"; then
		say "$name: stale or set up otherwise: taking it down first"
		down
	fi
	exec_in true 2>/dev/null || ip netns add "$netns"
	ip -n "$netns" link set lo up
	mkdir -p "$run/path"
	cp "$new"/* "$run"
	rm -rf "$run/settings"
	mv "$new" "$run/settings"
	chmod 755 "$run/settings"
	if [[ $name == current* ]]; then
		# What Docker Engine 29 looks up in its PATH and Debian 12's is too old for.
		ln -sfn "$bin/runc-$RUNC_VERSION" "$run/path/runc"
		ln -sfn "$bin/docker-proxy-$DOCKERD_VERSION" "$run/path/docker-proxy"
	fi
	if is_podman; then
		podman_up
	else
		docker_up
	fi
	if [[ -x $registry && ! $(pid_of registry) ]]; then # the demo does without, and builds none
		start registry "$registry" serve "$run/registry.yml"
		wait_for registry 30 exec_in bash -c ': </dev/tcp/127.0.0.1/5000'
	fi
	is_podman || wait_for dockerd 120 engine_version # long: after a kill it first stops the containers that it finds
}

docker_up() {
	if [[ ! $(pid_of containerd) ]]; then
		rm -f "$run/containerd.sock" # of one that was killed: dockerd would wait at it in vain
		start containerd containerd --config="$run/containerd.toml"
		wait_for containerd 30 test -S "$run/containerd.sock"
	fi
	if [[ ! $(pid_of dockerd) ]]; then
		rm -f "$run/docker.pid" "$sock" # a stale number may be another process by now, and dockerd would not start
		# shellcheck disable=SC2086
		start dockerd "$dockerd" --config-file="$run/dockerd.json" ${MOAT_DOCKERD_FLAGS:-}
	fi
}

down() { # with what is left of engines that were killed: shims and their containers, mounts, cgroups
	local pid ids='' left address mount id
	if [[ $(pid_of dockerd)$(pid_of podman) ]]; then
		ids=$(engine ps -aq --no-trunc 2>/dev/null || true)
		# shellcheck disable=SC2086
		[[ ! $ids ]] || engine rm -fv $ids >/dev/null 2>&1 || say "$name: not all containers could be removed in order; ending them"
	fi
	stop dockerd 20
	stop podman 10
	stop registry 5
	! is_podman || ids+=" $(podman_leftovers)"
	stop containerd 10 # before its shims, or it starts more of them to clean up after those
	for pid in $(pids_with "$run/containerd.sock"); do
		ids+=" $(tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -x '[0-9a-f]\{64\}' || true)"
		left="$(descendants "$pid") $pid"
		# shellcheck disable=SC2086
		kill -KILL $left 2>/dev/null || true
	done
	# The shims' sockets are where every containerd of the machine has them.
	for address in "$run"/containerd/io.containerd.runtime.v2.task/*/*/address; do
		[[ ! -s $address ]] || rm -f "$(sed 's|^unix://||' "$address")"
	done
	findmnt -rno TARGET | { grep -E "^($run|$data)(/|$)" || true; } | sort -r | while read -r mount; do umount -l "$mount" || true; done
	sleep 0.1 # a cgroup is free only when its processes are gone
	for id in $ids; do
		find /sys/fs/cgroup -depth -type d -path "*$id*" -exec rmdir {} + 2>/dev/null || true
	done
	ip netns del "$netns" 2>/dev/null || rm -f "/run/netns/$netns"
	rm -rf --one-file-system "$run"
}

status() {
	local version part new state=0 product='Docker Engine' parts=(containerd registry)
	! is_podman || { product=Podman parts=(registry); }
	if version=$(engine_version); then
		echo "$name: $product $version at unix://$sock"
	elif [[ -e $sock && ! -w $sock ]]; then
		echo "$name: no permission for unix://$sock (root, or the group that owns it)"
		return 1
	else
		echo "$name: not running"
		return 1
	fi
	for part in "${parts[@]}"; do
		[[ $part != registry || -x $registry ]] || continue
		[[ $(pid_of $part) ]] || { echo "$name: $part is not running: engine.sh up $name"; state=1; }
	done
	if [[ $(id -u) == 0 ]]; then # others have a cache folder of their own, so other settings
		new=$(mktemp -d)
		settings "$new"
		! stale "$new" || { echo "$name: stale or set up otherwise: engine.sh up $name"; state=1; }
		rm -rf "$new"
	fi
	return $state
}

env_lines() {
	local suffix
	engine_version >/dev/null || return 0
	suffix=$(tr a-z- A-Z_ <<<"_$name")
	suffix=${suffix#_MAIN}
	echo "export MOAT_TEST_ENGINE$suffix=unix://$sock"
	echo "export MOAT_TEST_NETNS$suffix=/run/netns/$netns" # published ports are reachable from inside it only
}

exec_in() { nsenter --net="/run/netns/$netns" "$@"; }

command=${1:-help}
shift || true
if [[ $command == exec ]]; then
	use "${1:?a name is missing}"
	shift
	exec_in "$@"
	exit
fi
purge='' names=()
for arg; do
	if [[ $arg == --purge ]]; then purge=yes; else names+=("$arg"); fi
done
if ((!${#names[@]})); then
	names=(main current podman)
	if [[ $command == down ]]; then
		for folder in /run/moat-engine/*-*/ /var/lib/moat-engine/*-*/; do
			[[ ! -d $folder ]] || names+=("$(basename "$folder")")
		done
	fi
fi
result=0
for name in "${names[@]}"; do
	use "$name"
	case $command in
	up)
		need_root up
		up
		status
		;;
	down)
		need_root down
		lock
		down
		[[ ! $purge ]] || rm -rf --one-file-system "$data"
		say "$name: down"
		;;
	status) status || result=1 ;;
	env) env_lines ;;
	help | --help | -h) usage; exit ;;
	*) usage >&2; exit 2 ;;
	esac
done
exit $result
