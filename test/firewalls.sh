#!/bin/bash
# How published ports and names live beside ufw, firewalld and Docker, with the
# real programs: prints what docs/networking.md says. Not part of CI (the Go
# tests of internal/network load rules of the same shape); needs root, apt,
# the built binaries, the test images and, for docker, `test/setup.sh bench`.
#
#   test/firewalls.sh ufw|firewalld|docker [wharfd's flags, such as --firewall-mode docker]
#
# Everything happens in mount and network namespaces of its own, the packages
# are installed into an overlay that goes with them.
set -u
what=${1:?ufw, firewalld or docker}
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${WHARF_FIREWALLS_INSIDE:-}" ]; then
	dir=$(mktemp -d /var/tmp/wharf-fw-XXXXXX)
	chmod 755 "$dir"
	if [ "$what" != docker ]; then
		mkdir -p "$dir/debs/partial"
		apt-get install -y -q --no-install-recommends --download-only -o Dir::Cache::archives="$dir/debs" "$what" iptables dbus >/dev/null 2>\&1 || exit 1
	fi
	WHARF_FIREWALLS_INSIDE=$dir unshare -m -n --propagation private "$0" "$@"
	code=$?
	rm -rf "$dir"
	exit $code
fi
dir=$WHARF_FIREWALLS_INSIDE
shift
pids=()
end() {
	docker rm -f srv cli peer >/dev/null 2>&1
	for p in "${pids[@]}"; do kill "$p" 2>/dev/null && wait "$p" 2>/dev/null; done
	# The daemon takes its cgroup parent with it; not when it was killed.
	rmdir /sys/fs/cgroup{,/*}/"wharf-fw-$$" 2>/dev/null
	true
}
trap end EXIT

ip link set lo up
mkdir "$dir/ov" && mount -t tmpfs tmpfs "$dir/ov" && mkdir "$dir"/ov/{u,w,m} || exit 1
R=$dir/ov/m
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/ov/u,workdir=$dir/ov/w" "$R" || exit 1
mount --rbind /proc "$R/proc" && mount --rbind /dev "$R/dev" && mount -t tmpfs tmpfs "$R/run" && mount -t tmpfs tmpfs /run
mkdir -p "$R/run/dbus"
if [ "$what" != docker ]; then
	mkdir "$R/debs" && mount --bind "$dir/debs" "$R/debs"
	chroot "$R" sh -c 'DEBIAN_FRONTEND=noninteractive dpkg -i --force-depends /debs/*.deb' >/dev/null 2>&1
fi

# The rest of the world.
unshare -n sleep 600 &
W=$!
pids+=("$W")
sleep 0.3
ip link add wan type veth peer name eth0 netns "$W" && ip addr add 203.0.113.1/24 dev wan && ip link set wan up
nsenter -t "$W" -n sh -c 'ip link set lo up; ip addr add 203.0.113.2/24 dev eth0; ip link set eth0 up'
nsenter -t "$W" -n busybox nc -ll -p 7 -e echo x &
pids+=("$!")

export DOCKER_HOST=unix://$dir/s
"$root/bin/wharfd" --data-root "$dir/data" --exec-root "$dir/exec" -H "$DOCKER_HOST" --pidfile "$dir/pid" --cgroup-parent "wharf-fw-$$" "$@" >"$dir/log" 2>&1 &
pids=("$!" "${pids[@]}")
for _ in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
docker load -qi "${WHARF_IMAGES:-/var/cache/wharf-test}/busybox.tar" >/dev/null
docker network create -o com.docker.network.bridge.name=br-app app >/dev/null
docker run -d --name srv -p 8080:80 busybox sh -c 'while true; do echo hello | nc -l -p 80; done' >/dev/null
docker run -d --name cli --network app busybox sleep 1000 >/dev/null
docker run -d --name peer --network app busybox sleep 1000 >/dev/null

check() {
	local in out names
	in=$(nsenter -t "$W" -n busybox nc -w 1 203.0.113.1 8080 </dev/null 2>&1)
	docker exec srv nc -w 1 203.0.113.2 7 </dev/null >/dev/null 2>&1 && out=yes || out=no
	docker exec cli ping -c1 -W2 peer >/dev/null 2>&1 && names=yes || names=no
	echo "$*: published port: $in; container reaches outside: $out; names: $names"
	docker info 2>&1 | grep -o 'chain .* by default' | sort -u | sed 's/^/    warning: /'
}
back() { # the time until wharf's table stands again
	local began i
	began=$(date +%s%N)
	for i in $(seq 300); do nft list tables | grep -q 'inet wharf$' && break; sleep 0.01; done
	echo "    wharf's table is there after $((($(date +%s%N) - began) / 1000000)) ms ($i looks)"
	sleep 0.5
}

check "no other firewall"
nft flush ruleset
back
check "after nft flush ruleset"
case $what in
ufw)
	u() { chroot "$R" ufw "$@" >/dev/null; }
	u --force enable
	sleep 0.5
	check "ufw, its defaults"
	u reload
	back
	check "after ufw reload"
	u route allow in on wharf0
	u route allow out on wharf0
	u allow in on br-app
	check "with the lines of docs/networking.md"
	;;
firewalld)
	f() { chroot "$R" firewall-cmd "$@" >/dev/null 2>&1; }
	chroot "$R" dbus-daemon --system --nofork --nopidfile >/dev/null 2>&1 &
	pids+=("$!")
	sleep 0.5
	chroot "$R" firewalld --nofork --nopid >/dev/null 2>&1 &
	pids+=("$!")
	for _ in $(seq 50); do f --state && break; sleep 0.2; done
	f --zone=public --change-interface=wan
	sleep 0.5
	check "firewalld, its defaults"
	f --reload
	back
	check "after firewall-cmd --reload"
	f --permanent --zone=trusted --add-interface=wharf0
	f --permanent --zone=trusted --add-interface=br-app
	f --reload
	sleep 0.5
	check "with the lines of docs/networking.md"
	;;
docker)
	P=$root/.cache/peers
	PATH=$PATH:$P/docker.io/usr/bin:$P/docker.io/usr/sbin:$P/containerd/usr/bin:$P/runc/usr/sbin:$P/runc/usr/bin:$P/tini/usr/bin
	dockerd --data-root "$dir/ov/dk" --exec-root "$dir/ov/dke" -H "unix://$dir/dk" --pidfile "$dir/ov/dk.pid" >/dev/null 2>&1 &
	pids+=("$!")
	for _ in $(seq 100); do docker -H "unix://$dir/dk" version >/dev/null 2>&1 && break; sleep 0.1; done
	iptables -P FORWARD DROP # as dockerd does when it turns forwarding on itself
	sleep 0.5
	check "dockerd $(docker -H "unix://$dir/dk" version --format '{{.Server.Version}}')"
	for b in wharf0 br-app; do # it has bridged packets filtered too (br_netfilter)
		iptables -I DOCKER-USER -i $b -j ACCEPT
		iptables -I DOCKER-USER -o $b -j ACCEPT
	done
	check "with the lines of docs/networking.md"
	;;
esac
