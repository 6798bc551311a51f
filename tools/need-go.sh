#!/usr/bin/env bash
# Fails, with what to do, where there is no Go that can build Moat. Go 1.21 and newer fetch the version that a module asks for.
set -euo pipefail
version=$(go env GOVERSION 2>/dev/null) || version=
[[ $version =~ ^go1\.(2[1-9]|[3-9][0-9]) || $version == devel* ]] && exit
echo "Go is ${version:+too old here ($version)}${version:-missing}: install Go 1.26 or newer (https://go.dev/dl)" >&2
[[ -z ${SUDO_USER:-} ]] || echo "sudo may hide the Go that you have: sudo env PATH=\"\$PATH\" make ..." >&2
exit 1
