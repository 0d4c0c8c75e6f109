# disks: 24M 24M
# A thin pool whose data lie on two disks, with snapshots, an external origin and
# volumes that are mostly holes.
pvcreate -q "$@"
vgcreate -q -s 64k vg "$@"
n="-y -qq -Wn"
lvcreate -y -qq -Zn --type thin-pool -L 6M --poolmetadatasize 2M -c 64k -i2 -I 16k -n pool vg
lvcreate -y -qq -V 20M -T vg/pool -n thin1
lvcreate -y -qq -V 2T -T vg/pool -n huge
pattern /dev/vg/thin1 thin1 0 100
pattern /dev/vg/thin1 thin1 1001 30
pattern /dev/vg/huge huge 200000000 40
pattern /dev/vg/huge huge 3 3
sync
lvcreate -y -qq -s -kn -n snap1 vg/thin1
pattern /dev/vg/thin1 second 50 60
pattern /dev/vg/snap1 snap 10 5
lvcreate -y -qq -s -kn -n snap2 vg/snap1
pattern /dev/vg/snap2 snap2 1010 3
pattern /dev/vg/snap1 again 1011 1
lvcreate $n -Zn -L 320k -n origin vg
pattern /dev/vg/origin origin
lvchange -an vg/origin
lvchange -pr vg/origin
lvcreate -y -qq -s --thinpool vg/pool -kn -n ext vg/origin
pattern /dev/vg/ext ext 20 4
lvextend -y -qq -L 640k vg/ext
pattern /dev/vg/ext ext 150 2
lvchange -an vg/huge
lvchange -ay vg/origin
for lv in thin1 snap1 snap2 origin ext; do digest vg/$lv /dev/vg/$lv; done
vgcfgbackup -f /tmp/x vg; cat /tmp/x
