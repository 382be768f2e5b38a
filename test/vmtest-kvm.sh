#!/usr/bin/env bash
# `make vmtest-kvm`: the KVM way, on a machine that has none. An emulated machine
# whose processor has SVM loads kvm_amd, finds that KVM works (the self-test), and
# boots a virtual machine of its own on it. Not part of CI: emulation in
# emulation takes minutes.
#
#   test/vmtest-kvm.sh [TEST]    TEST: which tests of internal/guest (TestMachine); none: "-"
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
tests=${1:-TestMachine}
export CGO_ENABLED=0
bash test/setup.sh test
kernel=$(ls -v /boot/vmlinuz-*-cloud-amd64 2>/dev/null | tail -n 1)
release=${kernel#/boot/vmlinuz-}
modules=/lib/modules/$release
[ -n "$kernel" ] && [ -e "$modules/kernel/arch/x86/kvm/kvm-amd.ko" ] || {
	echo "needs Debian's cloud kernel installed, with its modules: apt-get install linux-image-cloud-amd64" >&2
	exit 1
}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,run,etc,root,var/tmp,usr/bin,boot,test,lib/modules,usr/lib/qemu,usr/share,sys/fs/cgroup}
cp /bin/busybox "$root/bin/"
for a in sh mount umount mkdir cat ls modprobe poweroff ip sleep; do ln -s busybox "$root/bin/$a"; done
ln -s ../bin/busybox "$root/sbin/modprobe"

# Programs with their libraries, where they are on this machine.
take() {
	local f
	for f in "$@"; do
		f=$(command -v "$f")
		install -D "$f" "$root$f"
		ldd "$f" | awk '/=> \//{print $3} /^\t\//{print $1}' | while read -r l; do [ -e "$root$l" ] || install -D "$(readlink -f "$l")" "$root$l"; done
	done
}
take qemu-system-x86_64 mkfs.ext4
cp -r /usr/share/qemu "$root/usr/share/"
cp -r /usr/share/seabios "$root/usr/share/" 2>/dev/null || true
cp "$kernel" "$root/boot/"
(cd "$modules" && tar -c modules.dep modules.builtin kernel/arch/x86/kvm kernel/virt kernel/drivers/virtio kernel/drivers/block kernel/drivers/char \
	kernel/drivers/net/virtio_net.ko kernel/drivers/net/net_failover.ko kernel/net/core kernel/fs/erofs kernel/fs/fuse kernel/fs/overlayfs kernel/lib) |
	(mkdir -p "$root$modules" && tar -x -C "$root$modules")
echo 'root:x:0:0::/root:/bin/sh' >"$root/etc/passwd"
"$GO" test -c -o "$root/test/accel" ./internal/driver/qemu/accel
"$GO" test -c -o "$root/test/guest" ./internal/guest
"$GO" build -trimpath -ldflags '-s -w' -o "$root/test/wharf-guest" ./cmd/wharf-guest
echo "$tests" >"$root/test/which"
cat >"$root/test/run" <<'RUN'
#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TMPDIR=/tmp
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup; touch /etc/machine-id 2>/dev/null
modprobe kvm-amd && echo "kvm_amd is loaded"
ip link set lo up
which=$(cat /test/which)
WHARF_TEST_KVM=1 /test/accel -test.v -test.run 'TestHere' &&
	WHARF_TEST_AGENT=/test/wharf-guest WHARF_TEST_ACCEL=kvm /test/guest -test.v -test.run "^$which\$" -test.timeout 1200s
echo "result: $?"
poweroff -f
RUN
chmod +x "$root/test/run"
mkfs.ext4 -q -F -d "$root" "$tmp/disk" 600M

# The first root: drivers for the disk.
init=$tmp/init
mkdir -p "$init"/{bin,proc,dev,root,m}
cp /bin/busybox "$init/bin/"
for m in virtio/virtio_ring virtio/virtio virtio/virtio_mmio block/virtio_blk; do cp "$modules/kernel/drivers/$m.ko" "$init/m/"; done
cat >"$init/init" <<'INIT'
#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
for m in virtio_ring virtio virtio_mmio virtio_blk; do $B insmod /m/$m.ko; done
i=0; while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do $B sleep 0.1; i=$((i+1)); done
$B mount -t ext4 /dev/vda /root && exec $B switch_root /root /test/run
$B poweroff -f
INIT
ln -s bin/busybox "$init/busybox"
chmod +x "$init/init"
sed -i '1s|.*|#!/bin/busybox sh|' "$init/init"
(cd "$init" && find . | cpio -o -H newc 2>/dev/null) >"$tmp/initrd" || { echo "needs cpio" >&2; exit 1; }

khz=$(awk -F: '/cpu MHz/{printf "%d", $2*1000; exit}' /proc/cpuinfo)
log=$tmp/log
timeout "${LIMIT:-1500}" nice qemu-system-x86_64 -M microvm,rtc=on,pit=on,pic=on,isa-serial=on -nodefaults -no-user-config -nographic -no-reboot \
	-accel tcg,thread=multi -cpu max,+svm,-pku,-la57 -m 1500M -smp 1 -global virtio-mmio.force-legacy=false \
	-kernel "$kernel" -initrd "$tmp/initrd" -append "console=ttyS0 quiet panic=-1 reboot=t pci=off cryptomgr.notests tsc_early_khz=$khz" \
	-drive "if=none,id=d,format=raw,file=$tmp/disk" -device virtio-blk-device,drive=d -serial stdio </dev/null | tee "$log"
grep -q '^result: 0' "$log"
