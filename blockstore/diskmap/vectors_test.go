package diskmap

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"cairn/blockstore/block"
)

// vectors is testdata/vectors.json, which explains itself in "how". It is part
// of the format's promise: cases are added, never changed.
type vectors struct {
	Title  string
	How    []string
	Accept []struct {
		Name      string
		Size      int64
		BlockSize int `json:"block_size"`
		Depth     int
		Entries   []entryVector
		Root      digestText
		Pages     []pageVector
	}
	Reject []struct {
		Name      string
		Size      int64
		BlockSize int `json:"block_size"`
		Root      digestText
		Pages     []pageVector
		Reason    string
	}
}

type entryVector struct {
	Index, Count uint64
	Digest       digestText
}

type pageVector struct {
	Level   int
	Index   uint64
	Digest  digestText
	Entries []entryVector
	Bytes   *string
	Length  int
}

type digestText block.Digest

func (d *digestText) UnmarshalText(text []byte) error {
	p, err := block.ParseDigest(string(text))
	*d = digestText(p)
	return err
}

func (v pageVector) plain(t *testing.T) []byte {
	p := make([]byte, max(PageSize, v.Length))
	for _, e := range v.Entries {
		for i := range e.Count {
			copy(p[(e.Index+i)*32:], e.Digest[:])
		}
	}
	if v.Bytes != nil {
		want, err := hex.DecodeString(*v.Bytes)
		if err != nil || !bytes.Equal(p, append(want, make([]byte, PageSize-len(want))...)) {
			t.Errorf("page %x: its bytes are not its entries (%v)", v.Digest, err)
		}
	}
	if v.Length > 0 {
		p = p[:v.Length]
	}
	if d := block.Sum(p); d != block.Digest(v.Digest) {
		t.Errorf("page %x has digest %s", v.Digest, d)
	}
	return p
}

func loadVectors(t *testing.T) (v vectors) {
	f, err := os.Open("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVectorsAccept(t *testing.T) {
	for _, v := range loadVectors(t).Accept {
		t.Run(v.Name, func(t *testing.T) {
			var es []edit
			for _, e := range v.Entries {
				es = append(es, edit{e.Index, e.Count, block.Digest(e.Digest)})
			}
			mem := newMemory()
			m := Map{Size: v.Size, BlockSize: v.BlockSize, Root: block.Digest(v.Root)}
			b, err := NewBuilder(v.Size, v.BlockSize, nil, nil, mem)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range es {
				if err := b.SetRun(context.Background(), e.index, e.count, e.d); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := b.Finish(context.Background()); err != nil || got != m || m.Depth() != v.Depth {
				t.Errorf("built %+v of depth %d, want %+v of %d (%v)", got, m.Depth(), m, v.Depth, err)
			}

			pages := map[block.Digest][]byte{}
			var want []Page
			for _, p := range v.Pages {
				pages[block.Digest(p.Digest)] = p.plain(t)
				want = append(want, Page{p.Level, p.Index, block.Digest(p.Digest)})
			}
			if !maps.EqualFunc(mem.blocks, pages, bytes.Equal) {
				t.Errorf("wrote %d pages, want %d", len(mem.blocks), len(pages))
			}
			mem.blocks = pages
			model := map[uint64]block.Digest{}
			apply(model, es)
			if got := contents(t, mem, m); !maps.Equal(got, model) {
				t.Errorf("the pages hold %d blocks, want %d", len(got), len(model))
			}
			seen := map[block.Digest]bool{}
			var got []Page
			err = WalkPages(context.Background(), mem, m, Visitor{Enter: func(p Page) (bool, error) {
				if seen[p.Digest] {
					return false, nil
				}
				seen[p.Digest] = true
				got = append(got, p)
				return true, nil
			}})
			slices.SortStableFunc(got, func(a, b Page) int { return a.Level - b.Level })
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("walked %v, want %v (%v)", got, want, err)
			}
		})
	}
}

func TestVectorsReject(t *testing.T) {
	for _, v := range loadVectors(t).Reject {
		t.Run(v.Name, func(t *testing.T) {
			mem := newMemory()
			for _, p := range v.Pages {
				mem.blocks[block.Digest(p.Digest)] = p.plain(t)
			}
			for name, read := range readers {
				if err := read(mem, Map{Size: v.Size, BlockSize: v.BlockSize, Root: block.Digest(v.Root)}); err == nil {
					t.Errorf("%s reads it, but %s", name, v.Reason)
				}
			}
		})
	}
}
