#!/usr/bin/env bash
# Makes the programs' binaries, which are committed: who builds Moat needs no C compiler. Needs gcc-x86-64-linux-gnu and gcc-aarch64-linux-gnu.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
for program in gate resolver; do
	for target in amd64:x86_64 arm64:aarch64; do
		"${target#*:}-linux-gnu-gcc" -Os -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-stack-protector \
			-fno-asynchronous-unwind-tables -fno-builtin -Wl,--build-id=none,-z,noseparate-code,-z,noexecstack -s \
			-o "$program-${target%:*}" "$program.c"
	done
done
