package xfslog

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"cairn/mount/filesys"
)

func newLE(t *testing.T, v5 bool) *writer {
	w := newWriter(v5, 2, binary.LittleEndian, seeded(t))
	w.split = true
	return w
}

// TestRefused: what a reader would need and cannot do is refused by name, and
// nothing else is.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		kind  uint16
		words string
	}{
		{typeATTRI, "(ATTRI)"}, {typeXMI, "(XMI)"}, {0x1250, "0x1250"}, {0x1238, "0x1238"}, {0x1111, "0x1111"},
	} {
		w := newLE(t, true)
		w.begin(1)
		w.intent(1, c.kind, 99)
		w.commit(1)
		refused(t, w, filesys.ErrUnsupported, c.words)
	}
	for _, kind := range []uint16{typeATTRI, typeXMI, typeEFI, typeBUI, 0x1240, 0x1242, 0x124A, 0x124C, 0x124E} {
		w := newLE(t, true)
		w.begin(1)
		w.intent(1, kind, 99, make([]byte, 32)...)
		w.commit(1)
		w.begin(2)
		w.intent(2, kind+1, 99)
		w.commit(2)
		if r := load(t, w).Report(); len(r.Unfinished) > 0 || r.Mappings > 0 {
			t.Errorf("%#x is done: %+v", kind, r)
		}
	}
	w := newLE(t, true)
	w.begin(1)
	w.intent(1, typeEFI, 99)
	w.intent(1, typeEFI, 100)
	w.commit(1)
	w.begin(2)
	w.intent(2, typeEFD, 100)
	w.commit(2)
	if s := strings.Join(load(t, w).Report().Warnings(), "\n"); !strings.Contains(s, "1 times extents to be freed") {
		t.Error(s)
	}
	w = newLE(t, true)
	w.begin(1)
	w.buffer(1, 8, blftBitmap, 0, make([]byte, 2048), 0xFF)
	w.buffer(1, 10, blftBitmap, 0, make([]byte, 1024), 0xFF)
	w.commit(1)
	refused(t, w, filesys.ErrCorrupt, "overlap")
	w = newLE(t, true)
	steps(w, 1, 3)
	w.g.UUID[3]++
	refused(t, w, filesys.ErrCorrupt, "is of the file system")
}

// TestMapChange: changes of lists of extents.
func TestMapChange(t *testing.T) {
	list := []extent{{0, 100, 10, false}, {20, 120, 10, false}, {40, 300, 5, true}}
	for _, c := range []struct {
		name string
		m    mapChange
		want []extent
	}{
		{"map into a hole", mapChange{offset: 12, block: 7, count: 3, flags: 1}, []extent{list[0], {12, 7, 3, false}, list[1], list[2]}},
		{"map what joins both", mapChange{offset: 10, block: 110, count: 10, flags: 1}, []extent{{0, 100, 30, false}, list[2]}},
		{"map unwritten", mapChange{offset: 45, block: 305, count: 1, flags: 1 | mapUnwritten}, []extent{list[0], list[1], {40, 300, 6, true}}},
		{"unmap the middle", mapChange{offset: 22, count: 3, flags: 2}, []extent{list[0], {20, 120, 2, false}, {25, 125, 5, false}, list[2]}},
		{"unmap over two", mapChange{offset: 5, count: 36, flags: 2}, []extent{{0, 100, 5, false}, {41, 301, 4, true}}},
		{"unmap all", mapChange{offset: 0, count: 100, flags: 2}, nil},
	} {
		got, err := c.m.change(slices.Clone(list))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
	}
	m := mapChange{offset: 9, count: 1, flags: 1}
	if _, err := m.change(list); err == nil {
		t.Error("mapped twice")
	}
	for _, e := range []extent{{1<<54 - 1, 1<<52 - 1, 1<<21 - 1, true}, {1, 2, 3, false}, {0, 1 << 51, 1, true}} {
		var p [extentSize]byte
		e.put(p[:])
		if got := parseExtent(p[:]); got != e {
			t.Errorf("%+v became %+v", e, got)
		}
	}
}

// unfinished logs mapping intents for inode 128, which is in sector 128.
func (w *writer) unfinished(list ...mapChange) {
	w.begin(1)
	for i, m := range list {
		p := w.u64(nil, m.ino)
		p = w.u64(p, m.block)
		p = w.u64(p, m.offset)
		p = w.u32(p, m.count)
		p = w.u32(p, m.flags)
		w.intent(1, typeBUI, uint64(i+1), p...)
	}
	w.commit(1)
}

// file makes inode 128 with a mapping.
func (w *writer) file(format byte, fork []byte, extents, blocks uint64) []byte {
	in := w.volume[128*sector:][:512]
	clear(in)
	be.PutUint16(in, dinodeMagic)
	be.PutUint16(in[2:], 0o100644)
	in[4], in[5] = 3, format
	be.PutUint64(in[64:], blocks)
	be.PutUint32(in[76:], uint32(extents))
	be.PutUint64(in[152:], 128*sector/1024*2)
	copy(in[dinodeV3:], fork)
	seal(in, dinodeCRC)
	return in
}

func extentsOf(list ...extent) []byte {
	p := make([]byte, len(list)*extentSize)
	putExtents(p, list)
	return p
}

// TestUnfinishedMapping: the rest of changes of mappings is done, in an inode and
// in a tree.
func TestUnfinishedMapping(t *testing.T) {
	const ino = 128 * sector / 1024 * 2
	before := []extent{{0, 100, 4, false}, {10, 200, 4, false}}
	changes := []mapChange{
		{ino: ino, offset: 1, block: 101, count: 2, flags: 2},
		{ino: ino, offset: 1, block: 300, count: 2, flags: 1},
	}
	want := []extent{{0, 100, 1, false}, {1, 300, 2, false}, {3, 103, 1, false}, {10, 200, 4, false}}
	check := func(t *testing.T, w *writer, off int) {
		t.Helper()
		l := load(t, w)
		got := after(t, w, l)
		if list := parseExtents(got[off:], len(want)); !slices.Equal(list, want) || l.Report().Mappings != 2 {
			t.Errorf("%v, %+v", list, l.Report())
		}
		in := bytes.Clone(got[128*sector:][:512])
		if be.Uint32(in[76:]) != 4 || be.Uint64(in[64:]) != 8 {
			t.Errorf("%d extents, %d blocks", be.Uint32(in[76:]), be.Uint64(in[64:]))
		}
		sum := bytes.Clone(in[dinodeCRC:][:4])
		if seal(in, dinodeCRC); !bytes.Equal(in[dinodeCRC:][:4], sum) {
			t.Error("the inode's checksum does not hold")
		}
		if r := l.Ranges(); len(r) == 0 {
			t.Error("no ranges")
		}
	}
	t.Run("inode", func(t *testing.T) {
		w := newLE(t, true)
		w.file(2, extentsOf(before...), 2, 8)
		w.unfinished(changes...)
		check(t, w, 128*sector+dinodeV3)
	})
	tree := func(w *writer, records []extent) []byte {
		leaf := w.volume[50*1024:][:1024]
		clear(leaf)
		be.PutUint32(leaf, magicTree)
		be.PutUint16(leaf[6:], uint16(len(records)))
		be.PutUint64(leaf[btOwner:], ino)
		putExtents(leaf[72:], records)
		seal(leaf, longTree.crc)
		root := make([]byte, 336)
		be.PutUint16(root, 1)
		be.PutUint16(root[2:], 1)
		be.PutUint64(root[4:], records[0].offset)
		be.PutUint64(root[4+8*20:], 50)
		w.file(formatBtree, root, uint64(len(records)), 8)
		return leaf
	}
	t.Run("tree", func(t *testing.T) {
		w := newLE(t, true)
		tree(w, before)
		w.unfinished(changes...)
		check(t, w, 50*1024+72)
	})
	// walk reads the mapping of the inode in the replayed volume.
	walk := func(t *testing.T, w *writer) []extent {
		l := load(t, w)
		in := after(t, w, l)[128*sector:][:512]
		if n := be.Uint32(in[76:]); in[5] == formatExtents {
			return parseExtents(in[dinodeV3:], int(n))
		}
		list, nodes, err := l.allExtents(bytes.NewReader(w.volume), in[dinodeV3:])
		if err != nil {
			t.Fatal(err)
		}
		if n := be.Uint32(in[76:]); int(n) != len(list) || be.Uint64(in[64:]) != 8+blocks(list)+uint64(nodes) {
			t.Errorf("%d extents and %d blocks in a list of %d with %d in %d blocks", n, be.Uint64(in[64:]), len(list), blocks(list), nodes)
		}
		return list
	}
	t.Run("full tree", func(t *testing.T) {
		for _, n := range []uint64{59, 59 * 20} {
			w := newLE(t, true)
			w.split = false // or the log would be too small
			var full []extent
			for i := range n {
				full = append(full, extent{10 * i, 100 + 7*i, 4, false})
			}
			// As many as fit into what is there, the others by intents.
			tree(w, full[:59])
			in := w.volume[128*sector:][:512]
			be.PutUint64(in[64:], 8+59*4+1)
			seal(in, dinodeCRC)
			var more []mapChange
			for _, e := range full[59:] {
				more = append(more, mapChange{ino: ino, offset: e.offset, block: e.block, count: uint32(e.count), flags: 1})
			}
			more = append(more, mapChange{ino: ino, offset: 1, block: 101, count: 2, flags: 2}, mapChange{ino: ino, offset: 10000000, block: 9, count: 2, flags: 1})
			w.unfinished(more...)
			want := append([]extent{{0, 100, 1, false}, {3, 103, 1, false}}, full[1:]...)
			want = append(want, extent{10000000, 9, 2, false})
			if got := walk(t, w); !slices.Equal(got, want) {
				t.Errorf("%d: %d extents, want %d: …%v, %v", n, len(got), len(want), got[len(got)-3:], load(t, w).Report())
			}
		}
	})
	t.Run("full inode", func(t *testing.T) {
		w := newLE(t, true)
		var full []extent
		for i := range uint64(21) {
			full = append(full, extent{10 * i, 100 + 7*i, 4, false})
		}
		w.file(formatExtents, extentsOf(full...), 21, 8+21*4)
		w.unfinished(changes...)
		want := append([]extent{{0, 100, 1, false}, {1, 300, 2, false}, {3, 103, 1, false}}, full[1:]...)
		if got := walk(t, w); !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
	})
	t.Run("tree that shrinks", func(t *testing.T) {
		w := newLE(t, true)
		tree(w, before)
		w.unfinished(mapChange{ino: ino, offset: 0, count: 100, flags: 2})
		if got := walk(t, w); len(got) > 0 {
			t.Errorf("%v", got)
		}
	})
	t.Run("no inode", func(t *testing.T) {
		w := newLE(t, true)
		w.unfinished(changes...)
		refused(t, w, filesys.ErrCorrupt, "not in use")
	})
	// What is damaged must not get a checksum that holds.
	t.Run("damaged", func(t *testing.T) {
		w := newLE(t, true)
		w.file(2, extentsOf(before...), 2, 8)[57] ^= 1
		w.unfinished(changes...)
		refused(t, w, filesys.ErrCorrupt, "checksum")
		for _, change := range [][]mapChange{changes, {{ino: ino, offset: 0, count: 100, flags: 2}}} {
			w = newLE(t, true)
			tree(w, before)[72+16+7] ^= 1
			w.unfinished(change...)
			refused(t, w, filesys.ErrCorrupt, "checksum")
		}
		w = newLE(t, true)
		leaf := tree(w, before)
		in := bytes.Clone(w.volume[128*sector:][:512])
		be.PutUint64(leaf[btOwner:], 4711)
		w.begin(1)
		w.inode(1, 128, 0, fieldCore|fieldOwner, 0, false, w.swapped(in))
		w.commit(1)
		refused(t, w, filesys.ErrCorrupt, "checksum")
	})
	t.Run("exchanged", func(t *testing.T) {
		w := newLE(t, true)
		leaf := tree(w, before)
		in := bytes.Clone(w.volume[128*sector:][:512])
		be.PutUint64(leaf[btOwner:], 4711)
		seal(leaf, longTree.crc)
		w.begin(1)
		w.inode(1, 128, 0, fieldCore|fieldOwner, 0, false, w.swapped(in))
		w.commit(1)
		got := after(t, w, load(t, w))[50*1024:][:1024]
		be.PutUint64(leaf[btOwner:], ino)
		seal(leaf, longTree.crc)
		if !bytes.Equal(got, leaf) {
			t.Error("the leaf is not the inode's")
		}
	})
}
