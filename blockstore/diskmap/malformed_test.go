package diskmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cairn/blockstore/block"
)

func page(ds ...block.Digest) []byte {
	p := make([]byte, PageSize)
	for i, d := range ds {
		setEntry(p, i, d)
	}
	return p
}

// readers are all ways to read a map; each must notice a page that it reads.
var readers = map[string]func(mem *memory, m Map) error{
	"Walk": func(mem *memory, m Map) error {
		return Walk(context.Background(), mem, m, 0, m.Blocks(), func(uint64, block.Digest) error { return nil })
	},
	"WalkPages": func(mem *memory, m Map) error {
		return WalkPages(context.Background(), mem, m, Visitor{})
	},
	"Diff": func(mem *memory, m Map) error {
		return Diff(context.Background(), mem, m, Map{BlockSize: m.BlockSize}, func(uint64, block.Digest, block.Digest) error { return nil })
	},
	"Diff with a bigger disk": func(mem *memory, m Map) error {
		return Diff(context.Background(), mem, Map{Size: m.Size << 9, BlockSize: m.BlockSize}, m, func(uint64, block.Digest, block.Digest) error { return nil })
	},
	"Builder": func(mem *memory, m Map) error {
		b, err := NewBuilder(m.Size, m.BlockSize, &m, mem, mem)
		if err != nil {
			return err
		}
		return b.Set(context.Background(), 0, digest(7))
	},
	"Builder of a smaller disk": func(mem *memory, m Map) error {
		b, err := NewBuilder(1, m.BlockSize, &m, mem, mem)
		if err != nil {
			return err
		}
		return b.Set(context.Background(), 0, digest(7))
	},
	"Image.ReadAt": func(mem *memory, m Map) error {
		_, err := NewImage(mem, m, ImageOptions{}).ReadAt(make([]byte, 10), 5)
		return err
	},
	"Image.Extent": func(mem *memory, m Map) error {
		_, _, err := NewImage(mem, m, ImageOptions{}).Extent(context.Background(), 5)
		return err
	},
}

// TestMalformedPages has each kind of bad page read in each way.
func TestMalformedPages(t *testing.T) {
	leaf := page(digest(1))
	for _, c := range []struct {
		name   string
		blocks int64
		page   []byte
		want   string
	}{
		{"empty", 256, nil, "level 1 index 0 (%s): corrupt block: malformed: 0 bytes, must be 8192"},
		{"short", 256, leaf[:PageSize-1], "8191 bytes, must be 8192"},
		{"long", 256, append(bytes.Clone(leaf), 0), "8193 bytes, must be 8192"},
		{"a data block", 256, bytes.Repeat(leaf, 2), "16384 bytes, must be 8192"},
		{"all zero", 256, page(), "level 1 index 0 (%s): corrupt block: malformed: all entries are zero"},
		{"behind the end", 1, page(digest(1), digest(2)), "an entry behind the end of the disk is not zero"},
		{"only behind the end", 1, page(block.Zero, digest(2)), "an entry behind the end of the disk is not zero"},
		{"inner page behind the end", 257, page(digest(1), digest(1), digest(1)), "level 2 index 0 (%s): corrupt block: malformed: an entry behind the end"},
		{"inner page, all zero", 1 << 17, page(), "level 3 index 0 (%s): corrupt block: malformed: all entries are zero"},
	} {
		mem := newMemory()
		m := Map{Size: c.blocks * testBlock, BlockSize: testBlock, Root: block.Sum(c.page)}
		mem.blocks[m.Root] = c.page
		want := c.want
		if strings.Contains(want, "%s") {
			want = fmt.Sprintf(want, m.Root)
		}
		for name, read := range readers {
			err := read(mem, m)
			if !errors.Is(err, block.ErrCorrupt) || !errors.Is(err, block.ErrFormat) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), m.Root.String()) {
				t.Errorf("%s, %s: %v, want %q and the digest", c.name, name, err, want)
			}
		}
	}
}

// TestMissingPage: the reader's own error comes through, with the place.
func TestMissingPage(t *testing.T) {
	m := Map{Size: 1000 * testBlock, BlockSize: testBlock, Root: digest(1)}
	gone := errors.New("gone")
	mem := newMemory()
	mem.onRead = func(context.Context, []block.Digest) error { return gone }
	for name, read := range readers {
		err := read(mem, m)
		if !errors.Is(err, gone) || !strings.Contains(err.Error(), "map page level 2 index 0 ("+m.Root.String()+")") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPageBelowItself: no store can hold a page that refers to itself, but one
// that does not verify could; levels run out.
func TestPageBelowItself(t *testing.T) {
	loop := page(digest(1), digest(1))
	mem := newMemory()
	mem.blocks[digest(1)] = loop
	m := Map{Size: 1 << 24 * testBlock, BlockSize: testBlock, Root: digest(1)}
	n := 0
	err := Walk(context.Background(), mem, m, 0, m.Blocks(), func(uint64, block.Digest) error { n++; return nil })
	if err != nil || n != 8 {
		t.Errorf("%d blocks, %v", n, err)
	}
}

func TestMapGeometry(t *testing.T) {
	for _, c := range []struct {
		size   int64
		bs     int
		blocks uint64
		depth  int
	}{
		{0, 1 << 16, 0, 0},
		{1, 1 << 16, 1, 1},
		{1 << 16, 1 << 16, 1, 1},
		{1<<16 + 1, 1 << 16, 2, 1},
		{256 << 16, 1 << 16, 256, 1},
		{256<<16 + 1, 1 << 16, 257, 2},
		{1 << 32, 1 << 16, 1 << 16, 2},
		{1<<32 + 1, 1 << 16, 1<<16 + 1, 3},
		{64 << 40, 1 << 16, 1 << 30, 4},
		{1<<63 - 1, block.MinSize, 1 << 49, 7},
		{1<<63 - 1, block.MaxSize, 1 << 41, 6},
	} {
		m := Map{Size: c.size, BlockSize: c.bs}
		if m.Blocks() != c.blocks || m.Depth() != c.depth || m.Validate() != nil {
			t.Errorf("%+v: %d blocks, depth %d, %v; want %d, %d", m, m.Blocks(), m.Depth(), m.Validate(), c.blocks, c.depth)
		}
	}
	for _, m := range []Map{
		{Size: -1, BlockSize: testBlock},
		{Size: 1, BlockSize: 0},
		{Size: 1, BlockSize: -testBlock},
		{Size: 1, BlockSize: testBlock + 1},
		{Size: 0, BlockSize: testBlock, Root: digest(1)},
	} {
		mem := newMemory()
		m.Blocks()
		m.Depth()
		if m.Validate() == nil {
			t.Errorf("%+v is valid", m)
		}
		for name, read := range readers {
			if read(mem, m) == nil {
				t.Errorf("%s reads the invalid map %+v", name, m)
			}
		}
	}
}

// FuzzPages: a map of any size over any two pages, the second below the first,
// reads without panic or loop, and all readers agree about it. (Fuzz it with
// -fuzzminimizetime 10x: minimising pages takes longer than it is worth.)
func FuzzPages(f *testing.F) {
	f.Add(int64(1), page(digest(1)), page())
	f.Add(int64(300*testBlock), page(block.Sum(page(digest(1))), block.Zero), page(digest(1)))
	f.Add(int64(1<<63-1), page(digest(1))[:100], page(digest(1)))
	f.Add(int64(257*testBlock), page(block.Sum(page(digest(2))), block.Sum(page(digest(2)))), page(digest(2)))
	f.Fuzz(func(t *testing.T, size int64, top, below []byte) {
		mem := newMemory()
		d := block.Sum(below)
		mem.blocks[d] = below
		if top = bytes.Clone(top); len(top) >= 64 {
			copy(top, d[:])
		}
		m := Map{Size: size, BlockSize: testBlock, Root: block.Sum(top)}
		mem.blocks[m.Root] = top
		walked := map[uint64]block.Digest{}
		err := Walk(context.Background(), mem, m, 0, m.Blocks(), func(i uint64, d block.Digest) error {
			if i >= m.Blocks() {
				t.Fatalf("block %d of %d", i, m.Blocks())
			}
			walked[i] = d
			return nil
		})
		diffErr := Diff(context.Background(), mem, Map{BlockSize: testBlock}, m, func(i uint64, a, b block.Digest) error {
			if err == nil && (a != block.Zero || walked[i] != b) {
				t.Fatalf("Diff says block %d is %s, Walk %s", i, b, walked[i])
			}
			delete(walked, i)
			return nil
		})
		if (err == nil) != (diffErr == nil) || err == nil && len(walked) > 0 {
			t.Fatalf("Walk: %v, Diff: %v; %d blocks differ", err, diffErr, len(walked))
		}
		im := NewImage(mem, m, ImageOptions{})
		for off := int64(0); off < min(size, 600*testBlock); off += 100 * testBlock {
			_, n, err := im.Extent(context.Background(), off)
			if err == nil && (n <= 0 || n > size-off) {
				t.Fatalf("extent at %d of %d: %d bytes", off, size, n)
			}
		}
	})
}
