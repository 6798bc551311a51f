#!/usr/bin/env bash
# Makes moat/test-buildkit in an engine: BuildKit of its module with a runc, as moby/buildkit is laid out.
set -euo pipefail
tag=moat/test-buildkit:latest
versions=(BUILDKIT_VERSION RUNC_VERSION)
# shellcheck source=begin.sh
. "$(dirname "$0")/begin.sh"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,usr/bin,etc,dev,proc,sys,root,tmp,run,var/lib/buildkit}
chmod 1777 "$root/tmp"
cp "$bin/busybox" "$root/bin/busybox"
for applet in sh cat ls mount umount; do ln -s busybox "$root/bin/$applet"; done
cp "$bin/buildkitd-$BUILDKIT_VERSION" "$root/usr/bin/buildkitd"
cp "$bin/runc-$RUNC_VERSION" "$root/usr/bin/runc"
# runc is linked to the machine's libraries, which go where it looks for them.
ldd "$root/usr/bin/runc" | grep -o '/[^ ]*' | while read -r library; do
	mkdir -p "$root$(dirname "$library")"
	cp -L "$library" "$root$library"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
tar -C "$root" --owner=0 --group=0 --numeric-owner -c . | docker -H "$url" import \
	-c 'ENTRYPOINT ["buildkitd"]' -c 'VOLUME /var/lib/buildkit' -c 'ENV PATH=/usr/bin:/bin' \
	-c "LABEL moat.test=true $label=$want" - "$tag" >/dev/null
echo "buildkit.sh: $tag in $url" >&2
