# The engine `podman`: the distribution's Podman, served on a socket as Docker's API. For engine.sh and setup.sh.
# shellcheck shell=bash disable=SC2154 # the variables are engine.sh's

podman_packages() { # the missing ones
	command -v podman >/dev/null || echo podman
	command -v runc >/dev/null || command -v docker >/dev/null || echo runc # docker.io brings it
	[[ -x /usr/lib/cni/firewall ]] || echo containernetworking-plugins
	[[ -x /usr/lib/cni/dnsname ]] || echo golang-github-containernetworking-plugin-dnsname # names on networks
	command -v dnsmasq >/dev/null || echo dnsmasq-base
	command -v catatonit >/dev/null || echo catatonit # an init process for containers
}

# What the package podman would start at the next boot.
podman_units=(podman.service podman.socket podman-auto-update.service podman-auto-update.timer podman-restart.service)

podman_needs=(podman conmon runc dnsmasq /usr/lib/cni/{firewall,dnsname})

podman_settings() { # podman_settings DIRECTORY
	# default_ulimits: what Podman asks for otherwise is more than a machine without CAP_SYS_RESOURCE can give.
	# lock_type: the usual locks are in shared memory, where a Podman of the machine has its own.
	# network_backend: netavark 1.4, which Debian 12 also has, opens all networks to each other whenever a container leaves one.
	# runsc is listed as Podman lists it by itself, whether it is there or not.
	cat >"$1/containers.conf" <<-END
		[containers]
		default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
		[network]
		network_backend = "cni"
		cni_plugin_dirs = ["/usr/lib/cni"]
		network_config_dir = "$data/networks"
		[engine]
		cgroup_manager = "cgroupfs"
		events_logger = "file"
		lock_type = "file"
		runtime = "runc"
		helper_binaries_dir = ["/usr/lib/podman", "/usr/bin"]
		[engine.runtimes]
		runsc = ["$bin/runsc-$RUNSC_VERSION"]
	END
	cat >"$1/registries.conf" <<-END
		[[registry]]
		location = "127.0.0.1:5000"
		insecure = true
	END
	echo "podman $REGISTRY_VERSION" >"$1/versions"
}

# Where Podman keeps things whatever its flags say: each gets a directory of this engine's, in a mount namespace of its own. No
# container outlives the engine, so none of that does.
podman_places=(/run/containers /run/netns /var/lib/containers /var/lib/cni)

podman_up() {
	local place mounts=''
	if [[ ! $(pid_of podman) ]]; then
		rm -f "$sock"
		for place in "${podman_places[@]}"; do
			mkdir -p "$place" "$run/private$place"
			mounts+="mount --bind $run/private$place $place && "
		done
		# The proxy variables are a trap for tests: no workload may have them.
		start podman env CONTAINERS_CONF="$run/containers.conf" CONTAINERS_REGISTRIES_CONF="$run/registries.conf" \
			http_proxy=http://proxy.invalid:1 HTTPS_PROXY=http://user:secret@proxy.invalid:2 no_proxy=127.0.0.1 \
			unshare --mount --propagation slave sh -c "$mounts"'exec "$@"' sh \
			podman --root="$data/storage" --runroot="$run/runroot" --tmpdir="$run/tmp" system service --time=0 "unix://$sock"
	fi
	wait_for podman 60 engine_version
}

podman_leftovers() { # ends what a service that was killed has left; prints the containers' IDs, for their cgroups
	local id ids
	ids=$(ls "$data/storage/overlay-containers" 2>/dev/null | grep -x '[0-9a-f]\{64\}' || true)
	[[ ! -e /run/netns/$netns ]] || ip netns pids "$netns" 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true # conmon, dnsmasq
	for id in $ids; do
		cat /sys/fs/cgroup/{,*/}libpod_parent/*"$id"*/cgroup.procs 2>/dev/null | sort -u | xargs -r kill -KILL 2>/dev/null || true
		rm -rf "/run/runc/$id"
	done
	echo "$ids"
}
