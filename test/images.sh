#!/usr/bin/env bash
# Makes the images that demo, tests and bench use, as Docker archives, and
# prints the directory they are in. Cached: the Debian image takes half a
# minute the first time, then nothing.
#
#   test/images.sh [demo|test]
#   test/images.sh example      those of examples/shop too (another minute, once)
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
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

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

# A root file system tar of Debian 12.
rootfs() { # FILE "mmdebstrap options" [PACKAGE...]
	local out=$1 more=$2 pkgs
	shift 2
	pkgs=$(IFS=,; echo "$*")
	echo "images: making $out (a Debian root file system; once)" >&2
	if command -v mmdebstrap >/dev/null 2>&1; then
		# Sources of the host: whatever mirror works here works for it.
		mmdebstrap --quiet --variant=minbase ${pkgs:+--include="$pkgs"} \
			--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
			--dpkgopt='path-exclude=/usr/share/locale/*' $more \
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
	rootfs "$WHARF_IMAGES/debian.rootfs.tmp.tar" ""
	mv "$WHARF_IMAGES/debian.rootfs.tmp.tar" "$WHARF_IMAGES/debian.rootfs.tar"
fi
if ! fresh debian; then
	"$mkimage" -o "$WHARF_IMAGES/debian.tar" -layer "$WHARF_IMAGES/debian.rootfs.tar" -cmd bash debian:bookworm
	done_ debian
fi

# For builds: Debian's Go on Debian, and a repository of a few packages to
# install in a RUN step. .debs come from where the host's apt gets its own.
debs() { # DIR PACKAGE...
	local dir=$1
	shift
	mkdir -p "$dir"
	chmod 755 "$tmp" "$dir"
	(cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download "$@") >&2
}
if [ "$what" != demo ] && [ ! -s "$WHARF_IMAGES/golang.layer.tar" ]; then
	echo "images: fetching Debian's Go (80 MB; once)" >&2
	debs "$tmp/go" golang-go golang-src golang-1.19-go golang-1.19-src
	for v in "$tmp"/go/*.deb; do dpkg-deb -x "$v" "$tmp/goroot"; done
	# Without what only the toolchain's own authors build.
	rm -rf "$tmp"/goroot/usr/share/{doc,man,lintian} "$tmp"/goroot/usr/share/go-1.19/{test,api,src/cmd} \
		"$tmp"/goroot/usr/lib/go-1.19/pkg/*/cmd "$tmp"/goroot/usr/lib/go-1.19/pkg/tool/*/{trace,pprof,vet,cover,doc,test2json,objdump,fix,nm,addr2line}
	tar -C "$tmp/goroot" --sort=name --owner=0 --group=0 --numeric-owner -cf "$WHARF_IMAGES/golang.tmp.tar" .
	mv "$WHARF_IMAGES/golang.tmp.tar" "$WHARF_IMAGES/golang.layer.tar"
fi
if [ "$what" != demo ] && ! fresh golang; then
	"$mkimage" -o "$WHARF_IMAGES/golang.tar" -layer "$WHARF_IMAGES/debian.rootfs.tar" -layer "$WHARF_IMAGES/golang.layer.tar" -cmd bash golang:bookworm
	done_ golang
fi
if [ "$what" != demo ] && [ ! -s "$WHARF_IMAGES/debs/Packages" ]; then
	debs "$tmp/debs" jq libjq1 libonig5
	for v in "$tmp"/debs/*.deb; do
		dpkg-deb -f "$v"
		printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "${v##*/}" "$(stat -c %s "$v")" "$(sha256sum <"$v" | cut -d' ' -f1)"
	done >"$tmp/debs/Packages"
	rm -rf "$WHARF_IMAGES/debs"
	cp -r "$tmp/debs" "$WHARF_IMAGES/debs"
fi

# examples/shop: one root with the packages of three services, three small
# layers on it, and the Go service on nothing at all, twice.
shop() {
	local src=examples/shop arch v
	if [ ! -s "$WHARF_IMAGES/services.rootfs.tar" ]; then
		command -v mmdebstrap >/dev/null 2>&1 || { echo "images: the example needs mmdebstrap (apt-get install mmdebstrap)" >&2; exit 1; }
		mkdir -p "$tmp/hooks"
		# No cluster made at installation; LLVM is for PostgreSQL's jit alone.
		cat >"$tmp/hooks/essential00" <<-'HOOK'
			#!/bin/sh
			mkdir -p "$1/etc/postgresql-common"
			echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"
		HOOK
		cat >"$tmp/hooks/customize00" <<-'HOOK'
			#!/bin/sh
			set -e
			chroot "$1" install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data
			chroot "$1" install -d -o redis -g redis -m 700 /data
			rm -rf "$1"/var/log/* "$1"/usr/share/i18n "$1"/var/cache/debconf/*-old
		HOOK
		chmod +x "$tmp"/hooks/*
		rootfs "$WHARF_IMAGES/services.rootfs.tmp.tar" "--hook-dir=$tmp/hooks
			--dpkgopt=path-exclude=/usr/lib/*/libLLVM-* --dpkgopt=path-exclude=/usr/lib/llvm-*
			--dpkgopt=path-exclude=/usr/lib/*/libz3.so* --dpkgopt=path-exclude=/usr/lib/postgresql/*/lib/bitcode/*" \
			postgresql-15 redis-server nginx-light
		mv "$WHARF_IMAGES/services.rootfs.tmp.tar" "$WHARF_IMAGES/services.rootfs.tar"
	fi
	arch=$("$GO" env GOARCH)
	for v in 1 2; do
		(cd $src/api && CGO_ENABLED=0 GOWORK=off "$GO" build -trimpath -ldflags "-s -w -X main.version=$v" -o "$tmp/v$v/shop" .) >&2
	done
	layer() { # FILE DIR: the directory as root's
		tar -C "$2" --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w -cf "$1" .
	}
	for v in db cache; do
		install -D -m 755 $src/$v/entrypoint.sh "$tmp/$v/usr/local/bin/entrypoint"
		layer "$tmp/$v.tar" "$tmp/$v"
	done
	layer "$tmp/v1.tar" "$tmp/v1"
	layer "$tmp/v2.tar" "$tmp/v2"
	local base=$WHARF_IMAGES/services.rootfs.tar
	"$mkimage" -o "$WHARF_IMAGES/shop.tar" \
		-layer "$base" -layer "$tmp/db.tar" -user postgres -env PGDATA=/var/lib/postgresql/data/main -env PGHOST=/tmp -volume /var/lib/postgresql/data \
		-expose 5432/tcp -stop-signal SIGINT -entrypoint /usr/local/bin/entrypoint -cmd postgres shop-db:1 -- \
		-layer "$base" -layer "$tmp/cache.tar" -user redis -volume /data -workdir /data -expose 6379/tcp \
		-entrypoint /usr/local/bin/entrypoint -cmd redis-server shop-cache:1 -- \
		-layer "$base" -expose 80/tcp -stop-signal SIGQUIT -cmd nginx shop-front:1 -- \
		-arch "$arch" -layer "$tmp/v1.tar" -expose 8080/tcp -entrypoint /shop -cmd serve shop-api:1 -- \
		-arch "$arch" -layer "$tmp/v2.tar" -expose 8080/tcp -entrypoint /shop -cmd serve shop-api:2
}
if [ "$what" = example ]; then
	stamp=$(find test/mkimage test/images.sh examples/shop/{api,db,cache} -type f -print0 | sort -z | xargs -0 cat | sha256sum | cut -c1-16)
	if ! fresh shop; then
		shop
		done_ shop
	fi
fi
echo "$WHARF_IMAGES"
