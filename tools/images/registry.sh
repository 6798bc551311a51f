#!/usr/bin/env bash
# Makes moat/test-registry in an engine: an image registry laid out as the official one is (its port, its settings by variables),
# with the shell of moat/test-base.
set -euo pipefail
tag=moat/test-registry:latest
versions=(REGISTRY_VERSION)
# shellcheck source=begin.sh
. "$(dirname "$0")/begin.sh"

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
