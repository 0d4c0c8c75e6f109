package ntfs

import (
	"fmt"
	"time"

	"cairn/mount/filesys"
)

// File attributes, in $STANDARD_INFORMATION.
const (
	fileHidden       = 0x2
	fileSystem       = 0x4
	fileReparse      = 0x400
	fileOffline      = 0x1000
	fileRecallOpen   = 0x40000 // of placeholders; of others, that they have extended attributes
	fileRecallAccess = 0x400000
)

// inode is a file or directory: its base record and what follows from it.
type inode struct {
	fs    *FS
	num   uint64
	base  *record
	list  []listEntry // nil without an attribute list
	std   []byte      // $STANDARD_INFORMATION
	attrs uint32      // file attributes

	mode    uint32
	uid     uint32
	gid     uint32
	rdev    uint64
	reparse *reparse // nil if it is no reparse point
	target  *string  // of symlinks whose target stands as it is
	data    *stream  // unnamed; nil without one
	wof     *wof     // the content of system-compressed files
	// refused says why the content cannot be read, where that is known.
	refused error
}

func (in *inode) isDir() bool { return in.mode&filesys.TypeMask == filesys.TypeDir }

// inode reads an inode. Its number is that of its base record. A number with a
// sequence in its upper 16 bits stands for a directory entry of a file that is
// gone, and gives an error. The MFT itself, inode 0, is shown to nobody: the
// number is none elsewhere.
func (f *FS) inode(ino uint64) (*inode, error) {
	if ino == inoMFT {
		return nil, fmt.Errorf("inode 0: %w", filesys.ErrNotExist)
	}
	if refSeq(ino) != 0 {
		if _, err := f.resolve(ino); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("inode %#x: %w", ino, filesys.ErrNotExist)
	}
	k := cacheKey{kind: kindInode, a: ino}
	if in, ok := f.cache.get(k).(*inode); ok {
		return in, nil
	}
	rec, err := f.record(ino)
	if err != nil {
		return nil, err
	}
	if rec.flags&recordInUse == 0 || rec.base != 0 {
		return nil, fmt.Errorf("MFT record %d is not in use as an inode: %w", ino, filesys.ErrNotExist)
	}
	in := &inode{fs: f, num: ino, base: rec}
	if l := rec.find(attrList, ""); l != nil {
		if in.list, err = f.listEntries(rec, l); err != nil {
			return nil, err
		}
	}
	if err := in.load(); err != nil {
		return nil, err
	}
	f.cache.put(k, in, in.cost())
	return in, nil
}

// cost is about what an inode takes in memory.
func (in *inode) cost() int {
	n := 400 + in.base.cost(1<<in.fs.b.recordBits)
	for i := range in.list {
		n += 160 + len(in.list[i].name)
	}
	if in.reparse != nil {
		n += cap(in.reparse.raw)
	}
	if in.target != nil {
		n += len(*in.target)
	}
	return n
}

// resolve gives the number of the inode that a reference names, and ErrCorrupt
// if its record is by now another file's.
func (f *FS) resolve(ref uint64) (uint64, error) {
	num := refNum(ref)
	rec, err := f.record(num)
	if err != nil {
		return 0, asCorrupt(err)
	}
	if rec.flags&recordInUse == 0 || rec.base != 0 || rec.seq != refSeq(ref) && refSeq(ref) != 0 {
		return 0, corrupt("MFT record %d is not the file that it was (number %d of its uses)", num, refSeq(ref))
	}
	return num, nil
}

// load finds out what kind of file it is.
func (in *inode) load() error {
	s, err := in.stream(attrStandard, "")
	if err != nil {
		return err
	}
	if s != nil {
		if s.first.nonresident || len(s.first.value) < 36 {
			return corrupt("inode %d: its standard information is too short", in.num)
		}
		in.std = s.first.value
		in.attrs = le.Uint32(in.std[32:])
	} else if in.num >= firstUser {
		return corrupt("inode %d: no standard information", in.num)
	}
	if in.base.flags&recordIsDir != 0 {
		in.mode = filesys.TypeDir | 0o777
	} else {
		in.mode = filesys.TypeRegular | 0o777
		if in.data, err = in.stream(attrData, ""); err != nil {
			return err
		}
		switch {
		case in.data != nil:
		case in.base.flags&recordIsView != 0:
			in.refused = unsupported("inode %d: a file of the file system's own, which has indexes and no content", in.num)
		default:
			in.refused = corrupt("inode %d has no data attribute", in.num)
		}
	}
	// A reparse point counts even without its flag: what it stands for may be
	// all the content that there is.
	point, err := in.stream(attrReparse, "")
	if err != nil {
		return err
	}
	if point != nil || in.attrs&fileReparse != 0 {
		if err := in.loadReparse(point); err != nil {
			return err
		}
	} else if in.attrs&fileSystem != 0 && in.num >= firstUser && in.data != nil {
		if err := in.loadInterix(); err != nil {
			return err
		}
	}
	if in.attrs&fileRecallAccess != 0 && in.refused == nil {
		in.refused = unsupported("inode %d: its content is in the cloud (recall on access)", in.num)
	}
	return in.loadEA()
}

// corruptOr is err if there is one, and else ErrCorrupt with a message.
func corruptOr(err error, format string, args ...any) error {
	if err != nil {
		return err
	}
	return corrupt(format, args...)
}

// Attr is what stat tells about an inode.
func (f *FS) Attr(ino uint64) (filesys.Attr, error) {
	in, err := f.inode(ino)
	if err != nil {
		return filesys.Attr{}, err
	}
	a := filesys.Attr{Ino: ino, Mode: in.mode, UID: in.uid, GID: in.gid, Rdev: in.rdev}
	if in.std != nil {
		a.Btime, a.Mtime = ntTime(in.std[0:]), ntTime(in.std[8:])
		a.Ctime, a.Atime = ntTime(in.std[16:]), ntTime(in.std[24:])
	}
	if a.Nlink, err = in.nlink(); err != nil {
		return filesys.Attr{}, err
	}
	if in.data != nil {
		a.Size, a.Blocks = in.data.Size(), in.data.first.sectors()
	}
	switch in.mode & filesys.TypeMask {
	case filesys.TypeDir:
		s, err := in.stream(attrIndexAlloc, nameIndex)
		if err != nil {
			return filesys.Attr{}, err
		}
		if s != nil {
			a.Size, a.Blocks = s.first.length(), s.first.sectors()
		}
	case filesys.TypeSymlink:
		target, err := in.readlink()
		if err != nil {
			return filesys.Attr{}, err
		}
		a.Size = int64(len(target))
	case filesys.TypeRegular:
		if in.wof != nil {
			a.Size, a.Blocks = in.wof.Size(), in.wof.packed.first.sectors()
		}
	}
	return a, nil
}

// nlink counts the names of an inode. The record's own count has the DOS names
// as well, which are the same entry to everyone but DOS.
func (in *inode) nlink() (uint32, error) {
	if in.base.flags&recordIsDir != 0 && in.mode&filesys.TypeMask == filesys.TypeDir {
		return 1, nil // find(1) takes this as "not known"
	}
	n := uint32(in.base.links)
	err := in.eachName(func(p fileName) bool {
		if p.space == spaceDOS && n > 1 {
			n--
		}
		return true
	})
	return n, err
}

// ntTime decodes a time: tenths of microseconds since 1601.
func ntTime(p []byte) time.Time {
	t := int64(le.Uint64(p))
	const unix = 116444736000000000
	sec, rest := t/1e7, t%1e7
	return time.Unix(sec-unix/1e7, rest*100)
}
