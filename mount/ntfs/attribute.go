package ntfs

// Attribute types.
const (
	attrStandard   = 0x10
	attrList       = 0x20
	attrFileName   = 0x30
	attrObjectID   = 0x40
	attrSecurity   = 0x50
	attrVolumeName = 0x60
	attrVolumeInfo = 0x70
	attrData       = 0x80
	attrIndexRoot  = 0x90
	attrIndexAlloc = 0xA0
	attrBitmap     = 0xB0
	attrReparse    = 0xC0
	attrEA         = 0xE0
	attrEnd        = 0xFFFFFFFF
)

// Attribute flags.
const (
	flagCompressed  = 0x0001
	flagCompression = 0x00FF // the compression method; 1 is LZNT1
	flagEncrypted   = 0x4000
	flagSparse      = 0x8000
)

// attr is an attribute record: an attribute whole, or one piece of it.
type attr struct {
	typ   uint32
	id    uint16 // instance, unique within its record
	flags uint16
	name  string // UTF-16LE as it stands there

	nonresident bool
	value       []byte // of a resident one

	// Of a nonresident one: the clusters [low, next) that it maps.
	low, next uint64
	pairs     []byte
	// In the first piece only: log2 of the clusters of a compression unit (0
	// without compression), and sizes in bytes.
	unit                               uint8
	allocated, size, initialized, used int64
}

// parseAttrs decodes the attribute records in p, the part of an MFT record from
// its first attribute to the end of what is used. They share p's memory.
func parseAttrs(p []byte) ([]attr, error) {
	var attrs []attr
	for {
		if len(p) < 4 {
			return nil, corrupt("attributes without an end")
		}
		if le.Uint32(p) == attrEnd {
			return attrs, nil
		}
		if len(p) < 24 {
			return nil, corrupt("attributes end in the middle of one")
		}
		n := le.Uint32(p[4:])
		if n < 24 || n&7 != 0 || uint64(n) > uint64(len(p)) {
			return nil, corrupt("attribute %#x has length %d of %d", le.Uint32(p), n, len(p))
		}
		a, err := parseAttr(p[:n:n])
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, a)
		p = p[n:]
	}
}

func parseAttr(p []byte) (attr, error) {
	a := attr{typ: le.Uint32(p), nonresident: p[8] != 0, flags: le.Uint16(p[12:]), id: le.Uint16(p[14:])}
	nameEnd := int(le.Uint16(p[10:])) + 2*int(p[9])
	if p[9] > 0 {
		if nameEnd > len(p) {
			return a, corrupt("attribute %#x: its name ends at %d of %d", a.typ, nameEnd, len(p))
		}
		a.name = string(p[nameEnd-2*int(p[9]) : nameEnd])
	}
	if !a.nonresident {
		n, off := uint64(le.Uint32(p[16:])), uint64(le.Uint16(p[20:]))
		if off+n > uint64(len(p)) {
			return a, corrupt("attribute %#x: its value ends at %d of %d", a.typ, off+n, len(p))
		}
		a.value = p[off : off+n : off+n]
		return a, nil
	}
	if len(p) < 64 {
		return a, corrupt("attribute %#x of %d bytes is not resident", a.typ, len(p))
	}
	a.low, a.next = le.Uint64(p[16:]), le.Uint64(p[24:])+1
	off := int(le.Uint16(p[32:]))
	if a.next < a.low || a.next > 1<<maxVolumeBits || off < 64 || off > len(p) {
		return a, corrupt("attribute %#x: clusters %d to %d, mapping pairs at %d", a.typ, a.low, a.next, off)
	}
	a.pairs = p[off:]
	if a.low > 0 {
		return a, nil
	}
	a.unit = p[34]
	a.allocated, a.size, a.initialized = int64(le.Uint64(p[40:])), int64(le.Uint64(p[48:])), int64(le.Uint64(p[56:]))
	a.used = a.allocated
	if a.size < 0 || a.initialized < 0 || a.allocated < a.size || a.initialized > a.size {
		return a, corrupt("attribute %#x: %d bytes allocated, %d long, %d initialized", a.typ, a.allocated, a.size, a.initialized)
	}
	if a.flags&(flagCompression|flagSparse) != 0 && len(p) >= 72 && off >= 72 {
		if a.used = int64(le.Uint64(p[64:])); a.used < 0 {
			return a, corrupt("attribute %#x: %d bytes used", a.typ, a.used)
		}
	}
	return a, nil
}

// length is the size of an attribute's value.
func (a *attr) length() int64 {
	if a.nonresident {
		return a.size
	}
	return int64(len(a.value))
}

// sectors is the space that an attribute takes, as its file's st_blocks counts
// it, in units of 512 bytes.
func (a *attr) sectors() int64 {
	n := int64(len(a.value)+7) &^ 7
	if a.nonresident {
		n = a.used
	}
	return n/512 + (n%512+511)/512
}
