# disks: 24M 24M 24M 24M 24M 24M
# Changes in progress, and what they leave.
pvcreate -q --metadatacopies 0 $1
pvcreate -q --metadatacopies 2 $2
pvcreate -q $3 $4 $5 $6
vgcreate -q -s 64k vg-a $1 $2 $3 $4 $5 $6
n="-y -qq -Wn -Zn"
# A move whose metadata is not finished.
lvcreate $n -L 1M --addtag a-tag -n moved-lv vg-a $1
lvextend -y -qq -L 1536k vg-a/moved-lv $2
pattern /dev/vg-a/moved-lv moved
pvmove -qq -b -i +600 -n moved-lv $1 $3
pattern /dev/vg-a/moved-lv moving 10 20
# A raid5 that got another stripe, and one that became a raid6.
lvcreate $n -L 512k --type raid5 -i2 -I 16k -n wider vg-a
pattern /dev/vg-a/wider wider
synced vg-a
lvconvert -y -qq --stripes 3 vg-a/wider
sleep 3
synced vg-a
lvchange -an vg-a/wider
lvchange -ay vg-a/wider
pattern /dev/vg-a/wider again 30 100
# A mirror that gets another leg, slowly.
lvcreate $n -L 2M --type raid1 -m1 -n rebuilt vg-a $2 $3
pattern /dev/vg-a/rebuilt rebuilt
synced vg-a
lvchange -qq --writemostly $2 vg-a/rebuilt
lvchange -qq --maxrecoveryrate 1k vg-a/rebuilt
lvconvert -y -qq -m+1 vg-a/rebuilt $4
pattern /dev/vg-a/rebuilt newer 100 100
# One without a leg.
lvcreate $n -L 512k --type raid5 -i2 -I 16k -n broken vg-a $4 $5 $6
pattern /dev/vg-a/broken broken
synced vg-a
sleep 12
vgcfgbackup -f /tmp/x vg-a; cat /tmp/x
for lv in moved-lv wider rebuilt broken; do digest vg-a/$lv /dev/vg-a/$lv; done
lvs -a -o name,segtype,attr,size,sync_percent,devices vg-a
dmsetup status
