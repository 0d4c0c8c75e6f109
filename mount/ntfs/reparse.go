package ntfs

import (
	"fmt"

	"cairn/mount/filesys"
)

// Reparse tags: who is to interpret a reparse point ([MS-FSCC] section 2.1.2.1).
const (
	tagMountPoint = 0xA0000003 // junctions too
	tagSymlink    = 0xA000000C
	tagLxSymlink  = 0xA000001D // from here on: of the Windows Subsystem for Linux
	tagSocket     = 0x80000023
	tagLxFIFO     = 0x80000024
	tagLxChar     = 0x80000025
	tagLxBlock    = 0x80000026
	tagNFS        = 0x80000014 // special files of Windows' NFS server
	tagWOF        = 0x80000017 // system compression
	tagCloud      = 0x9000001A // OneDrive and the like; the provider counts in bits 12 to 15
	cloudMask     = 0xFFFF0FFF
)

// tagNames are those of what is refused.
var tagNames = map[uint32]string{
	0x80000005: "hierarchical storage (drive extender)", 0xC0000004: "hierarchical storage", 0x80000006: "hierarchical storage (HSM2)",
	0x80000007: "single-instance store", 0x80000008: "WIM mount", 0x80000009: "cluster shared volume",
	0x8000000A: "distributed file system", 0x80000012: "distributed file system replication", 0x80000013: "data deduplication",
	0x80000018: "Windows container isolation", 0x90001018: "Windows container isolation", 0xA000001F: "Windows container isolation (tombstone)",
	0x9000001C: "projected file system", 0xA0000022: "projected file system (tombstone)", 0x8000001B: "link to a store app",
	0x8000001E: "Azure File Sync", 0x80000020: "storage sync folder", 0x80000021: "OneDrive (before Windows 10)",
	0xA0000027: "storage sync tombstone", 0x80000028: "unhandled (container)", 0x80000029: "OneDrive",
	0x80000016: "dynamic file filter", 0x80000015: "file placeholder (Windows 8 OneDrive)", 0xA0000010: "IIS cache",
}

// maxReparse is the largest reparse point that Windows makes.
const maxReparse = 16 << 10

// reparse is the $REPARSE_POINT of an inode.
type reparse struct {
	tag  uint32
	data []byte
	raw  []byte // with its header
}

// loadReparse reads an inode's reparse point and finds out what it makes of the
// file.
func (in *inode) loadReparse(s *stream) error {
	if s == nil {
		return corrupt("inode %d: a reparse point without data", in.num)
	}
	p, err := s.readAll(maxReparse)
	if err != nil {
		return err
	}
	if len(p) < 8 || int(le.Uint16(p[4:])) > len(p)-8 {
		return corrupt("inode %d: a reparse point of %d bytes", in.num, len(p))
	}
	r := &reparse{tag: le.Uint32(p), raw: p, data: p[8 : 8+int(le.Uint16(p[4:]))]}
	if r.tag&0x80000000 == 0 && len(p) >= 24 {
		// Other makers' tags have a GUID before their data.
		r.data = p[24:]
	}
	in.reparse = r
	isDir := in.base.flags&recordIsDir != 0
	is := func(typ uint32) { in.mode, in.refused = typ|0o777, nil }
	switch {
	case r.tag == tagMountPoint || r.tag == tagSymlink:
		is(filesys.TypeSymlink)
	case r.tag == tagLxSymlink && !isDir:
		is(filesys.TypeSymlink)
		return in.loadLxSymlink()
	case r.tag == tagSocket && !isDir:
		is(filesys.TypeSocket)
	case r.tag == tagLxFIFO && !isDir:
		is(filesys.TypeFIFO)
	case r.tag == tagLxChar && !isDir:
		is(filesys.TypeChar)
	case r.tag == tagLxBlock && !isDir:
		is(filesys.TypeBlock)
	case r.tag == tagNFS && !isDir:
		return in.loadNFS()
	case r.tag == tagWOF && !isDir:
		return in.loadWOF()
	case r.tag&cloudMask == tagCloud:
		// A placeholder whose content is here is a file like any other.
		ea, err := in.stream(attrEA, "")
		if err != nil {
			return err
		}
		if in.attrs&fileOffline != 0 || in.attrs&fileRecallOpen != 0 && ea == nil {
			in.refused = unsupported("inode %d: its content is in the cloud", in.num)
		}
	default:
		name := tagNames[r.tag]
		if name == "" {
			name = "unknown"
		}
		in.refused = unsupported("inode %d: reparse point %#x (%s)", in.num, r.tag, name)
	}
	return nil
}

// loadLxSymlink: a version, then the target in UTF-8. Before version 2 the
// target was the file's content.
func (in *inode) loadLxSymlink() error {
	d := in.reparse.data
	if len(d) < 4 {
		return corrupt("inode %d: a link of %d bytes", in.num, len(d))
	}
	target := string(d[4:])
	switch version := le.Uint32(d); {
	case version == 1 && in.data != nil:
		p, err := in.data.readAll(maxReparse)
		if err != nil {
			return err
		}
		target = string(p)
	case version != 2:
		return unsupported("inode %d: version %d of links", in.num, version)
	}
	return in.setTarget(target)
}

// setTarget makes the inode a link. Targets end where Linux would end them.
func (in *inode) setTarget(target string) error {
	for i := range len(target) {
		if target[i] == 0 {
			target = target[:i]
			break
		}
	}
	if target == "" {
		return corrupt("inode %d: a link without a target", in.num)
	}
	in.mode, in.target, in.refused = filesys.TypeSymlink|0o777, &target, nil
	return nil
}

// loadNFS: eight letters say what kind of file it is, a device's numbers or a
// link's target in UTF-16 follow ([MS-FSCC] section 2.1.2.6).
func (in *inode) loadNFS() error {
	d := in.reparse.data
	if len(d) < 8 {
		return corrupt("inode %d: an NFS special file of %d bytes", in.num, len(d))
	}
	rest := d[8:]
	switch kind := le.Uint64(d); kind {
	case 0x00000000014B4E4C: // "LNK", 1
		return in.setTarget(decodeName(string(rest)))
	case 0x0000000000524843, 0x00000000004B4C42: // "CHR", "BLK"
		if len(rest) < 8 {
			return corrupt("inode %d: a device of %d bytes", in.num, len(d))
		}
		in.mode = filesys.TypeChar | 0o777
		if kind == 0x4B4C42 {
			in.mode = filesys.TypeBlock | 0o777
		}
		in.rdev = makedev(uint64(le.Uint32(rest)), uint64(le.Uint32(rest[4:])))
	case 0x000000004F464946: // "FIFO"
		in.mode = filesys.TypeFIFO | 0o777
	case 0x000000004B434F53: // "SOCK"
		in.mode = filesys.TypeSocket | 0o777
	default:
		in.refused = unsupported("inode %d: NFS special file %#x", in.num, kind)
	}
	return nil
}

// makedev is a device number as Linux's user space has it.
func makedev(major, minor uint64) uint64 {
	major, minor = major&0xFFFFFFFF, minor&0xFFFFFFFF
	return minor&0xFF | (major&0xFFF)<<8 | (minor&^0xFF)<<12 | (major&^0xFFF)<<32
}

// Interix, and ntfs-3g after it, keep special files as small system files: empty
// for a FIFO, of one byte for a socket, and else with a word at the beginning.
const (
	interixLink  = "IntxLNK\x01"
	interixChar  = "IntxCHR\x00"
	interixBlock = "IntxBLK\x00"
	// maxInterix is the longest target, 4096 units, with its word.
	maxInterix = 8 + 2*4096
)

// loadInterix finds out whether a system file is a special file.
func (in *inode) loadInterix() error {
	size := in.data.Size()
	switch {
	case in.data.first.flags&(flagEncrypted|flagCompression) != 0 || in.refused != nil:
		return nil
	case size == 0 && in.attrs&fileHidden == 0:
		in.mode = filesys.TypeFIFO | 0o777
		return nil
	case size == 1 && in.attrs&fileHidden == 0:
		in.mode = filesys.TypeSocket | 0o777
		return nil
	case size <= 8 || size > maxInterix:
		return nil
	}
	p, err := in.data.readAll(maxInterix)
	if err != nil {
		return fmt.Errorf("inode %d: %w", in.num, err)
	}
	switch word := string(p[:8]); {
	case word == interixLink:
		return in.setTarget(decodeName(string(p[8:])))
	case word == interixChar && len(p) == 24:
		in.mode = filesys.TypeChar | 0o777
		in.rdev = makedev(le.Uint64(p[8:]), le.Uint64(p[16:]))
	case word == interixBlock && len(p) == 24:
		in.mode = filesys.TypeBlock | 0o777
		in.rdev = makedev(le.Uint64(p[8:]), le.Uint64(p[16:]))
	}
	return nil
}
