#!/usr/bin/env bash
# Makes moat/test-registry in an engine: an image registry laid out as the official one is (its port, its settings by variables),
# with the shell of moat/test-base.
#
#   registry.sh [--check] ENGINE_URL
#
# --check builds nothing, it fails when something is to be built.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../versions.env
. "$here/../versions.env"
bin=${MOAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/moat}/bin
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_API_VERSION DOCKER_TLS_VERIFY DOCKER_CERT_PATH
export DOCKER_CONFIG=/run/moat-engine/no-client-settings

check=
[[ ${1:-} != --check ]] || { check=yes; shift; }
url=${1:?usage: registry.sh [--check] ENGINE_URL}
tag=moat/test-registry:latest
label=moat.test.content
want=$({ cat "${BASH_SOURCE[0]}"; echo "$REGISTRY_VERSION"; } | sha256sum | cut -d' ' -f1)
[[ $(docker -H "$url" image inspect -f "{{index .Config.Labels \"$label\"}}" "$tag" 2>/dev/null) != "$want" ]] || exit 0
[[ ! $check ]] || exit 1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{usr/bin,etc/distribution,var/lib/registry}
cp "$bin/registry-$REGISTRY_VERSION" "$work/usr/bin/registry"
cat >"$work/etc/distribution/config.yml" <<-'END'
	version: 0.1
	log: {accesslog: {disabled: true}}
	storage: {filesystem: {rootdirectory: /var/lib/registry}}
	http: {addr: ":5000"}
END
container=$(docker -H "$url" create moat/test-base)
trap 'docker -H "$url" rm -f "$container" >/dev/null; rm -rf "$work"' EXIT
tar -C "$work" --owner=0 --group=0 --numeric-owner -c usr etc var | docker -H "$url" cp - "$container:/"
docker -H "$url" commit -c 'ENTRYPOINT ["registry"]' -c 'CMD ["serve", "/etc/distribution/config.yml"]' -c 'EXPOSE 5000' \
	-c 'VOLUME /var/lib/registry' -c 'ENV OTEL_TRACES_EXPORTER=none' -c "LABEL moat.test=true $label=$want" "$container" "$tag" >/dev/null
docker -H "$url" image prune -f --filter "label=$label" >/dev/null || true # the one that just lost its name
echo "registry.sh: $tag in $url" >&2
