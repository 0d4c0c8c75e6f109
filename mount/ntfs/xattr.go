package ntfs

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"cairn/mount/filesys"
)

const (
	userPrefix = "user."
	// maxXattr is the largest value that Linux hands out.
	maxXattr = 64 << 10
)

// wofStream is where system compression keeps content. It is the file's content,
// not an attribute of its own.
var wofStream = utf16le("WofCompressedData")

// Xattrs lists the named data streams of an inode, as "user." and their name,
// as ntfs-3g does with streams_interface=xattr. What Xattr tells beyond that is
// not listed there either.
func (f *FS) Xattrs(ino uint64) ([]string, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	if ino < firstUser && ino != inoRoot {
		return nil, nil
	}
	var names []string
	add := func(typ uint32, name string, low uint64) {
		if typ != attrData || name == "" || low != 0 || in.wof != nil && name == wofStream {
			return
		}
		if shown := decodeName(name); !strings.ContainsRune(shown, 0) {
			names = append(names, userPrefix+shown)
		}
	}
	if in.list == nil {
		for i := range in.base.attrs {
			a := &in.base.attrs[i]
			add(a.typ, a.name, a.low)
		}
	}
	for _, e := range in.list {
		add(e.typ, e.name, e.low)
	}
	return names, nil
}

// Xattr gives a named stream, or what Windows knows of the file, under the
// names and in the form of ntfs-3g:
//
//	system.ntfs_acl           the security descriptor, self-relative
//	system.ntfs_attrib        the file attributes, 32 bits
//	system.ntfs_times         creation, modification, access, change; 64 bits each
//	system.ntfs_crtime        creation
//	system.ntfs_reparse_data  a reparse point with its header
//	system.ntfs_object_id     the object's GUID, and the three of its birth
//	system.ntfs_dos_name      the 8.3 name
//	system.ntfs_ea            OS/2's extended attributes, packed
//
// Numbers are little-endian, and big-endian in ntfs_attrib_be, ntfs_times_be and
// ntfs_crtime_be. A stream larger than an attribute of Linux can be is
// ErrUnsupported.
func (f *FS) Xattr(ino uint64, name string) ([]byte, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	var v []byte
	if short, ok := strings.CutPrefix(name, userPrefix); ok && (ino >= firstUser || ino == inoRoot) {
		v, err = in.namedStream(short)
	} else if short, ok := strings.CutPrefix(name, "system."); ok {
		v, err = in.systemXattr(short)
	}
	if err != nil {
		return nil, fmt.Errorf("attribute %q: %w", name, err)
	}
	if v == nil {
		return nil, fmt.Errorf("inode %d: %q: %w", ino, name, filesys.ErrNoXattr)
	}
	return v, nil
}

func (in *inode) namedStream(name string) ([]byte, error) {
	raw, ok := encodeName(name)
	if !ok || raw == "" || in.wof != nil && raw == wofStream {
		return nil, nil
	}
	s, err := in.stream(attrData, raw)
	if err != nil || s == nil {
		return nil, err
	}
	if s.Size() > maxXattr {
		return nil, unsupported("inode %d: a named stream of %d bytes, more than an extended attribute can have", in.num, s.Size())
	}
	v, err := s.readAll(maxXattr)
	if err == nil && v == nil {
		v = []byte{}
	}
	return v, err
}

// systemXattr gives nil for what there is not.
func (in *inode) systemXattr(name string) ([]byte, error) {
	switch name {
	case "ntfs_acl":
		return in.securityDescriptor()
	case "ntfs_attrib", "ntfs_attrib_be":
		attrs := in.attrs
		if in.base.flags&recordIsDir != 0 {
			attrs |= 0x10 // what Windows shows of a directory
		}
		if attrs == 0 {
			attrs = 0x80 // "normal"
		}
		v := le.AppendUint32(nil, attrs)
		if name == "ntfs_attrib_be" {
			slices.Reverse(v)
		}
		return v, nil
	case "ntfs_times", "ntfs_times_be", "ntfs_crtime", "ntfs_crtime_be":
		if in.std == nil {
			return nil, nil
		}
		// On disk change comes before access.
		order := []int{0, 8, 24, 16}
		if strings.HasPrefix(name, "ntfs_crtime") {
			order = order[:1]
		}
		var v []byte
		for _, off := range order {
			t := le.Uint64(in.std[off:])
			if strings.HasSuffix(name, "_be") {
				v = binary.BigEndian.AppendUint64(v, t)
			} else {
				v = le.AppendUint64(v, t)
			}
		}
		return v, nil
	case "ntfs_reparse_data":
		if in.reparse == nil {
			return nil, nil
		}
		return slices.Clone(in.reparse.raw), nil
	case "ntfs_object_id":
		return in.objectID()
	case "ntfs_dos_name":
		return in.dosName()
	case "ntfs_ea":
		return in.rawEA()
	}
	return nil, nil
}

// dosName is the 8.3 name, which has no small letters; nil without one.
func (in *inode) dosName() (v []byte, err error) {
	if in.num == inoRoot {
		return nil, nil
	}
	table, err := in.fs.upcase.get(in.fs.loadUpcase)
	if err != nil {
		return nil, err
	}
	err = in.eachName(func(n fileName) bool {
		if n.space == spaceDOS || n.space == spaceBoth {
			v = []byte(decodeName(table.all(n.raw)))
		}
		return n.space != spaceDOS
	})
	return v, err
}
