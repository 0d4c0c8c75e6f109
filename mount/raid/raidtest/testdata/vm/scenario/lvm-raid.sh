# disks: 24M 24M 24M 24M 24M 24M
# Every type of segment that stripes or mirrors.
pvcreate -q "$@"
vgcreate -q -s 64k vg "$@"
n="-y -qq -Wn -Zn"
lvcreate $n -L 512k -n linear vg
lvcreate $n -L 512k -i2 -I 16k -n stripe2 vg
lvcreate $n -L 576k -i3 -I 4k -n stripe3 vg
lvcreate $n -L 512k --type raid0 -i2 -I 32k -n raid0 vg
lvcreate $n -L 576k --type raid0_meta -i3 -I 8k -n raid0m vg
lvcreate $n -L 512k --type raid1 -m1 -n raid1 vg
lvcreate $n -L 512k --type raid1 -m2 -n raid1x3 vg
lvcreate $n -L 512k --type mirror -m1 --mirrorlog disk -n mirror vg
lvcreate $n -L 512k --type mirror -m2 --mirrorlog core -n mirrorc vg
lvcreate $n -L 512k --type raid10 -i2 -m1 -I 16k -n raid10 vg
lvcreate $n -L 576k --type raid4 -i3 -I 16k -n raid4 vg
for t in raid5_ls raid5_la raid5_rs raid5_ra raid5_n; do
	lvcreate $n -L 576k --type $t -i3 -I 8k -n $t vg
done
for t in raid6_zr raid6_nr raid6_nc raid6_ls_6 raid6_la_6 raid6_rs_6 raid6_ra_6 raid6_n_6; do
	lvcreate $n -L 576k --type $t -i3 -I 8k -n $t vg || echo "no $t"
done
lvextend -y -qq -L 1M vg/linear $4
lvextend -y -qq -L 768k vg/stripe2
lvchange -qq --writemostly $(lvs --noheadings -a -o devices vg/raid1x3_rimage_0 2>/dev/null | sed 's/(.*//') vg/raid1x3 2>/dev/null || true
for lv in $(lvs --noheadings -o lv_name vg); do
	pattern /dev/vg/$lv $lv
done
synced vg
sleep 14 # until the write-intent bitmaps are clean
for lv in $(lvs --noheadings -o lv_name vg); do
	digest vg/$lv /dev/vg/$lv
done
lvs -a -o name,segtype,stripes,stripesize,size,devices vg
vgcfgbackup -f /tmp/x vg; cat /tmp/x
