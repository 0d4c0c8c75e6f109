// Package fat reads FAT12, FAT16 and FAT32 volumes with long names (VFAT): it
// implements filesys.FS over an io.ReaderAt and never writes.
//
//	fsys, err := fat.Open(volume, size, filesys.Options{})
//	ino, err := fsys.Lookup(fsys.Root(), "EFI")
//
// # How a volume is laid out
//
//	FAT12, FAT16   boot sector │ table │ table │ root directory │ clusters …
//	FAT32          boot sector, its copy │ table │ table │ clusters …
//
// The boot sector tells the sizes. The table has an entry of 12, 16 or 32 bits
// (28 of which count) for each cluster, which names the cluster that follows in
// the same file, or says that there is none. The tables are copies of each
// other. A directory is a row of entries of 32 bytes, one for each file: a name
// of 8 and 3 characters in the code page of the system that wrote it,
// attributes, times, the first cluster and the size. There are no inodes.
//
// A name that does not fit is stored as well in UTF-16, in up to 20 entries in
// front of the file's own. They bear the attributes of a volume label with
// others that make no sense together, so that systems that do not know them
// look past them, and each has a checksum of the short name: if a system of
// that kind renames the file, the long name no longer counts.
//
// # How it is shown
//
//   - Inode numbers are the place of the entry on the volume in units of 32
//     bytes, unique and stable for as long as the entry stays; the root is 1.
//   - Directories have mode 0755, files 0644, or 0444 with the read-only
//     attribute (which on directories means something else to Windows). Owner
//     is root. Link counts are 1, also those of directories: as in btrfs, it
//     means that they are not counted.
//   - Names are UTF-8. A long name is shown as it stands. UTF-16 that is not
//     well-formed (half a surrogate pair) becomes the three bytes that UTF-8
//     would have for such a half, so that names stay different. A short name is
//     decoded from code page 437, and its base and extension are lower case
//     where the flags of Windows NT say so.
//   - Lookup finds a name as it stands and, if there is none, one that differs
//     in case or whose short name is asked for. Of two entries of the same name
//     the first is found.
//   - Times are local time without a zone. They are taken for UTC, as by a
//     mount with tz=UTC. Access has a date only; creation is exact to 10 ms and
//     becomes the birth time; there is no change time but the modification's.
//     What is no date is the zero time, as are the times of a root without a
//     label.
//   - Free space is counted in the table, whatever FAT32's info sector says.
//   - The dirty and error flags of the table and of the boot sector are told in
//     Info.Warnings, as is a table that was not the first.
//
// # What holds
//
//   - Memory is bounded, whatever the volume: see package cluster, and in it the
//     chains, which are walked once, at the first use, and then searched.
//   - A chain in circles is refused whole. A chain that is too short for the
//     file's size gives the bytes that it has, and ErrCorrupt from there on. A
//     chain that is too long is none of a reader's business: systems allocate
//     ahead. Two files that share a cluster are not noticed.
//   - A directory that contains itself is refused, as is one that is
//     found in two directories.
//   - Entries with a name that no path could have (empty, with a slash or NUL)
//     are left out, and ReadDir ends with ErrCorrupt after all others.
//   - The first table is read, or the one that FAT32's flags call active. If its
//     first entry is not what a table begins with and that of a copy is, the
//     copy is read. Beyond that, tables are not compared.
//   - Long-name entries whose order or checksum is wrong are ignored, as by
//     other systems; the short name then is the name.
//
// # Sources
//
// Microsoft, "FAT32 File System Specification" 1.03 (boot sector and BPB, FAT
// data structure, directory structure, long directory entries), also as "FAT:
// General Overview of On-Disk Format"; ECMA-107 for FAT12 and FAT16. The lower-case
// flags and the dirty bit in the boot sector are Windows NT's and are described
// with Linux's vfat.
package fat
