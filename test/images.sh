#!/usr/bin/env bash
# Makes the images that demo, tests and bench use, as Docker archives, and
# prints the directory they are in. Cached: the Debian image takes half a
# minute the first time, then nothing.
#
#   test/images.sh [demo|test]
#
# /var/cache/wharf-test when it can be written (it outlives the clone), else
# .cache/images. WHARF_IMAGES names another place.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-test}
GO=${GO:-go}
if [ -z "${WHARF_IMAGES:-}" ]; then
	WHARF_IMAGES=/var/cache/wharf-test
	mkdir -p "$WHARF_IMAGES" 2>/dev/null && [ -w "$WHARF_IMAGES" ] || WHARF_IMAGES=$PWD/.cache/images
fi
mkdir -p "$WHARF_IMAGES"
# One at a time: demo and tests may run side by side.
exec 9>"$WHARF_IMAGES/.lock"
flock 9

mkdir -p .cache/tools
CGO_ENABLED=0 "$GO" build -o .cache/tools/mkimage ./test/mkimage >&2
mkimage=$PWD/.cache/tools/mkimage
# A change of mkimage or of this script makes new images.
stamp=$(cat test/mkimage/*.go test/images.sh | sha256sum | cut -c1-16)
fresh() { [ -s "$WHARF_IMAGES/$1.tar" ] && [ "$(cat "$WHARF_IMAGES/$1.stamp" 2>/dev/null)" = "$stamp" ]; }
done_() { echo "$stamp" >"$WHARF_IMAGES/$1.stamp"; }

if ! fresh busybox; then
	"$mkimage" -o "$WHARF_IMAGES/busybox.tar" -busybox /bin/busybox \
		wharf/base:latest busybox:latest alpine:latest
	done_ busybox
fi
if ! fresh hello; then
	"$mkimage" -o "$WHARF_IMAGES/hello.tar" -busybox /bin/busybox -cmd /hello \
		-file 'hello!=#!/bin/sh\necho "Hello from wharf!"\n' hello-world:latest
	done_ hello
fi
# What an image can carry that a container inherits.
if ! fresh rich; then
	"$mkimage" -o "$WHARF_IMAGES/rich.tar" -busybox /bin/busybox -entrypoint /entry -cmd "one two" \
		-env COLOUR=blue -label org.example.kind=rich -user user -workdir /work/space -volume /data -expose 80/tcp \
		-stop-signal SIGUSR1 -file 'entry!=#!/bin/sh\necho "entry $*"\n' -file 'data/seed=from the image\n' rich:latest
	done_ rich
fi

# debootstrap_rootfs FILE [PACKAGE...]: a root file system tar of Debian 12.
rootfs() {
	local out=$1 pkgs
	shift
	pkgs=$(IFS=,; echo "$*")
	echo "images: making $out (a Debian root file system; once)" >&2
	if command -v mmdebstrap >/dev/null 2>&1; then
		# Sources of the host: whatever mirror works here works for it.
		mmdebstrap --quiet --variant=minbase ${pkgs:+--include="$pkgs"} \
			--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
			--dpkgopt='path-exclude=/usr/share/locale/*' \
			bookworm "$out" >&2 </dev/null
	else
		local dir
		dir=$(mktemp -d)
		debootstrap --variant=minbase ${pkgs:+--include="$pkgs"} bookworm "$dir" >&2 </dev/null
		tar -C "$dir" --numeric-owner -cf "$out" .
		rm -rf "$dir"
	fi
}
# Root file systems are kept apart from the archives: a new mkimage need not
# make them again.
if [ ! -s "$WHARF_IMAGES/debian.rootfs.tar" ]; then
	rootfs "$WHARF_IMAGES/debian.rootfs.tmp.tar"
	mv "$WHARF_IMAGES/debian.rootfs.tmp.tar" "$WHARF_IMAGES/debian.rootfs.tar"
fi
if ! fresh debian; then
	"$mkimage" -o "$WHARF_IMAGES/debian.tar" -layer "$WHARF_IMAGES/debian.rootfs.tar" -cmd bash debian:bookworm
	done_ debian
fi
echo "$WHARF_IMAGES"
