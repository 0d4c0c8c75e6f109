# disks: 24M 24M
# Old-style snapshots, a cache in each mode, and metadata in two places.
pvcreate -q --metadatacopies 2 "$@"
vgcreate -q -s 64k vg "$@"
n="-y -qq -Wn -Zn"
lvcreate $n -L 1M -n origin vg
pattern /dev/vg/origin origin
lvcreate -y -qq -s -c 4k -L 512k -n snap vg/origin
lvcreate -y -qq -s -c 16k -L 1M -n snap16 vg/origin
pattern /dev/vg/origin changed 10 7
pattern /dev/vg/origin changed 200 20
pattern /dev/vg/snap own 3 2
pattern /dev/vg/snap own 15 5
pattern /dev/vg/snap16 own16 100 2
for lv in origin snap snap16; do digest vg/$lv /dev/vg/$lv; done
lvcreate $n -L 512k -n origin2 vg
lvcreate -y -qq -s -c 4k -L 64k -n full vg/origin2
pattern /dev/vg/origin2 changed
digest vg/origin2 /dev/vg/origin2
lvcreate -y -qq --type snapshot -c 4k -L 128k --virtualsize 1M -n virtual vg
pattern /dev/vg/virtual virtual 100 4
digest vg/virtual /dev/vg/virtual
lvcreate $n -L 512k -n merging vg
pattern /dev/vg/merging merge
lvcreate -y -qq -s -c 8k -L 512k -n back vg/merging
pattern /dev/vg/merging lost 5 50
# A merge that has begun, stopped in the middle by the end of the machine.
lvchange -an vg/merging
lvconvert -y -qq --merge vg/back
lvchange -ay --poll n vg/merging
digest vg/merging /dev/vg/merging
lvs -a vg
vgcfgbackup -f /tmp/x vg; cat /tmp/x
