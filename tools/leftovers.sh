#!/usr/bin/env bash
# Fails where a test run has left something of Moat's on an engine of the tests, and lists it.
set -euo pipefail
failed=0

# left ENGINE WHAT COMMAND…: what of one kind has Moat's label.
left() {
	local engine=$1 what=$2 found
	shift 2
	found=$(docker -H "$engine" "$@" --filter label=moat.managed=true)
	# The images of helpers and probes stay on purpose: a few kB, the proxy of 7 MB, one for each program that ever was, that the next run needs again.
	found=$(grep -vE '^((docker.io/library/|localhost/)?moat-(resolver|guard|check|proxy|gvisor-probe)|<none>):' <<<"$found" || true)
	[[ $found ]] || return 0
	printf 'left on %s, %s:\n%s\n' "$engine" "$what" "$found" >&2
	failed=1
}

for engine in "${MOAT_TEST_ENGINE:-}" "${MOAT_TEST_ENGINE_CURRENT:-}" "${MOAT_TEST_ENGINE_PODMAN:-}"; do
	[[ $engine ]] || continue # absent, which the tests have said
	left "$engine" containers ps -a --format '{{.Names}} ({{.Image}}, {{.Status}}) {{.Labels}}'
	left "$engine" networks network ls --format '{{.Name}} {{.Labels}}'
	left "$engine" volumes volume ls --format '{{.Name}} {{.Labels}}'
	# An image that has lost its name to the next build stays, as with docker build, and so does what the classic builder
	# made on its way to one: they are pruned here, as users prune them.
	docker -H "$engine" image prune -f --filter label=moat.managed=true >/dev/null
	left "$engine" images images --format '{{.Repository}}:{{.Tag}} {{.ID}}'
done
exit "$failed"
