#!/bin/bash
# Starts Redis, open to the network as an image's Redis is.
set -euo pipefail
. /usr/local/lib/common.sh

[[ ${1:-} && $1 != -* && $1 != *.conf ]] || set -- redis-server "$@"
if [[ $1 == redis-server && $(id -u) == 0 ]]; then
	find . \! -user redis -exec chown redis:redis {} +
	become redis "$0" "$@"
fi
[[ $(umask) != 0022 ]] || umask 0077
[[ $1 == redis-server ]] || exec "$@"
shift
case ${1:-} in
-v | --version | -h | --help | --test-memory | --check-system) exec redis-server "$@" ;;
esac
file=()
if [[ ${1:-} && $1 != --* ]]; then # a file of settings has to come first; what it says about protected-mode counts
	file=("$1")
	shift
	! grep -qis '^[[:space:]]*protected-mode[[:space:]]' "${file[0]}" || exec redis-server "${file[@]}" "$@"
fi
exec redis-server ${file[@]+"${file[@]}"} --protected-mode no "$@"
