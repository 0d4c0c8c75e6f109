#!/bin/sh
# Makes the fixtures of mount/raid/raidtest: in a small virtual machine with
# Debian's kernel, the real md and device-mapper lay out arrays and volumes over
# fresh disks. What the kernel reads from each goes to NAME.txt as SHA-256, the
# disks to NAME.zst one behind the other.
#
#   make.sh [SCENARIO…]
#
# Needs qemu-system-x86, busybox-static, lvm2, mdadm, dmsetup, cpio, zstd, kmod, go, and the
# unpacked package linux-image-*-cloud-amd64 in $KERNEL (dpkg -x).
set -e
cd "$(dirname "$0")"
here=$PWD
: "${KERNEL:?set it to where linux-image-*-cloud-amd64 was unpacked}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

root=$work/root
mkdir -p $root/bin $root/etc/lvm $root/lib/modules
cp /bin/busybox $root/bin
cp init $root/init
cp lvm.conf $root/etc/lvm
cp -r scenario $root/scenario
CGO_ENABLED=0 go build -o $root/bin/pattern pattern.go
tool() {
	mkdir -p "$root/$(dirname $2)"
	cp -L "$1" "$root/$2"
	ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do
		mkdir -p "$root/$(dirname $lib)"
		cp -Ln "$lib" "$root/$lib"
	done
}
tool /sbin/lvm /sbin/lvm
tool /sbin/mdadm /sbin/mdadm
tool /sbin/dmsetup /sbin/dmsetup
for t in pvcreate vgcreate lvcreate lvconvert lvchange lvs pvs vgs vgchange pvmove lvextend vgreduce vgextend lvremove vgcfgbackup; do ln -s lvm $root/sbin/$t; done
modules=$(echo $KERNEL/lib/modules/*)
version=$(basename $modules)
mkdir -p $root/lib/modules/$version
(cd $modules/kernel && find drivers/md drivers/virtio drivers/block/virtio_blk.ko lib crypto arch/x86/crypto -name '*.ko' | cpio -pdm --quiet $root/lib/modules/$version/kernel)
cp $modules/modules.builtin $modules/modules.order $root/lib/modules/$version
depmod -b $root $version
(cd $root && find . | cpio -o -H newc --quiet | gzip -1) > $work/initrd

for s in ${*:-$(basename -s .sh scenario/*.sh)}; do
	# The first line of a scenario: its disks' sizes.
	set --
	rm -f $work/disk*
	i=0
	for size in $(sed -n '1s/^# disks: //p' scenario/$s.sh); do
		truncate -s $size $work/disk$(printf %02d $i)
		set -- "$@" -drive file=$work/disk$(printf %02d $i),format=raw,if=virtio,cache=unsafe
		i=$((i+1))
	done
	timeout 900 qemu-system-x86_64 -accel tcg -m 768 -display none -no-reboot -monitor none -serial file:$work/serial \
		-kernel $KERNEL/boot/vmlinuz-* -initrd $work/initrd -append "console=ttyS0 quiet panic=-1 scenario=$s" "$@"
	if ! tr -d '\r' < $work/serial | grep -q '^@@ done'; then
		cat $work/serial
		echo "$s failed"
		exit 1
	fi
	tr -d '\r' < $work/serial | grep -v '^@@' > $work/$s.log || true
	cp $work/$s.log ${LOGS:-$work}/$s.log 2>/dev/null || true
	{
		for d in $work/disk*; do echo "disk $(stat -c %s $d)"; done
		tr -d '\r' < $work/serial | sed -n 's/^@@ //p' | grep -v '^done'
	} > ../$s.txt
	cat $work/disk* | zstd -q -f -19 --long=27 -o ../$s.zst
	ls -l ../$s.zst
done
