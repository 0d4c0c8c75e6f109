package ntfs

import (
	"cairn/mount/filesys"
)

// maxEA is the most that the extended attributes of a file take.
const maxEA = 64 << 10

// eachEA calls fn for each extended attribute ($EA), whose names are bytes. An
// entry is the distance to the next, flags, the lengths of name and value, the
// name with a NUL, and the value ([MS-FSCC] section 2.4.15).
func (in *inode) eachEA(fn func(name string, value []byte)) error {
	p, err := in.rawEA()
	if err != nil {
		return err
	}
	for len(p) >= 8 {
		next, nameLen, valueLen := int(le.Uint32(p)), int(p[5]), int(le.Uint16(p[6:]))
		end := 8 + nameLen + 1 + valueLen
		if end > len(p) || next != 0 && (next < end || next > len(p)) {
			return corrupt("inode %d: an extended attribute of %d bytes, where %d are left", in.num, end, len(p))
		}
		fn(string(p[8:8+nameLen]), p[8+nameLen+1:end])
		if next == 0 {
			break
		}
		p = p[next:]
	}
	return nil
}

// rawEA reads $EA; nil without one.
func (in *inode) rawEA() ([]byte, error) {
	s, err := in.stream(attrEA, "")
	if err != nil || s == nil {
		return nil, err
	}
	return s.readAll(maxEA)
}

// loadEA takes owner, mode and device from the attributes that the Windows
// Subsystem for Linux writes: $LXUID, $LXGID, $LXMOD and $LXDEV, or all of them
// in one LXATTRB on volumes of its first version.
func (in *inode) loadEA() error {
	return in.eachEA(func(name string, v []byte) {
		switch {
		case name == "$LXUID" && len(v) == 4:
			in.uid = le.Uint32(v)
		case name == "$LXGID" && len(v) == 4:
			in.gid = le.Uint32(v)
		case name == "$LXMOD" && len(v) == 4:
			in.setMode(le.Uint32(v))
		case name == "$LXDEV" && len(v) == 8:
			in.setDevice(uint64(le.Uint32(v)), uint64(le.Uint32(v[4:])))
		case name == "LXATTRB" && len(v) >= 20:
			in.setMode(le.Uint32(v[4:]))
			in.uid, in.gid = le.Uint32(v[8:]), le.Uint32(v[12:])
			dev := uint64(le.Uint32(v[16:]))
			in.setDevice(dev>>8&0xFFF, dev&0xFF|dev>>12&0xFFF00)
		}
	})
}

// setMode sets the permissions. The type is what Windows has.
func (in *inode) setMode(mode uint32) {
	if in.mode&filesys.TypeMask != filesys.TypeSymlink {
		in.mode = in.mode&filesys.TypeMask | mode&0o7777
	}
}

func (in *inode) setDevice(major, minor uint64) {
	if t := in.mode & filesys.TypeMask; t == filesys.TypeChar || t == filesys.TypeBlock {
		in.rdev = makedev(major, minor)
	}
}
