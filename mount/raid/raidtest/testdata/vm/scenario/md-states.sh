# disks: 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M
# Arrays in every state but a good one.
new() { n=$1; shift; mdadm --create /dev/$n --quiet --run --homehost=host --name=$n --data-offset=64K "$@"; arrays="$arrays $n"; }
# A mirror of three: one member failed long ago, then was written on.
new md0 --level=1 --raid-devices=3 --bitmap=none $1 $2 $3
# raid5 without one, stopped cleanly.
new md1 --level=5 --raid-devices=3 --chunk=16 --bitmap=none $4 $5 $6
# raid6 without two.
new md2 --level=6 --raid-devices=5 --chunk=16 --bitmap=none $7 $8 $9 ${10} ${11}
# A mirror with a bitmap whose new member is half rebuilt.
new md3 --level=1 --raid-devices=2 --bitmap=internal ${12} ${13}
# raid10 without one.
new md4 --level=10 --raid-devices=4 --layout=n2 --chunk=16 --bitmap=none ${14} ${15} ${16} ${17}
# A mirror with a bad block log. (Not write-mostly as well: this kernel then reads bad blocks.)
new md5 --level=1 --raid-devices=2 --bitmap=none ${18} ${19}
ready
for a in $arrays; do pattern /dev/$a old; done
sync
mdadm -q /dev/md0 --fail $1; mdadm -q /dev/md0 --remove $1
mdadm -q /dev/md1 --fail $5
mdadm -q /dev/md2 --fail $7; mdadm -q /dev/md2 --fail $9
mdadm -q /dev/md3 --fail ${12}; mdadm -q /dev/md3 --remove ${12}
mdadm -q /dev/md4 --fail ${15}
mdadm --stop -q /dev/md5
for a in md0 md1 md2 md3 md4; do pattern /dev/$a $a; done
sync
# Sectors 200 to 263 of the first member of md5 are lost.
pattern ${18} lost 25 8
mdadm --assemble -q /dev/md5 ${18} ${19}
echo "200 64" > /sys/block/md5/md/dev-${18#/dev/}/bad_blocks
pattern /dev/md5 md5 3 1 # has the superblocks written
# The rebuild of md3 stops where it is told to.
pattern fill ${20}
echo 600 > /sys/block/md3/md/sync_max
mdadm -q /dev/md3 --add ${20}
while ! grep -q '^6[0-9][0-9] /' /sys/block/md3/md/sync_completed; do usleep 100000; cat /sys/block/md3/md/sync_completed; done
sync
sleep 1
for a in $arrays; do digest $a /dev/$a; done
cat /proc/mdstat
for a in md0 md1 md2 md4 md5; do mdadm --stop -q /dev/$a; done
mdadm -E "$@" || true
