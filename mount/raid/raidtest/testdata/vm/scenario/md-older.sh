# disks: 2M 3M 2M 2M 2M 2M 2M 2M 2M 2M 1M 2M 3M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M
# Levels and formats that are rarer: linear, raid4, metadata 0.90, other layouts.
make() { # NAME LEVEL DISKS OPTIONS…
	name=$1 level=$2 n=$3
	shift 3
	members=
	while [ $n -gt 0 ]; do members="$members $next"; n=$((n-1)); advance; done
	case "$*" in *0.90*) ;; *) set -- --data-offset=64K "$@" ;; esac
	mdadm --create /dev/$name --run --level=$level --raid-devices=$(echo $members | wc -w) "$@" $members
	arrays="$arrays $name"
}
queue="$*"
advance() { queue=${queue#* }; next=${queue%% *}; }
next=${queue%% *}
make md0 linear 2
make md1 4 3 --chunk=16 --bitmap=none
make md2 1 2 --metadata=0.90 --bitmap=none
make md3 5 3 --metadata=0.90 --layout=ra --chunk=16 --bitmap=none
make md4 0 3 --layout=original --chunk=16
make md5 10 5 --layout=f2 --chunk=16 --bitmap=none
make md6 6 5 --layout=left-symmetric-6 --chunk=16 --bitmap=none
ready
for a in $arrays; do pattern /dev/$a $a; done
sync
sleep 1
for a in $arrays; do digest $a /dev/$a; done
cat /proc/mdstat
mdadm -E "$@"
