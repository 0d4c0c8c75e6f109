package xfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"sort"

	"cairn/mount/filesys"
)

// Two states of a volume are compared by their inodes: whatever changes in a
// file, a directory or attributes, its inode changes with it (times, size, number
// of extents). The inode btree of each group tells where inodes are, so that
// file content is never taken for one, and which were made or removed, even
// where the inode's own bytes were never written. It has 16 bytes for 64
// inodes, so it is read whole where its group changed at all; inodes are read
// only where the volume changed.

// ChangedInodes implements filesys.Differ.
func (f *FS) ChangedInodes(other filesys.FS, changed []filesys.Range, fn func(ino uint64) bool) error {
	o, ok := other.(*FS)
	if !ok {
		return fmt.Errorf("compare XFS with %T: %w", other, filesys.ErrUnsupported)
	}
	if what := f.unlike(o); what != "" {
		return fmt.Errorf("compare two states of an XFS file system: %s: %w", what, filesys.ErrUnsupported)
	}
	d := &differ{a: f, b: o, fn: fn}
	d.lists = [][]filesys.Range{changed, f.replayed, o.replayed}
	for ag := range max(f.sb.agCount, o.sb.agCount) {
		more, err := d.group(ag)
		if errors.Is(err, filesys.ErrCorrupt) {
			// Then names are the only way to the inodes.
			return fmt.Errorf("compare two states of an XFS file system: %w: %w", err, filesys.ErrUnsupported)
		}
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// unlike says what keeps the inodes of two volumes from being compared.
func (f *FS) unlike(o *FS) string {
	s, t := f.sb, o.sb
	const telling = incompatFileType | incompatSparse | incompatParent | incompatMetadir
	switch {
	case s.uuid != t.uuid || s.root != t.root:
		return "it was made anew"
	case s.v5 != t.v5 || s.blockBits != t.blockBits || s.agBlocks != t.agBlocks || s.inodeBits != t.inodeBits || s.dirBits != t.dirBits:
		return "the geometries differ"
	case s.incompat&telling != t.incompat&telling || (s.version^t.version)&versionCI != 0 || s.hasFileTypes() != t.hasFileTypes():
		return "the features differ"
	case f.stale || o.stale:
		return "the log of one is ignored"
	}
	return ""
}

type differ struct {
	a, b  *FS
	lists [][]filesys.Range // where the volumes may differ
	fn    func(uint64) bool
}

// overlaps says whether one of the ranges has a byte between start and end.
func overlaps(ranges []filesys.Range, start, end int64) bool {
	i := sort.Search(len(ranges), func(i int) bool { return ranges[i].Off+ranges[i].Len > start })
	return i < len(ranges) && ranges[i].Off < end
}

// touched says whether the n blocks from a place on the volume may differ.
func (d *differ) touched(block, n uint64) bool {
	bits := d.a.sb.blockBits
	for _, list := range d.lists {
		if overlaps(list, int64(block<<bits), int64((block+n)<<bits)) {
			return true
		}
	}
	return false
}

// group names the inodes of a group that differ, or are in use only once.
func (d *differ) group(ag uint64) (more bool, err error) {
	if !d.touched(ag*d.a.sb.agBlocks, d.a.sb.agBlocks) {
		return true, nil
	}
	more = true
	for i, x := range [][2]*FS{{d.a, d.b}, {d.b, d.a}} {
		if !more || ag >= x[0].sb.agCount {
			continue
		}
		var bad error
		err := x[0].eachChunk(ag, func(c chunk) bool {
			there, err := x[1].usedFrom(ag, c.start)
			if err != nil {
				bad = err
				return false
			}
			more = d.name(ag, c.start, c.used()&^there)
			if more && i == 0 {
				more = d.name(ag, c.start, d.differing(ag, c.start, c.used()&there))
			}
			return more
		})
		if err == nil {
			err = bad
		}
		if err != nil {
			return false, err
		}
	}
	return more, nil
}

// name calls fn with the inodes of a set that begins at agino.
func (d *differ) name(ag uint64, agino uint32, set uint64) (more bool) {
	s := d.a.sb
	for ; set != 0; set &= set - 1 {
		ino := ag<<(s.agBits+s.inopBits) + uint64(agino) + uint64(bits.TrailingZeros64(set))
		if !d.a.hidden(ino) && !d.b.hidden(ino) && !d.fn(ino) {
			return false
		}
	}
	return true
}

// differing gives those of a set of inodes whose bytes are not the same in both
// states.
func (d *differ) differing(ag uint64, agino uint32, set uint64) (out uint64) {
	s := d.a.sb
	first := uint64(agino) >> s.inopBits
	if !d.touched(ag*s.agBlocks+first, (chunkInodes-1)>>s.inopBits+1) {
		return 0
	}
	for ; set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		ino := ag<<(s.agBits+s.inopBits) + uint64(agino) + uint64(i)
		_, bno, _ := s.inodePlace(ino)
		if !d.touched(ag*s.agBlocks+bno, 1) {
			continue
		}
		a, errA := d.a.rawInode(ino)
		b, errB := d.b.rawInode(ino)
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			out |= 1 << i
		}
	}
	return out
}

// rawInode is an inode as it stands on the volume.
func (f *FS) rawInode(ino uint64) ([]byte, error) {
	if !f.sb.validInode(ino) {
		return nil, corrupt("inode %d", ino)
	}
	ag, bno, index := f.sb.inodePlace(ino)
	b, err := f.block(kindInodes, ag*f.sb.agBlocks+bno, 0, nil)
	if err != nil {
		return nil, wrap(err, "inode %d", ino)
	}
	return b[index<<f.sb.inodeBits:][:f.sb.inodeSize], nil
}

// usedFrom says which of the 64 inodes from agino on are in use. Chunks need not
// begin at the same inode in both states.
func (f *FS) usedFrom(ag uint64, agino uint32) (set uint64, err error) {
	if ag >= f.sb.agCount {
		return 0, nil
	}
	c, ok, err := f.findChunk(ag, agino)
	if err != nil {
		return 0, err
	}
	if ok {
		if set = c.used() >> (agino - c.start); c.start == agino {
			return set, nil
		}
	}
	last := agino + chunkInodes - 1
	if last < agino {
		return set, nil
	}
	if c, ok, err = f.findChunk(ag, last); err != nil {
		return 0, err
	}
	if ok && c.start > agino {
		set |= c.used() << (c.start - agino)
	}
	return set, nil
}
