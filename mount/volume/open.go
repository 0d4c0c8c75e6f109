package volume

import (
	"io"

	"cairn/mount/blockdev"
	"cairn/mount/btrfs"
	"cairn/mount/exfat"
	"cairn/mount/ext4"
	"cairn/mount/fat"
	"cairn/mount/filesys"
	"cairn/mount/ntfs"
	"cairn/mount/xfs"
)

// reader opens a file system on the devices that it lies on, all but btrfs on
// exactly one.
type reader func(devs []blockdev.Device, o filesys.Options) (filesys.FS, error)

// one is a reader of file systems that lie on one device. It also keeps a nil
// pointer from becoming an FS that is not nil.
func one[FS filesys.FS](open func(r io.ReaderAt, size int64, o filesys.Options) (FS, error)) reader {
	return func(devs []blockdev.Device, o filesys.Options) (filesys.FS, error) {
		fs, err := open(devs[0], devs[0].Size(), o)
		if err != nil {
			return nil, err
		}
		return fs, nil
	}
}

// readers are the file systems that Cairn can read. A new one adds its lines
// here and nothing elsewhere.
var readers = map[Kind]reader{
	Ext2:  one(ext4.Open),
	Ext3:  one(ext4.Open),
	Ext4:  one(ext4.Open),
	XFS:   one(xfs.Open),
	NTFS:  one(ntfs.Open),
	ExFAT: one(exfat.Open),
	FAT12: one(fat.Open),
	FAT16: one(fat.Open),
	FAT32: one(fat.Open),
	Btrfs: openBtrfs,
}

func openBtrfs(devs []blockdev.Device, o filesys.Options) (filesys.FS, error) {
	fs, err := btrfsOn(devs, o)
	if err != nil {
		return nil, err
	}
	return fs, nil
}

func btrfsOn(devs []blockdev.Device, o filesys.Options) (*btrfs.FS, error) {
	list := make([]btrfs.Device, len(devs))
	for i, d := range devs {
		list[i] = d
	}
	return btrfs.Open(list, o)
}

// CanRead says whether OpenFS has a reader for the kind.
func CanRead(k Kind) bool { return readers[k] != nil }

// OpenFS opens the file system of a kind that Detect found, on the device that
// it was found on; only btrfs may have further devices.
//
// A volume that cannot hold files, or holds nothing recognisable, gives
// filesys.ErrWrongType; a format that is known but has no reader gives
// filesys.ErrUnsupported. The message names what was found.
func OpenFS(devs []blockdev.Device, k Kind, o filesys.Options) (filesys.FS, error) {
	open := readers[k]
	switch {
	case open != nil:
		return open(devs, o)
	case k.Class() == ClassNothing:
		return nil, &openError{"the volume holds " + k.Title(), filesys.ErrWrongType}
	default:
		return nil, &openError{k.Title() + " is recognised but cannot be read", filesys.ErrUnsupported}
	}
}

// openError says in a whole sentence what its sentinel means here, without
// repeating the sentinel's own words.
type openError struct {
	text     string
	sentinel error
}

func (e *openError) Error() string { return e.text }
func (e *openError) Unwrap() error { return e.sentinel }
