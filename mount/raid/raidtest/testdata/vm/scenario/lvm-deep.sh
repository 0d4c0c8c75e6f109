# disks: 48M
# A thin volume whose tree of mappings has inner nodes, and a snapshot of it.
pvcreate -q "$@"
vgcreate -q -s 64k vg "$@"
lvcreate -y -qq -Zn --type thin-pool -L 40M --poolmetadatasize 2M -c 64k -n pool vg
lvcreate -y -qq -V 128M -T vg/pool -n deep
i=0
while [ $i -lt 550 ]; do
	pattern /dev/vg/deep deep $((i * 1237 % 2048 * 16 + i % 16)) 1
	i=$((i + 1))
done
lvcreate -y -qq -s -kn -n snap vg/deep
pattern /dev/vg/snap snap 400 40
pattern /dev/vg/snap snap 20000 40
blkdiscard -o $((1 << 20)) -l $((3 << 20)) /dev/vg/deep
for lv in deep snap; do digest vg/$lv /dev/vg/$lv; done
