# What a script begins with that makes one image of programs which setup built:
#
#   SCRIPT [--check] ENGINE_URL
#
# --check builds nothing, it fails when something is to be built. The script names the image in `tag`, and in `versions` the
# variables of versions.env that its programs are of; it gets on when the engine does not have just that.
# shellcheck shell=bash
# shellcheck source=../versions.env
. "$(dirname "${BASH_SOURCE[0]}")/../versions.env"
bin=${MOAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/moat}/bin
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_API_VERSION DOCKER_TLS_VERIFY DOCKER_CERT_PATH
export DOCKER_CONFIG=/run/moat-engine/no-client-settings

check=
[[ ${1:-} != --check ]] || { check=yes; shift; }
url=${1:?usage: ${0##*/} [--check] ENGINE_URL}
label=moat.test.content
want=$({ cat "${BASH_SOURCE[@]}"; for version in "${versions[@]}"; do echo "${!version}"; done; } | sha256sum | cut -d' ' -f1)
[[ $(docker -H "$url" image inspect -f "{{index .Config.Labels \"$label\"}}" "$tag" 2>/dev/null) != "$want" ]] || exit 0
[[ ! $check ]] || exit 1
