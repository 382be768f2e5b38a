#!/bin/sh
# Process 1 of the machine that test/vmtest-kvm.sh boots: a host with KVM. It
# runs the parts that /test/parts names; its last line is "result: N", N parts
# failed.
export PATH=/usr/local/bin:/bin:/sbin:/usr/bin:/usr/sbin:/test HOME=/root TMPDIR=/tmp DOCKER_HOST=unix:///run/wharf.sock
. /test/env
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue; mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup; touch /etc/machine-id 2>/dev/null
mount --make-rshared / # as systemd does
for m in kvm-amd tun bridge veth; do modprobe $m && echo "loaded: $m"; done
# What udev makes of it: QEMU's user has nothing to expect of this node.
chmod 660 /dev/kvm
ip link set lo up

say() { echo "== $(cut -d. -f1 /proc/uptime)s $*"; }
fail() { say "FAIL: $*"; return 1; }

# want WHAT IN-FILE: its text has to be there.
want() {
	grep -q -- "$1" "$2" && return 0
	say "FAIL: no '$1' in:"; cat "$2"; return 1
}

# run WORDS...: a command of a client's, shown with what it gave and took.
run() {
	local from to code
	from=$(date +%s)
	"$@" >/tmp/out 2>&1; code=$?
	to=$(date +%s)
	say "$* -> $code, $((to - from)) s"; head -c 2000 /tmp/out
	return $code
}

accel() { WHARF_TEST_KVM=1 /test/accel.test -test.v -test.run TestHere; }

guest() { WHARF_TEST_AGENT=/test/wharf-guest /test/guest.test -test.v -test.run "^TestMachine\$" -test.timeout 1200s; }

# started FLAGS...: a daemon of its own.
started() {
	mkdir -p /data /run/wharf
	wharfd --data-root /data --exec-root /run/wharf -H $DOCKER_HOST --pidfile /run/wharf.pid --log-level debug \
		--vm-holder /test/wharf-vmm --vm-guest /test/wharf-guest --monitor /test/wharf-monitor --vm-boot-time "$BOOTTIME" --vm-memory 256m \
		$KERNEL "$@" >>/tmp/wharfd.log 2>&1 &
	daemon=$!
	local i=0
	until docker version >/dev/null 2>&1; do
		i=$((i + 1)); [ $i -lt 120 ] && kill -0 $daemon || { cat /tmp/wharfd.log; fail "the daemon does not answer"; return; }
		sleep 1
	done
	say "the daemon answers"
}

ended() { kill $daemon; wait $daemon; }

daemon() {
	started && daemon_cases; code=$?
	[ $code = 0 ] || tail -n 40 /tmp/wharfd.log
	ended
	return $code
}

vm() { run docker run --rm --isolation vm "$@"; }

# ready N: so many templates are.
ready() {
	local i=0
	until [ "$(grep -c 'a template for virtual machines is ready' /tmp/wharfd.log)" -ge "$1" ]; do
		i=$((i + 1)); [ $i -lt 900 ] || { fail "no template after 15 minutes"; return; }
		grep 'no template could be made' /tmp/wharfd.log && return 1
		sleep 1
	done
	say "$(grep 'a template for virtual machines is ready' /tmp/wharfd.log | tail -n 1)"
}

daemon_cases() {
	run docker load -qi /test/busybox.tar || return
	run wharf doctor; grep '^vm \|^idmapped' /tmp/out
	want '^vm accelerator.* ok .*kvm' /tmp/out || return
	say "a machine, booted"
	vm busybox sh -c 'echo from $(hostname); uname -r; cat /sys/devices/system/clocksource/clocksource0/current_clocksource /proc/sys/kernel/random/boot_id' || return
	want '^from ' /tmp/out && want kvm-clock /tmp/out || return
	ready 1 || return
	say "a clone"
	run docker run -d --name clone --isolation vm busybox sh -c 'trap "exit 3" TERM; echo up; while :; do sleep 1; done' || return
	run wharf inspect --timing clone; want 'clone resumes\|machine goes on' /tmp/out || return
	run docker exec clone cat /proc/sys/kernel/random/boot_id /proc/cmdline || return
	run docker stop -t 300 clone; run docker inspect -f '{{.State.ExitCode}} {{.HostConfig.Isolation}}' clone; want '^3 vm' /tmp/out || return
	say "a volume, shared with a container"
	vm -v vol:/v busybox sh -c 'echo kept >/v/file; grep /v /proc/mounts' || return
	want virtiofs /tmp/out || return
	run docker run --rm -v vol:/v busybox cat /v/file; want kept /tmp/out || return
	say "a network"
	run docker network create net && run docker run -d --name web --network net busybox sh -c 'mkdir /w; echo page >/w/index.html; busybox httpd -f -h /w' || return
	vm --network net busybox wget -qO- http://web/; want page /tmp/out || return
	run docker rm -f web clone
	grep -i 'starts cold\|hung' /tmp/wharfd.log || return 0
	[ -n "$KERNEL" ] || fail "a clone did not come up" # a kernel of our own may be older than its configuration
}

# forbidden takes /dev/kvm away: with vm-accelerator kvm no machine starts, with
# auto they are emulated, and either is said.
forbidden() {
	local code
	mv /dev/kvm /dev/kvm-away
	started --vm-accelerator kvm || return
	run docker load -qi /test/busybox.tar || return
	vm busybox true; want 'KVM alone' /tmp/out; code=$?
	ended; [ $code = 0 ] || return
	started || return
	run wharf doctor; want '^vm accelerator.*limited.*emulation' /tmp/out; code=$?
	ended; mv /dev/kvm-away /dev/kvm
	return $code
}

shell() {
	started
	setsid sh -c 'exec sh -i </dev/ttyS0 >/dev/ttyS0 2>&1'
}

failed=0
for p in $(cat /test/parts); do
	say "part $p"
	if $p; then say "part $p passed"; else failed=$((failed + 1)); say "part $p FAILED"; fi
done
echo "result: $failed"
sync
poweroff -f
