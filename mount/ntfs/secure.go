package ntfs

import (
	"cmp"
	"errors"
	"fmt"

	"cairn/mount/filesys"
)

const (
	// maxDescriptor bounds a security descriptor, whose lists have 64 KiB each.
	maxDescriptor = 256 << 10
	// sdsHeader precedes each descriptor in $SDS: hash and number (32 bits
	// each), offset (64 bits) and length of both together (32 bits).
	sdsHeader = 20
)

// securityDescriptor gives the descriptor of an inode, self-relative: since NTFS
// 3.0 the files share those of $Secure, whose index $SII tells where in the
// stream $SDS the one with a number is; earlier, and for the file system's own
// files, it is an attribute.
func (in *inode) securityDescriptor() ([]byte, error) {
	if len(in.std) >= 56 {
		if id := le.Uint32(in.std[52:]); id != 0 {
			return in.fs.sharedDescriptor(id)
		}
	}
	s, err := in.stream(attrSecurity, "")
	if err != nil || s == nil {
		return nil, err
	}
	return s.readAll(maxDescriptor)
}

func (f *FS) sharedDescriptor(id uint32) ([]byte, error) {
	in, err := f.inode(inoSecure)
	if err != nil {
		return nil, fmt.Errorf("$Secure: %w", asCorrupt(err))
	}
	x, err := f.index(in, utf16le("$SII"))
	if err != nil {
		return nil, fmt.Errorf("$Secure: %w", err)
	}
	var header []byte
	if err := x.search(func(key []byte) (int, error) {
		if len(key) < 4 {
			return 0, corrupt("$Secure: a key of %d bytes", len(key))
		}
		return cmp.Compare(le.Uint32(key), id), nil
	}, func(e entry) bool {
		header = e.data
		return false
	}); err != nil {
		return nil, err
	}
	if len(header) < sdsHeader {
		return nil, corrupt("$Secure has no descriptor %d", id)
	}
	off, n := le.Uint64(header[8:]), le.Uint32(header[16:])
	if n < sdsHeader || n > maxDescriptor || off > 1<<40 {
		return nil, corrupt("$Secure: descriptor %d has %d bytes at %d", id, n, off)
	}
	s, err := in.stream(attrData, utf16le("$SDS"))
	if err != nil || s == nil {
		return nil, corruptOr(err, "$Secure has no descriptors")
	}
	p := make([]byte, n)
	if got, err := s.ReadAt(p, int64(off)); got < len(p) {
		return nil, fmt.Errorf("$Secure: descriptor %d: %w", id, asCorrupt(err))
	}
	if le.Uint32(p[4:]) != id {
		return nil, corrupt("$Secure: descriptor %d is number %d", id, le.Uint32(p[4:]))
	}
	return p[sdsHeader:], nil
}

// inoExtend is the directory with the file system's later files.
const inoExtend = 11

// objectID gives an object's GUID from its attribute and, from the index that all
// of the volume are in, those of its birth: of the volume, the object and the
// domain. It is nil without one.
func (in *inode) objectID() ([]byte, error) {
	s, err := in.stream(attrObjectID, "")
	if err != nil || s == nil {
		return nil, err
	}
	v, err := s.readAll(256)
	if err != nil || len(v) != 16 {
		return v, err
	}
	ino, err := in.fs.Lookup(inoExtend, "$ObjId")
	if errors.Is(err, filesys.ErrNotExist) || errors.Is(err, filesys.ErrNotDir) {
		return v, nil // NTFS before 3.0
	}
	if err != nil {
		return nil, err
	}
	all, err := in.fs.inode(ino)
	if err != nil {
		return nil, err
	}
	x, err := in.fs.index(all, utf16le("$O"))
	if err != nil {
		return nil, fmt.Errorf("$ObjId: %w", err)
	}
	err = x.search(func(key []byte) (int, error) {
		if len(key) < 16 {
			return 0, corrupt("$ObjId: a key of %d bytes", len(key))
		}
		// Keys are four numbers each.
		for i := 0; i < 16; i += 4 {
			if c := cmp.Compare(le.Uint32(key[i:]), le.Uint32(v[i:])); c != 0 {
				return c, nil
			}
		}
		return 0, nil
	}, func(e entry) bool {
		if len(e.data) >= 8+48 {
			v = append(v[:16:16], e.data[8:8+48]...)
		}
		return false
	})
	return v, err
}
