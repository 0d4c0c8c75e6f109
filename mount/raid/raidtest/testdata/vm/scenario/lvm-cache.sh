# disks: 40M 40M
# Caches in each mode, with pools and with single volumes, and a write cache.
pvcreate -q "$@"
vgcreate -q -s 64k vg "$@"
n="-y -qq -Wn -Zn"
cache() { # NAME MODE FORMAT
	lvcreate $n -L 1M -n $1 vg $slow
	pattern /dev/vg/$1 old
	lvcreate -y -qq --type cache-pool -L 512k --poolmetadatasize 2M -c 32k --cachemetadataformat $3 -n $1pool vg $fast
	lvconvert -y -qq --type cache --cachepool vg/$1pool --cachemode $2 --cachepolicy smq vg/$1
}
slow=$1 fast=$2
cache through writethrough 2
cache back writeback 2
cache back1 writeback 1
lvcreate $n -L 1M -n volume vg $slow
pattern /dev/vg/volume old
lvcreate $n -L 3M -n fastvol vg $fast
lvconvert -y -qq --type cache --cachevol vg/fastvol --cachemode writeback -c 32k vg/volume
for i in 1 2 3 4 5 6 7 8 9 10; do
	for lv in through back back1 volume; do
		pattern /dev/vg/$lv $lv$i 8 40
		pattern /dev/vg/$lv $lv$i 100 40
		dd if=/dev/vg/$lv of=/dev/null bs=32k skip=2 count=6 iflag=direct 2>/dev/null
	done
done
sync
sleep 2
for lv in through back back1 volume; do digest vg/$lv /dev/vg/$lv; done
# One that was shut down in good order, with dirty blocks.
lvchange -an vg/back1
lvs -a -o+cache_mode,cache_dirty_blocks,cache_used_blocks vg
vgcfgbackup -f /tmp/x vg; cat /tmp/x
dmsetup status
