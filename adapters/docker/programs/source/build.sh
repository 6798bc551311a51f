#!/usr/bin/env bash
# The programs' binaries are committed, so that Moat builds without a C compiler.
#
#   build.sh          builds them
#   build.sh check    builds them elsewhere, compares byte for byte, and fuzzes the resolver
#
# `make setup` installs the compilers. Other versions of them make other bytes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=../../../../tools/versions.env
. ../../../../tools/versions.env

die() { echo "programs: $*" >&2; exit 1; }

compile() { # compile PROGRAM ARCHITECTURE MACHINE DIRECTORY
	local cc=$3-linux-gnu-gcc
	command -v "$cc" >/dev/null || die "$cc is missing: run make setup"
	[[ $("$cc" -dumpfullversion) == "$GCC_VERSION" ]] ||
		die "$cc is version $("$cc" -dumpfullversion); the committed programs are built with $GCC_VERSION, that of Debian 12"
	"$cc" -Os -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-stack-protector \
		-fno-asynchronous-unwind-tables -fno-builtin -Wl,--build-id=none,-z,noseparate-code,-z,noexecstack -s \
		-o "$4/$1-$2" "$1.c"
}

compile_all() { # compile_all DIRECTORY
	local program
	for program in check gate guard probe resolver; do
		compile "$program" amd64 x86_64 "$1"
		compile "$program" arm64 aarch64 "$1"
	done
}

if [[ ${1:-} != check ]]; then
	compile_all ..
	exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/built"
compile_all "$work/built"
for file in "$work"/built/*; do
	cmp "$file" "../${file##*/}" || die "${file##*/} is not built from the source beside it: run make programs"
done
gcc -g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all -o "$work/fuzz" resolver_fuzz.c
"$work/fuzz" "${FUZZ_RUNS:-10000}"
