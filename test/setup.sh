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
git:git:version of the build
nsenter:util-linux:looks into namespaces
'
test_needs='
skopeo:skopeo:reads and writes images as others do
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

# A dynamic busybox does not run in an image of one file.
busybox_is_static() { [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; }

missing=()
while IFS=: read -r cmd pkg _; do
	[ -n "$cmd" ] || continue
	if [ "$cmd" = /bin/busybox ]; then
		busybox_is_static || missing+=("$pkg")
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
[ ${#missing[@]} -eq 0 ] && [ ${#unpack[@]} -eq 0 ] && exit 0

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
