package xfs

const (
	leaf1Magic   = 0xD2F1 // the only block of hashes
	leafNMagic   = 0xD2FF // one of many
	leaf1MagicV5 = 0x3DF1
	leafNMagicV5 = 0x3DFF
)

// indexLookup calls match with the entries whose hash is that of the name that
// is looked for, until match returns false.
func (f *FS) indexLookup(in *inode, hash uint32, match func(dirent) bool) error {
	first, err := f.dirBlock(in, 0)
	if err != nil {
		return err
	}
	if first == nil {
		return corrupt("directory %d has no first block", in.ino)
	}
	if isBlockForm(first) {
		_, end, err := f.entriesRange(in, first)
		if err != nil {
			return err
		}
		_, _, err = f.matchHashes(in, first[end:len(first)-8], hash, match)
		return err
	}
	b, off, err := f.treeLeaf(&in.data, leafOffset>>f.sb.blockBits, hash)
	if err != nil {
		return err
	}
	for seen := 0; ; {
		entries, next, err := f.leafHashes(in, b, off)
		if err != nil {
			return err
		}
		more, past, err := f.matchHashes(in, entries, hash, match)
		if err != nil || !more || past || next == 0 {
			return err
		}
		if seen += len(entries)/8 + 1; seen > maxSameHash || next == off {
			return corrupt("directory %d: one hash has more than %d entries", in.ino, seen)
		}
		off = next
		if b, err = f.treeBlock(&in.data, off); err != nil {
			return err
		}
	}
}

// leafHashes finds the hashes in a leaf, and the leaf that follows.
func (f *FS) leafHashes(in *inode, b []byte, off uint64) (entries []byte, next uint64, err error) {
	only, many := uint16(leaf1Magic), uint16(leafNMagic)
	if f.sb.v5 {
		only, many = leaf1MagicV5, leafNMagicV5
	}
	magic := be.Uint16(b[8:])
	if magic != only && magic != many {
		return nil, 0, corrupt("directory %d: leaf at block %d begins with %04x", in.ino, off, magic)
	}
	at := f.treeHeader()
	n := int(be.Uint16(b[at:]))
	at = (at + 4 + 7) &^ 7
	if n > (len(b)-at)/8 {
		return nil, 0, corrupt("directory %d: leaf at block %d with %d hashes", in.ino, off, n)
	}
	if magic == many {
		next = uint64(be.Uint32(b))
	}
	return b[at : at+8*n], next, nil
}

// matchHashes calls match with the entries of a hash. Hashes ascend, each with
// the place of its entry in units of 8 bytes (32 bits each); place 0 is an
// entry that was removed. past says that a greater hash was seen.
func (f *FS) matchHashes(in *inode, entries []byte, hash uint32, match func(dirent) bool) (more, past bool, err error) {
	n := len(entries) / 8
	low, high := 0, n
	for low < high {
		if mid := (low + high) / 2; be.Uint32(entries[8*mid:]) < hash {
			low = mid + 1
		} else {
			high = mid
		}
	}
	for ; low < n; low++ {
		if be.Uint32(entries[8*low:]) != hash {
			return true, true, nil
		}
		off := uint64(be.Uint32(entries[8*low+4:])) << 3
		if off == 0 {
			continue
		}
		d, err := f.direntAt(in, off)
		if err != nil {
			return false, false, err
		}
		if !match(d) {
			return false, false, nil
		}
	}
	return true, false, nil
}

// direntAt reads the entry at off of the directory.
func (f *FS) direntAt(in *inode, off uint64) (dirent, error) {
	if off >= uint64(in.size) {
		return dirent{}, corrupt("directory %d of %d bytes has an entry at %d", in.ino, in.size, off)
	}
	start := off >> f.sb.dirBits
	b, err := f.dirBlock(in, start<<(f.sb.dirBits-f.sb.blockBits))
	if err != nil {
		return dirent{}, err
	}
	if b == nil {
		return dirent{}, corrupt("directory %d has an entry at %d, in a hole", in.ino, off)
	}
	low, end, err := f.entriesRange(in, b)
	if err != nil {
		return dirent{}, err
	}
	pos := int(off & (1<<f.sb.dirBits - 1))
	if pos < low || pos >= end {
		return dirent{}, corrupt("directory %d has an entry at %d", in.ino, off)
	}
	d, _, err := f.entryAt(in, b, pos, end, start<<f.sb.dirBits)
	if err == nil && d.name == nil {
		err = corrupt("directory %d has an entry at %d, which is free", in.ino, off)
	}
	return d, err
}
