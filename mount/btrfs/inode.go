package btrfs

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

const (
	inodeSize = 160

	inodeNoSums = 1 << 0 // the file's data has no checksums
)

// inode is a decoded and checked inode item.
type inode struct {
	t      *tree
	obj    uint64 // its number in t
	ino    uint64 // the number that the FS gives it
	size   int64
	nbytes uint64
	nlink  uint32
	mode   uint32
	flags  uint64
	raw    []byte
}

func (in *inode) isDir() bool     { return in.mode&filesys.TypeMask == filesys.TypeDir }
func (in *inode) isRegular() bool { return in.mode&filesys.TypeMask == filesys.TypeRegular }

// inode reads an inode that has a name.
func (f *FS) inode(ino uint64) (*inode, error) {
	t, obj, err := f.place(ino)
	if err != nil {
		return nil, err
	}
	in, err := t.inode(obj)
	if err != nil {
		return nil, wrap(err, "inode %d", ino)
	}
	if in.nlink == 0 { // deleted while it was open
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotExist)
	}
	in.ino = ino
	return in, nil
}

func (t *tree) inode(obj uint64) (*inode, error) {
	b, ok, err := t.get(key{obj, typeInode, 0})
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, filesys.ErrNotExist
	}
	if len(b) != inodeSize {
		return nil, corrupt("inode item of %d bytes", len(b))
	}
	in := &inode{
		t: t, obj: obj, raw: b, size: int64(le.Uint64(b[16:])), nbytes: le.Uint64(b[24:]),
		nlink: le.Uint32(b[40:]), mode: le.Uint32(b[52:]), flags: le.Uint64(b[64:]),
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeSocket, filesys.TypeSymlink, filesys.TypeRegular, filesys.TypeBlock,
		filesys.TypeDir, filesys.TypeChar, filesys.TypeFIFO:
	default:
		return nil, corrupt("mode %o", in.mode)
	}
	if in.size < 0 || in.nbytes > math.MaxInt64-(64<<10) {
		return nil, corrupt("size %d, %d bytes stored", uint64(in.size), in.nbytes)
	}
	return in, nil
}

// stamp decodes a time: seconds and nanoseconds.
func stamp(b []byte) time.Time {
	return time.Unix(int64(le.Uint64(b)), int64(le.Uint32(b[8:])%1e9)).UTC()
}

// Attr is what stat tells about an inode. Directories have one link, as Linux
// shows them, and entries that lead to no subvolume are empty directories.
func (f *FS) Attr(ino uint64) (filesys.Attr, error) {
	if f.isDead(ino) {
		return f.deadAttr(ino)
	}
	in, err := f.inode(ino)
	if err != nil {
		return filesys.Attr{}, err
	}
	b := in.raw
	sector := uint64(f.v.super.sector)
	a := filesys.Attr{
		Ino: ino, Mode: in.mode, Nlink: in.nlink, UID: le.Uint32(b[44:]), GID: le.Uint32(b[48:]), Size: in.size,
		Blocks: int64((in.nbytes + sector - 1) / sector * sector >> 9),
		Atime:  stamp(b[112:]), Ctime: stamp(b[124:]), Mtime: stamp(b[136:]), Btime: stamp(b[148:]),
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeChar, filesys.TypeBlock:
		dev := le.Uint64(b[56:])
		a.Rdev = unix.Mkdev(uint32(dev>>20), uint32(dev&(1<<20-1)))
	}
	return a, nil
}

// dir reads an inode that must be a directory.
func (f *FS) dir(ino uint64) (*inode, error) {
	in, err := f.inode(ino)
	if err == nil && !in.isDir() {
		err = fmt.Errorf("inode %d: %w", ino, filesys.ErrNotDir)
	}
	return in, err
}
