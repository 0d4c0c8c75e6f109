package ext4

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"cairn/mount/filesys"
)

var _ filesys.Differ = (*FS)(nil)

// Two states of a volume are compared by their inode tables, which stand at
// places that the group descriptors tell: whatever changes in a file or
// directory, its inode changes with it (size, times, map of blocks). Table
// blocks that did not change on the volume are not read.
//
// What a journal lays over either of the two counts as changed. Where a table
// was moved, or a group added, all its inodes are candidates. In the end two
// inodes are compared byte by byte, so that of a changed block only those are
// named that did change.

// ChangedInodes implements filesys.Differ.
func (f *FS) ChangedInodes(other filesys.FS, changed []filesys.Range, fn func(ino uint64) bool) error {
	o, ok := other.(*FS)
	if !ok {
		return fmt.Errorf("compare ext4 with %T: %w", other, filesys.ErrUnsupported)
	}
	if what := f.sb.unlike(o.sb); what != "" {
		return fmt.Errorf("compare two states of an ext4 file system: %s: %w", what, filesys.ErrUnsupported)
	}
	if max(f.sb.groups, o.sb.groups) > maxGroups {
		return fmt.Errorf("compare two states of an ext4 file system: more than %d groups: %w", maxGroups, filesys.ErrUnsupported)
	}
	d := &differ{a: f, b: o, changed: changed, fn: fn}
	for g := range max(f.sb.groups, o.sb.groups) {
		if more, err := d.group(g); err != nil || !more {
			return err
		}
	}
	return d.others()
}

// unlike says what keeps the inodes of two volumes from being compared.
func (s *superblock) unlike(o *superblock) string {
	const passing = incompatRecover
	const telling = roGDTCsum | roMetadataCsum | roHugeFile | roBigalloc
	switch {
	case !bytes.Equal(s.raw[0x68:0x78], o.raw[0x68:0x78]) || s.csumSeed != o.csumSeed:
		return "the UUIDs differ"
	case le.Uint32(s.raw[0x108:]) != le.Uint32(o.raw[0x108:]):
		return "it was made anew"
	case s.blockBits != o.blockBits || s.clusterBits != o.clusterBits || s.firstData != o.firstData || s.perGroup != o.perGroup ||
		s.inodesPer != o.inodesPer || s.inodeSize != o.inodeSize || s.firstIno != o.firstIno:
		return "the geometries differ"
	case s.incompat&^passing != o.incompat&^passing || s.ro&telling != o.ro&telling || s.ro&^roKnown != o.ro&^roKnown ||
		s.compat&compatDirIndex != o.compat&compatDirIndex || s.u32(0x100) != o.u32(0x100):
		return "the features differ"
	}
	return ""
}

type differ struct {
	a, b    *FS
	changed []filesys.Range
	fn      func(uint64) bool
}

// span is a row of bytes in an inode table.
type span struct{ from, to uint64 }

// group compares the inode tables of group g.
func (d *differ) group(g uint64) (more bool, err error) {
	s := d.a.sb
	if g >= d.a.sb.groups || g >= d.b.sb.groups { // the file system grew, or shrank
		return d.inodes(g, []span{{0, uint64(s.inodesPer) * s.inodeSize}})
	}
	a, err := d.a.group(g)
	if err != nil {
		return false, err
	}
	b, err := d.b.group(g)
	if err != nil {
		return false, err
	}
	size := uint64(s.inodesPer) * s.inodeSize
	if a.inodeTable != b.inodeTable {
		return d.inodes(g, []span{{0, size}})
	}
	start := a.inodeTable << s.blockBits
	spans := clip(d.changed, start, size)
	for _, fs := range []*FS{d.a, d.b} {
		if fs.log == nil {
			continue
		}
		for block := range fs.log.Blocks(a.inodeTable, a.inodeTable+(size+s.blockSize-1)>>s.blockBits) {
			at := block<<s.blockBits - start
			spans = append(spans, span{at, min(at+s.blockSize, size)})
		}
	}
	return d.inodes(g, merge(spans))
}

// clip gives what of ranges lies in the size bytes from start, counted from
// there.
func clip(ranges []filesys.Range, start, size uint64) (spans []span) {
	i, _ := slices.BinarySearchFunc(ranges, start, func(r filesys.Range, at uint64) int {
		return cmp.Compare(uint64(r.Off+r.Len), at+1)
	})
	for ; i < len(ranges) && uint64(ranges[i].Off) < start+size; i++ {
		from, to := max(uint64(ranges[i].Off), start), min(uint64(ranges[i].Off+ranges[i].Len), start+size)
		if from < to {
			spans = append(spans, span{from - start, to - start})
		}
	}
	return spans
}

// merge sorts spans and joins those that touch.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(x, y span) int { return cmp.Compare(x.from, y.from) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}

// inodes names the inodes of group g that lie in spans and differ.
func (d *differ) inodes(g uint64, spans []span) (more bool, err error) {
	size := d.a.sb.inodeSize
	next := uint64(0)
	for _, s := range spans {
		for i := max(next, s.from/size); i*size < s.to; i++ {
			next = i + 1
			ino := g*uint64(d.a.sb.inodesPer) + i + 1
			if d.differs(ino) && !d.fn(ino) {
				return false, nil
			}
		}
	}
	return true, nil
}

// differs says whether an inode is in use on either side and not the same on
// both. What cannot be read differs.
func (d *differ) differs(ino uint64) bool {
	if ino != rootIno && ino < uint64(d.a.sb.firstIno) {
		return false
	}
	a, errA := d.a.record(ino)
	b, errB := d.b.record(ino)
	if errA != nil || errB != nil {
		return !errors.Is(errA, filesys.ErrNotExist) || !errors.Is(errB, filesys.ErrNotExist)
	}
	if bytes.Equal(a, b) {
		return false
	}
	_, errA = d.a.inode(ino)
	_, errB = d.b.inode(ino)
	return !d.unused(errA, a) || !d.unused(errB, b)
}

// unused says whether an inode that could not be taken for a file is none:
// deleted, never used, or the holder of an attribute. One that was never used
// has no checksum either, when its neighbours brought its block into being.
func (d *differ) unused(err error, raw []byte) bool {
	const links = 0x1A
	return errors.Is(err, filesys.ErrNotExist) ||
		err != nil && (le.Uint32(raw[0x20:])&flagEAInode != 0 || le.Uint16(raw[links:]) == 0)
}

// record is an inode as it stands in its table.
func (f *FS) record(ino uint64) ([]byte, error) {
	if ino == 0 || ino > uint64(f.sb.inodes) {
		return nil, filesys.ErrNotExist
	}
	desc, pos, err := f.inodePlace(ino)
	if err != nil {
		return nil, err
	}
	b, err := f.block(desc.inodeTable + pos>>f.sb.blockBits)
	if err != nil {
		return nil, err
	}
	return b[pos&(f.sb.blockSize-1):][:f.sb.inodeSize], nil
}

// others names the inodes that are shown otherwise although they are as they
// were: files that are cut off by the list of orphans, and files of the
// volume's own, of which the superblock tells.
func (d *differ) others() error {
	list := map[uint64]bool{}
	for _, x := range [][2]*FS{{d.a, d.b}, {d.b, d.a}} {
		for ino, sectors := range x[0].orphans {
			if x[1].orphans[ino] != sectors {
				list[uint64(ino)] = true
			}
		}
		for _, off := range superInodes {
			if ino := uint64(x[0].sb.u32(off)); ino >= uint64(x[0].sb.firstIno) && !x[1].hidden(ino) {
				list[ino] = true
			}
		}
	}
	for ino := range list {
		if !d.fn(ino) {
			return nil
		}
	}
	return nil
}
