#!/usr/bin/env bash
# `make vmtest-kvm`: the KVM way, on a machine that has none. An emulated machine
# whose processor has SVM loads kvm_amd, finds that KVM works (the self-test), and
# runs virtual machines of its own on it. Not part of CI: emulation in emulation
# takes minutes.
#
#   ONLY="daemon" test/vmtest-kvm.sh
#
# Parts (test/vmtest-kvm/inside.sh): accel, the self-test; guest, QEMU and the agent
# alone; daemon, `docker run --isolation vm` whole; forbidden, hosts that lose KVM; shell, a daemon and a shell on
# the console (SERIAL=unix:PATH,server=on,wait=off).
set -euo pipefail
cd "$(dirname "$0")/.."
GO=${GO:-go}
parts=${ONLY:-accel guest daemon forbidden}
export CGO_ENABLED=0
bash test/setup.sh test
kernel=$(ls -v /boot/vmlinuz-*-cloud-amd64 2>/dev/null | tail -n 1)
release=${kernel#/boot/vmlinuz-}
modules=/lib/modules/$release
[ -n "$kernel" ] && [ -e "$modules/kernel/arch/x86/kvm/kvm-amd.ko" ] || {
	echo "needs Debian's cloud kernel installed, with its modules: apt-get install linux-image-cloud-amd64" >&2
	exit 1
}
command -v cpio >/dev/null || { echo "needs cpio: apt-get install cpio" >&2; exit 1; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# The root: busybox, QEMU and what else machines need, what is tested.
root=$tmp/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,run,etc,root,var/tmp,usr/bin,usr/sbin,boot,test,lib/modules,usr/share,sys/fs/cgroup}
cp /bin/busybox "$root/bin/"
for a in $(/bin/busybox --list); do [ "$a" = busybox ] || ln -s busybox "$root/bin/$a"; done
ln -s ../bin/busybox "$root/sbin/modprobe"

# Programs with their libraries, where they are on this machine.
take() {
	local f
	for f in "$@"; do
		f=$(command -v "$f")
		install -D "$f" "$root$f"
		{ ldd "$f" 2>/dev/null || :; } | awk '/=> \//{print $3} /^\t\//{print $1}' | while read -r l; do [ -e "$root$l" ] || install -D "$(readlink -f "$l")" "$root$l"; done
	done
}
rm -f "$root/bin/mkfs.ext4"
take qemu-system-x86_64 mkfs.ext4 /usr/lib/qemu/virtiofsd
cp -r /usr/share/qemu "$root/usr/share/"
cp -r /usr/share/seabios "$root/usr/share/" 2>/dev/null || true
cp "$kernel" "$root/boot/"
(cd "$modules" && tar -c modules.dep modules.alias modules.builtin kernel/arch kernel/virt kernel/drivers/virtio kernel/drivers/block kernel/drivers/char \
	kernel/drivers/net kernel/net kernel/fs kernel/lib kernel/crypto) | (mkdir -p "$root$modules" && tar -x -C "$root$modules")
echo 'root:x:0:0::/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
"$GO" test -c -ldflags '-s -w' -o "$root/test/accel.test" ./internal/driver/qemu/accel
"$GO" test -c -ldflags '-s -w' -o "$root/test/guest.test" ./internal/guest
"$GO" build -trimpath -ldflags '-s -w' -o "$root/test/" ./cmd/wharf-guest ./cmd/wharf-vmm
case " $parts " in *" daemon "* | *" forbidden "* | *" shell "*)
	"$GO" build -trimpath -ldflags '-s -w' -o "$root/test/" ./cmd/wharfd ./cmd/wharf ./cmd/wharf-monitor ./cmd/wharf-logger
	take "${DOCKER_CLI:-docker}"
	cp "$(bash test/images.sh | tail -n 1)/busybox.tar" "$root/test/"
	;;
esac
echo "$parts" >"$root/test/parts"
# KERNEL: a directory as "make kernel" makes it, for the machines in the machine.
flags=
if [ -n "${KERNEL:-}" ]; then
	cp -r "$KERNEL" "$root/test/kernel"
	flags="--vm-kernel /test/kernel/vmlinux --vm-modules /test/kernel/modules"
fi
# A boot takes what the emulation of both machines takes, multiplied.
echo "BOOTTIME=${BOOTTIME:-10m} KERNEL='$flags'; export WHARF_TEST_ACCEL=kvm" >"$root/test/env"
install -m 755 test/vmtest-kvm/inside.sh "$root/test/run"
mkfs.ext4 -q -F -d "$root" "$tmp/disk" 1500M

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
chmod +x "$init/init"
(cd "$init" && find . | cpio -o -H newc 2>/dev/null) >"$tmp/initrd"

# The emulated processor promises no fast string instructions: they would move
# a byte at a time (emulatedCPU in internal/driver/qemu).
khz=$(awk -F: '/cpu MHz/{printf "%d", $2*1000; exit}' /proc/cpuinfo)
log=$tmp/log
timeout "${LIMIT:-1700}" nice qemu-system-x86_64 -M microvm,rtc=on,pit=on,pic=on,isa-serial=on -nodefaults -no-user-config -nographic -no-reboot \
	-accel tcg,thread=multi,tb-size=512 -cpu max,+svm,-pku,-la57,-erms,-fsrm -m 2G -smp 1 -global virtio-mmio.force-legacy=false \
	-kernel "$kernel" -initrd "$tmp/initrd" \
	-append "console=ttyS0 quiet panic=-1 reboot=t pci=off cryptomgr.notests tsc=reliable mitigations=off nowatchdog init_on_alloc=0 tsc_early_khz=$khz" \
	-drive "if=none,id=d,format=raw,cache=unsafe,file=$tmp/disk" -device virtio-blk-device,drive=d \
	${EXTRA:-} -serial "${SERIAL:-stdio}" </dev/null | tee "$log"
grep -q '^result: 0' "$log"
