package volume

// Kind names what a volume holds, as it stands in point.json and scripts.
type Kind string

// The kinds that Detect tells apart.
const (
	Unknown Kind = "unknown"
	Empty   Kind = "empty" // zeros where a file system would begin and end

	Ext2     Kind = "ext2"
	Ext3     Kind = "ext3"
	Ext4     Kind = "ext4"
	XFS      Kind = "xfs"
	Btrfs    Kind = "btrfs"
	NTFS     Kind = "ntfs"
	ReFS     Kind = "refs"
	FAT12    Kind = "fat12"
	FAT16    Kind = "fat16"
	FAT32    Kind = "fat32"
	ExFAT    Kind = "exfat"
	ISO9660  Kind = "iso9660"
	SquashFS Kind = "squashfs"
	EROFS    Kind = "erofs"
	F2FS     Kind = "f2fs"
	HFSPlus  Kind = "hfsplus"
	APFS     Kind = "apfs"

	LVM2      Kind = "lvm2"
	MDRaid    Kind = "mdraid"
	LUKS      Kind = "luks"
	BitLocker Kind = "bitlocker"
	ZFS       Kind = "zfs"
	Journal   Kind = "ext-journal" // an ext3/4 journal on a device of its own

	Swap          Kind = "swap"
	Extended      Kind = "extended"      // the container of an MBR's logical partitions
	Unpartitioned Kind = "unpartitioned" // a partition table that lists nothing
)

// Class says what a kind means for somebody who looks for files.
type Class int

const (
	// ClassNothing: no files are to be expected (empty, swap, a container of
	// logical partitions) or nobody can tell (unknown).
	ClassNothing Class = iota
	// ClassFileSystem: files, once a reader for the format exists.
	ClassFileSystem
	// ClassContainer: a volume manager or encryption whose inside may hold
	// file systems.
	ClassContainer
)

var kinds = map[Kind]struct {
	title string
	class Class
}{
	Unknown:       {"nothing recognisable", ClassNothing},
	Empty:         {"only zeros", ClassNothing},
	Ext2:          {"ext2", ClassFileSystem},
	Ext3:          {"ext3", ClassFileSystem},
	Ext4:          {"ext4", ClassFileSystem},
	XFS:           {"xfs", ClassFileSystem},
	Btrfs:         {"btrfs", ClassFileSystem},
	NTFS:          {"ntfs", ClassFileSystem},
	ReFS:          {"refs", ClassFileSystem},
	FAT12:         {"fat12", ClassFileSystem},
	FAT16:         {"fat16", ClassFileSystem},
	FAT32:         {"fat32", ClassFileSystem},
	ExFAT:         {"exfat", ClassFileSystem},
	ISO9660:       {"iso9660", ClassFileSystem},
	SquashFS:      {"squashfs", ClassFileSystem},
	EROFS:         {"erofs", ClassFileSystem},
	F2FS:          {"f2fs", ClassFileSystem},
	HFSPlus:       {"hfs+", ClassFileSystem},
	APFS:          {"apfs", ClassFileSystem},
	LVM2:          {"an lvm2 physical volume", ClassContainer},
	MDRaid:        {"a member of a Linux software raid", ClassContainer},
	LUKS:          {"a luks encrypted volume", ClassContainer},
	BitLocker:     {"a bitlocker encrypted volume", ClassContainer},
	ZFS:           {"a member of a zfs pool", ClassContainer},
	Journal:       {"the external journal of an ext file system", ClassNothing},
	Swap:          {"swap space", ClassNothing},
	Extended:      {"an extended partition, the container of logical ones", ClassNothing},
	Unpartitioned: {"a partition table without partitions", ClassNothing},
}

// Title is the kind in words for a person, fit for the middle of a sentence.
func (k Kind) Title() string {
	if t := kinds[k].title; t != "" {
		return t
	}
	return string(k)
}

// Class tells whether files may be expected.
func (k Kind) Class() Class { return kinds[k].class }

// Content is what a volume holds, judged by its magic numbers alone: a damaged
// file system still has a Kind.
type Content struct {
	Kind  Kind
	Label string // the file system's own label, made printable
	UUID  string // in the form the guest's tools print
}
