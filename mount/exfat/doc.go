// Package exfat reads exFAT volumes: it implements filesys.FS over an
// io.ReaderAt and never writes.
//
//	fsys, err := exfat.Open(volume, size, filesys.Options{})
//	ino, err := fsys.Lookup(fsys.Root(), "DCIM")
//
// # How a volume is laid out
//
//	boot region (12 sectors) │ its copy │ table (│ a second one) │ clusters …
//
// The boot region tells the sizes and has a checksum in its last sector. What
// is a file's is found as in FAT (package mount/fat/cluster), but for files that
// lie in one piece: their entry says so, and the table is not used. Which
// clusters are taken is kept in a bitmap, a file of its own, and which letters
// are each other's upper case in another.
//
// A directory is a row of entries of 32 bytes. Those of a file stand behind
// each other and share a checksum of 16 bits:
//
//	file (0x85)    attributes, times with their offset from UTC
//	stream (0xC0)  first cluster, size, how much of it was ever written
//	name (0xC1)    15 UTF-16 units each, 17 times at most
//
// The bit 0x80 of the type says that an entry is in use; a type of 0 ends the
// directory. The root has entries of the volume besides: bitmap (0x81), upper
// case (0x82), label (0x83).
//
// # How it is shown
//
//   - Inode numbers are the place of the file's first entry on the volume in
//     units of 32 bytes, unique and stable for as long as it stays; the root is 1.
//   - Directories have mode 0755, files 0644, or 0444 with the read-only
//     attribute. Owner is root. Link counts are 1, also those of directories:
//     as in btrfs, it means that they are not counted.
//   - Names are UTF-8; half a surrogate pair becomes the three bytes that UTF-8
//     would have for it, so that names stay different. Lookup finds a name as it
//     stands and, if there is none, one that differs in case as the volume's own
//     table sees it.
//   - Times are exact to 10 ms, of access to 2 s, and brought to UTC where their
//     offset is recorded; otherwise local time is taken for UTC. Creation becomes
//     the birth time, and the change time is the modification's. What is no date
//     is the zero time, as are all times of the root.
//   - Bytes behind the valid length of a file were never written: they are a
//     hole and read as zeros.
//   - Free space is counted in the bitmap.
//   - Flags of the boot sector (dirty, failed media) are told in Info.Warnings,
//     as is the use of the boot region's copy. The table that the flags call
//     active is read, and the bitmap that belongs to it.
//
// # What holds
//
//   - Memory is bounded, whatever the volume; see package cluster.
//   - The checksums of the boot region, of each file's entries and of the
//     upper-case table are verified. Entries that do not agree are left out:
//     ReadDir gives all others, and ends with ErrCorrupt. A name that is then
//     not found is ErrCorrupt too: it may be the one that was lost.
//   - A chain in circles is refused whole, one that is too short for its file
//     gives the bytes that it has, and ErrCorrupt from there on. A directory
//     that is cut short, contains itself or is found in two directories is refused.
//   - The table and the bitmap have no checksums: what a damaged number in them
//     points to cannot be told from the truth.
//   - Entries of types that are not known are passed over if the format calls
//     them benign, and are ErrUnsupported, with the type, if it calls them
//     critical.
//
// # Source
//
// Microsoft, "exFAT file system specification" (learn.microsoft.com, revision
// 1.00): sections 3 (boot regions), 4 (tables), 5 (data region), 6 and 7
// (directory entries). Offsets in this package are those of its tables.
//
// The package imports mount/fat/cluster and filesys, and nothing else of Cairn.
package exfat
