package blockstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore/block"
)

// TestDamageHurtsNoNeighbour: of blocks that are read together, only the one
// that is damaged cannot be read.
func TestDamageHurtsNoNeighbour(t *testing.T) {
	fs := vfs.NewMem()
	s, err := Create("vault", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.StartUpload("u")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.NewChaCha8([32]byte{1})
	var ds []block.Digest
	var bad []byte
	for i := range 20 {
		p := make([]byte, block.DefaultSize)
		_, _ = r.Read(p)
		ds = append(ds, block.Sum(p))
		if _, err := u.Put(context.Background(), []Block{{ds[i], block.Encode(nil, p, block.None)}}); err != nil {
			t.Fatal(err)
		}
		if i == 10 {
			bad = p[500:600]
		}
	}
	if err := errors.Join(u.Flush(context.Background()), s.Close()); err != nil {
		t.Fatal(err)
	}
	flip(t, fs, bad)
	if s, err = Open("vault", Options{FS: fs}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for skip := range 5 {
		sound := append(append([]block.Digest{}, ds[:10-skip]...), ds[11+skip:]...)
		if _, err := s.ReadBlocks(context.Background(), sound); err != nil {
			t.Errorf("all but %d blocks on each side of the bad one: %v", skip, err)
		}
		s.res.verified.forget(s.num)
	}
	var c *CorruptError
	if _, err := s.ReadStored(context.Background(), ds); !errors.As(err, &c) || c.Digest != ds[10] {
		t.Errorf("all blocks: %v, want block %s damaged", err, ds[10])
	}
}

// flip changes a bit of the stored bytes that are needle.
func flip(t *testing.T, fs vfs.FS, needle []byte) {
	names, err := fs.List("vault/blocks")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := fs.OpenReadWrite(fs.PathJoin("vault/blocks", name), vfs.WriteCategoryUnspecified)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(f)
		if i := bytes.Index(b, needle); err == nil && i >= 0 {
			_, err = f.WriteAt([]byte{b[i] ^ 1}, int64(i))
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			return
		}
		f.Close()
	}
	t.Fatal("block not found in any table")
}
