#!/usr/bin/env bash
# Installs, by apt, what the demo, the tests and the bench need on a bare
# Debian 12. The one list; `make demo`, `make test`, `make bench` and .ci/run
# call it. It does nothing (and needs no root) when everything is there.
#
#   test/setup.sh demo|test|bench
#
# Packages whose installation would start a service or change the firewall
# (docker.io, docker-registry, podman) are not installed but unpacked below
# .cache/peers/<name>, from where the tests start them privately.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-test}
PEERS=$PWD/.cache/peers

# command (or path) : package : what for
demo_needs='
ip:iproute2:links and addresses in the tests
nft:nftables:reads our rules back
mmdebstrap:mmdebstrap:makes the Debian image
/bin/busybox:busybox-static:makes the small image (see busybox_is_static)
jq:jq:reads inspect output
ps:procps:shows host ids of processes
curl:curl:asks the service of the example
git:git:version of the build
nsenter:util-linux:looks into namespaces
qemu-system-x86_64:qemu-system-x86:runs virtual machines
/usr/lib/qemu/virtiofsd:qemu-system-common:their volumes
mkfs.ext4:e2fsprogs:their disks
'
test_needs='
skopeo:skopeo:reads and writes images as others do
mkfs.xfs:xfsprogs:a disk with quotas for make vmtest
'
bench_needs='
iptables:iptables:dockerd calls it
crun:crun:a peer
runc:runc:a peer, and what dockerd runs
'
# unpacked, not installed: package:command it must yield
demo_peers=''
test_peers='docker-registry:usr/bin/docker-registry'
bench_peers='docker.io:usr/sbin/dockerd containerd:usr/bin/containerd tini:usr/bin/tini-static podman:usr/bin/podman conmon:usr/bin/conmon'

case $what in
demo) needs=$demo_needs peers=$demo_peers ;;
test) needs=$demo_needs$test_needs peers="$demo_peers $test_peers" ;;
bench) needs=$demo_needs$test_needs$bench_needs peers="$demo_peers $bench_peers" ;;
*) echo "usage: test/setup.sh demo|test|bench" >&2; exit 2 ;;
esac
# The stock docker CLI: whatever is on PATH, else Debian's.
command -v docker >/dev/null 2>&1 || peers="$peers docker.io:usr/bin/docker"

# The kernel of virtual machines: one that is installed, else Debian's, of which
# only what a guest needs is unpacked, at the place where wharfd looks for it.
KERNEL=${WHARF_KERNEL:-/usr/lib/wharf/kernel}
have_kernel() {
	local f
	for f in /boot/vmlinuz-*-cloud-* "$KERNEL"/boot/vmlinuz-*; do
		[ "${f#"$KERNEL"}" = "$f" ] || [ -n "$(find "$KERNEL" -name xfs.ko -print -quit)" ] || continue # from before make vmtest
		[ -e "$f" ] && { [ -z "${WHARF_KERNEL:-}" ] || [ "${f#"$KERNEL"}" != "$f" ]; } && return 0
	done
	return 1
}
unpack_kernel() {
	local pkg tmp
	pkg=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$pkg" ] || { echo "no package linux-image-cloud-amd64" >&2; return 1; }
	tmp=$(mktemp -d)
	chmod 755 "$tmp"
	(cd "$tmp" && quiet apt-get download "$pkg")
	mkdir -p "$KERNEL"
	# What one of Debian's kernels has built in another has as a module.
	dpkg-deb --fsys-tarfile "$tmp"/*.deb | tar -x -C "$KERNEL" --wildcards --no-anchored \
		'vmlinuz-*' modules.builtin 'kernel/fs/erofs/*' 'kernel/fs/fuse/*' 'kernel/fs/overlayfs/*' 'kernel/fs/ext4/*' 'kernel/lib/*' \
		'kernel/drivers/virtio/*' 'kernel/drivers/block/virtio*' 'kernel/drivers/net/virtio*' 'kernel/drivers/net/net_failover*' \
		'kernel/net/core/*' 'kernel/drivers/char/*' 'kernel/fs/xfs/*' 'kernel/fs/quota/*' 2>/dev/null || true
	ls "$KERNEL"/boot/vmlinuz-* "$KERNEL"/*/modules/*/modules.builtin >/dev/null
	rm -rf "$tmp"
}

# A dynamic busybox does not run in an image of one file.
busybox_is_static() { [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; }

missing=()
while IFS=: read -r cmd pkg _; do
	[ -n "$cmd" ] || continue
	if [ "$cmd" = /bin/busybox ]; then
		busybox_is_static || missing+=("$pkg")
	elif [ "${cmd#/}" != "$cmd" ]; then
		[ -e "$cmd" ] || missing+=("$pkg")
	else
		command -v "$cmd" >/dev/null 2>&1 || missing+=("$pkg")
	fi
done <<<"$needs"
unpack=()
for p in $peers; do
	pkg=${p%%:*} path=${p#*:}
	[ -e "$PEERS/$pkg/$path" ] && continue
	command -v "$(basename "$path")" >/dev/null 2>&1 && continue
	case " ${unpack[*]:-} " in *" $pkg "*) ;; *) unpack+=("$pkg") ;; esac
done
[ ${#missing[@]} -eq 0 ] && [ ${#unpack[@]} -eq 0 ] && have_kernel && exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "not a Debian: install the equivalents of: ${missing[*]:-} ${unpack[*]:-}" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "missing: ${missing[*]:-} ${unpack[*]:-}; run as root: bash test/setup.sh $what" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
quiet() { "$@" >"$log" 2>&1 </dev/null || { cat "$log" >&2; echo "failed: $*" >&2; exit 1; }; }

echo "setup: apt: ${missing[*]:-} ${unpack[*]:+(unpacked only: ${unpack[*]})}"
quiet apt-get update
have_kernel || { echo "setup: a kernel for virtual machines, into $KERNEL"; unpack_kernel; }
[ ${#missing[@]} -eq 0 ] || quiet apt-get install -y --no-install-recommends "${missing[@]}"
for pkg in ${unpack[@]+"${unpack[@]}"}; do
	tmp=$(mktemp -d)
	chmod 755 "$tmp"
	(cd "$tmp" && quiet apt-get download "$pkg")
	mkdir -p "$PEERS/$pkg"
	dpkg-deb -x "$tmp"/*.deb "$PEERS/$pkg"
	rm -rf "$tmp"
done
# dockerd's --init is a link to tini's file, of another package.
[ ! -e "$PEERS/tini/usr/bin/tini-static" ] || [ ! -d "$PEERS/docker.io/usr/bin" ] ||
	cp "$PEERS/tini/usr/bin/tini-static" "$PEERS/docker.io/usr/bin/"
