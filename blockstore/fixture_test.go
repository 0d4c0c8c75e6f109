package blockstore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// fixture is what testdata/vault-v1 holds: block n of the disk has n repeated,
// but every fourth is zeros; block 7 does not compress.
const fixtureBlocks = 300

func fixtureBlock(n int) []byte {
	switch {
	case n == 7:
		p := make([]byte, testBlock)
		rand.NewChaCha8([32]byte{7, 0, 0, 1}).Read(p)
		return p
	case n%4 == 0:
		return make([]byte, testBlock)
	}
	return bytes.Repeat([]byte{byte(n), byte(n >> 8), 0xca, 0x17}, testBlock/4)
}

// makeFixture writes a vault with this version of the program.
func makeFixture(dir string) error {
	ctx := context.Background()
	s, err := Create(dir, testOptions(Options{}))
	if err != nil {
		return err
	}
	u, err := s.StartUpload("fixture")
	if err != nil {
		return err
	}
	b, err := diskmap.NewBuilder(fixtureBlocks*testBlock-100, testBlock, nil, s, u)
	if err != nil {
		return err
	}
	for n := range fixtureBlocks {
		p := fixtureBlock(n)
		if n == fixtureBlocks-1 {
			clear(p[testBlock-100:])
		}
		if block.IsZero(p) {
			continue
		}
		d := block.Sum(p)
		_, err := u.Put(ctx, []Block{{d, block.Encode(nil, p, block.Default)}})
		if err := errors.Join(err, b.Set(ctx, uint64(n), d)); err != nil {
			return err
		}
	}
	m, err := b.Finish(ctx)
	if err != nil {
		return err
	}
	first := Point{ID: "web1/0001", Meta: []byte(`{"made":"by format 1"}`), Disks: []Disk{{"vda", m}, {"empty", diskmap.Map{BlockSize: testBlock}}}}
	if err := u.Commit(ctx, first, Mutation{Key: "items/web1", Value: []byte("protected")}); err != nil {
		return err
	}
	// Opened anew, the index has a table, and a WAL for what comes now.
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = Open(dir, Options{}); err != nil {
		return err
	}
	if u, err = s.StartUpload("second"); err != nil {
		return err
	}
	second := Point{ID: "web1/0002", Disks: []Disk{{"vda", m}}}
	return errors.Join(u.Commit(ctx, second), s.Apply(ctx, Mutation{Key: "policies/daily", Value: []byte{0, 0xff}}), s.Close())
}

// TestFixture opens a vault that the first version with this format wrote. It
// must be readable, as long as there is a program that knows format 1.
func TestFixture(t *testing.T) {
	src := filepath.Join("testdata", "vault-v1")
	if _, err := os.Stat(src); errors.Is(err, fs.ErrNotExist) && *update {
		if err := makeFixture(src); err != nil {
			t.Fatal(err)
		}
		for _, n := range []string{"LOCK", "index/LOCK", "blocks/LOCK", "incoming"} {
			if err := os.RemoveAll(filepath.Join(src, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "vault")
	if err := os.CopyFS(dir, os.DirFS(src)); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, o := range []Options{{ReadOnly: true}, {}, {}} {
		s := testOpen(t, dir, o)
		if i := s.Info(); i.Version != 1 || i.BlockSize != testBlock {
			t.Errorf("info %+v", i)
		}
		var ids []string
		if err := s.Points("web1/", "", func(p Point) bool { ids = append(ids, p.ID); return true }); err != nil || len(ids) < 2 || ids[0] != "web1/0001" || ids[1] != "web1/0002" {
			t.Errorf("points %v, %v", ids, err)
		}
		p, err := s.Point("web1/0001")
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Disks) != 2 || p.Disks[0].Map.Size != fixtureBlocks*testBlock-100 || string(p.Meta) != `{"made":"by format 1"}` {
			t.Errorf("point %+v", p)
		}
		n := 0
		err = diskmap.Walk(ctx, s, p.Disks[0].Map, 0, fixtureBlocks, func(i uint64, d block.Digest) error {
			want := fixtureBlock(int(i))
			if i == fixtureBlocks-1 {
				clear(want[testBlock-100:])
			}
			got, err := s.ReadBlocks(ctx, []block.Digest{d})
			if err == nil && !bytes.Equal(got[0], want) {
				t.Errorf("block %d differs", i)
			}
			n++
			return err
		})
		if err != nil || n != fixtureBlocks-fixtureBlocks/4 {
			t.Errorf("%d blocks, %v", n, err)
		}
		if v, err := s.Record("items/web1"); err != nil || string(v) != "protected" {
			t.Errorf("record %q, %v", v, err)
		}
		if r, err := s.Verify(ctx, nil); err != nil || r.BadCount > 0 || r.Orphans > 0 {
			t.Errorf("verify: %v, %+v", err, r)
		}
		if !o.ReadOnly { // it can be written on
			_, err := s.backupTest("web1/more"+string(rune('a'+len(ids))), 1000, 1010)
			if err != nil {
				t.Error(err)
			}
		}
		testClose(t, s)
	}
}
