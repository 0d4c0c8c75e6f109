# disks: 1M 2M 3M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M 2M
# One array of each level that stripes or mirrors, metadata 1.x.
make() { # NAME LEVEL DISKS OPTIONS…
	name=$1 level=$2 n=$3
	shift 3
	members=
	while [ $n -gt 0 ]; do members="$members $next"; n=$((n-1)); advance; done
	case "$*" in *=1.0*) ;; *) set -- --data-offset=64K "$@" ;; esac
	mdadm --create /dev/$name --run --homehost=host --name=$name --level=$level --raid-devices=$(echo $members | wc -w) "$@" $members
	arrays="$arrays $name"
}
queue="$*"
advance() { queue=${queue#* }; next=${queue%% *}; }
next=${queue%% *}
make md0 0 3 --chunk=16 --layout=alternate
make md1 1 2 --metadata=1.0 --bitmap=none
make md2 10 3 --layout=n2 --chunk=16 --bitmap=none
make md3 10 3 --layout=f2 --chunk=16 --bitmap=none
make md4 10 4 --layout=o2 --chunk=16 --bitmap=none
make md5 5 3 --chunk=16 --metadata=1.1 --bitmap=none
make md6 6 4 --chunk=16 --bitmap=none
ready
for a in $arrays; do pattern /dev/$a $a; done
sync
sleep 1
for a in $arrays; do digest $a /dev/$a; done
cat /proc/mdstat
mdadm -E "$@"
