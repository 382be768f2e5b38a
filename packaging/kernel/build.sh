#!/usr/bin/env bash
# `make kernel`: a small kernel for virtual machines, from Debian's
# linux-source, with fragment.config. Some ten minutes on two idle processors.
#
#   packaging/kernel/build.sh [OUT]      OUT: .cache/kernel/out
#
# OUT/vmlinux boots by PVH; OUT/modules are the four drivers that load late.
# `make install` takes both along when they are there; wharfd prefers them to
# any distribution's kernel (docs/isolation.md).
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD/packaging/kernel
out=$(mkdir -p "${1:-.cache/kernel/out}" && cd "${1:-.cache/kernel/out}" && pwd)
work=$PWD/.cache/kernel
jobs=${JOBS:-$(nproc)}
mkdir -p "$work"

src=$(ls -v /usr/src/linux-source-*.tar.xz 2>/dev/null | tail -n 1)
missing=()
for c in gcc:gcc make:make flex:flex bison:bison bc:bc xz:xz-utils; do command -v "${c%%:*}" >/dev/null || missing+=("${c#*:}"); done
[ -e /usr/include/libelf.h ] || missing+=(libelf-dev)
[ -n "$src" ] || missing+=(linux-source)
if [ ${#missing[@]} -gt 0 ]; then
	[ "$(id -u)" = 0 ] || { echo "missing: ${missing[*]}; apt-get install them" >&2; exit 1; }
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libc6-dev "${missing[@]}" </dev/null
	src=$(ls -v /usr/src/linux-source-*.tar.xz | tail -n 1)
fi

# The tree is unpacked anew when Debian has another.
stamp=$(basename "$src")-$(stat -c %s-%Y "$src")
tree=$work/tree
if [ "$(cat "$work/stamp" 2>/dev/null)" != "$stamp" ]; then
	rm -rf "$tree"
	mkdir -p "$tree"
	tar -xf "$src" -C "$tree" --strip-components=1
	echo "$stamp" >"$work/stamp"
fi

export KBUILD_BUILD_USER=wharf KBUILD_BUILD_HOST=wharf KBUILD_BUILD_TIMESTAMP=@0
make -s -C "$tree" ARCH=x86_64 KCONFIG_ALLCONFIG="$here/fragment.config" allnoconfig >/dev/null
# What an option depends on may have changed its name: nothing is lost silently.
lost=0
while IFS= read -r line; do
	case $line in CONFIG_*=*) grep -qxF "$line" "$tree/.config" || { echo "not in this kernel: $line" >&2; lost=1; } ;; esac
done <"$here/fragment.config"
[ "$lost" = 0 ] || [ -n "${ALLOW_LOST:-}" ] || { echo "set ALLOW_LOST=1 to build without these" >&2; exit 1; }

nice -n 19 make -s -C "$tree" ARCH=x86_64 -j"$jobs" vmlinux modules
release=$(make -s -C "$tree" ARCH=x86_64 kernelrelease)
rm -rf "$out/modules"
mkdir -p "$out/modules/kernel"
objcopy --strip-debug "$tree/vmlinux" "$out/vmlinux"
(cd "$tree" && find . -name '*.ko' -not -path './samples/*' -exec install -D -m 644 {} "$out/modules/kernel/"{} \;)
find "$out/modules" -name '*.ko' -exec strip --strip-debug {} +
sed 's|^|kernel/|' "$tree/modules.builtin" 2>/dev/null >"$out/modules/modules.builtin" || : >"$out/modules/modules.builtin"
echo "$release" >"$out/release"
ls -l "$out/vmlinux"
echo "kernel $release in $out; try it with: wharfd --vm-kernel $out/vmlinux --vm-modules $out/modules"
