package upload

import (
	"context"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"cairn/blockstore"
	"cairn/blockstore/block"
)

func TestMapErrors(t *testing.T) {
	f := setup(t)
	ctx := context.Background()
	s := f.create("", Spec{Disks: []Disk{{Name: "vda", Size: 10*blockSize - 1}, {Name: "vdb"}}})
	mustSend(t, s, many(1, 2))
	one := flat(digests(1))
	for name, run := range map[string]func(w *MapWriter) error{
		"behind the end": func(w *MapWriter) error { return w.Set(ctx, 10, one) },
		"over the end":   func(w *MapWriter) error { return w.SetZero(ctx, 9, 2) },
		"overflow":       func(w *MapWriter) error { return w.SetZero(ctx, 9, 1<<64-2) },
		"half a digest":  func(w *MapWriter) error { return w.Set(ctx, 0, one[:31]) },
		"twice":          func(w *MapWriter) error { return errors.Join(w.Set(ctx, 3, one), w.Set(ctx, 3, one)) },
		"descending":     func(w *MapWriter) error { return errors.Join(w.SetZero(ctx, 3, 2), w.Set(ctx, 4, one)) },
	} {
		t.Run(name, func(t *testing.T) {
			w, err := s.WriteMap("vda", false)
			if err != nil {
				t.Fatal(err)
			}
			if err := run(w); !errors.As(err, new(*MapError)) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := s.WriteMap("vdc", false); !errors.Is(err, ErrDisk) {
		t.Errorf("unknown disk: %v", err)
	}
	if _, err := s.WriteMap("vda", true); !errors.As(err, new(*MapError)) {
		t.Errorf("no base: %v", err)
	}
	w, err := s.WriteMap("vda", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Set(ctx, 2, flat(digests(1, 0, 5, 2, 6))); err != nil {
		t.Fatal(err)
	}
	var missing *MissingError
	if _, err = w.Finish(ctx); !errors.As(err, &missing) || missing.Index != 4 || missing.Digest != digests(5)[0] || missing.More != 1 || missing.Disk != "vda" {
		t.Errorf("missing block: %v", err)
	}
	if _, err := commit(s, "p"); !errors.As(err, new(*MapError)) || err.Error() != "no map was written for vda, vdb" {
		t.Errorf("commit: %v", err)
	}
	// A map written again takes the place of the first.
	writeMap(t, s, 1)
	m := writeMap(t, s, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2)
	if m.Data != blockSize-1 || m.Changed != 1 {
		t.Errorf("a last block that the disk ends in: %+v", m)
	}
	w, err = s.WriteMap("vdb", false)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := w.Finish(ctx); err != nil || m.Root != block.Zero {
		t.Errorf("disk without bytes: %v, %v", m, err)
	}
	if _, err := commit(s, "p"); err != nil {
		t.Fatal(err)
	}
	if p, err := f.store.Point("p"); err != nil || p.Disks[0].Map.Root != m.Root {
		t.Errorf("point %+v, %v", p, err)
	}
}

// TestMapOverBase compares maps over a base, of a disk that grows or shrinks,
// with maps of the same content from nothing.
func TestMapOverBase(t *testing.T) {
	f := setup(t)
	ctx := context.Background()
	var all [][]blockstore.Block
	for i := 1; i < 6; i++ {
		all = append(all, many(i))
	}
	keep := f.create("", Spec{})
	mustSend(t, keep, all...)
	point := 0
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.OneOf(rapid.Int64Range(0, 3*blockSize), rapid.Int64Range(0, 600*blockSize))
		content := func(label string, size int64) map[uint64]int {
			m := map[uint64]int{}
			blocks := (uint64(size) + blockSize - 1) / blockSize
			if blocks == 0 {
				return m
			}
			for range rapid.IntRange(0, 20).Draw(t, label) {
				m[rapid.Uint64Range(0, blocks-1).Draw(t, "index")] = rapid.IntRange(0, 5).Draw(t, "block")
			}
			return m
		}
		write := func(s *Session, over bool, c map[uint64]int, size int64) (Map, error) {
			w, err := s.WriteMap("vda", over)
			if err != nil {
				t.Fatal(err)
			}
			for i := range (uint64(size) + blockSize - 1) / blockSize {
				n, ok := c[i]
				if !ok {
					continue
				}
				if n == 0 {
					err = w.SetZero(ctx, i, 1)
				} else {
					err = w.Set(ctx, i, flat(digests(n)))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			return w.Finish(ctx)
		}
		sizeA, sizeB := sizes.Draw(t, "size of base"), sizes.Draw(t, "size")
		a, b := content("base", sizeA), content("changes", sizeB)
		sa := f.create("", Spec{Disks: []Disk{{Name: "vda", Size: sizeA}}})
		base, err := write(sa, false, a, sizeA)
		if err != nil {
			t.Fatal(err)
		}
		point++
		id := string(rune('a' + point%26))
		if _, err := commit(sa, id); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := f.store.DeletePoint(ctx, id); err != nil {
				t.Fatal(err)
			}
		}()
		sb := f.create("", Spec{Base: id, Disks: []Disk{{Name: "vda", Size: sizeB, Base: &base}}})
		defer sb.Abort(ErrCancelled)
		last := uint64(sizeB-1) / blockSize
		_, given := b[last]
		over, err := write(sb, true, b, sizeB)
		if sizeB > 0 && sizeB < sizeA && sizeB%blockSize != 0 && !given && a[last] != 0 {
			if !errors.As(err, new(*MapError)) {
				t.Fatalf("shrunk into block %d: %v", last, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		whole := map[uint64]int{}
		for i := range (uint64(sizeB) + blockSize - 1) / blockSize {
			n, ok := b[i]
			if !ok {
				n = a[i]
			}
			if n != 0 {
				whole[i] = n
			}
		}
		plain, err := write(sb, false, whole, sizeB)
		if err != nil {
			t.Fatal(err)
		}
		if plain != over {
			t.Fatalf("over the base %+v, whole %+v", over, plain)
		}
		bytes, changed := int64(0), int64(0)
		for i := range whole {
			bytes += min(blockSize, sizeB-int64(i)*blockSize)
		}
		for i := range (uint64(max(sizeA, sizeB)) + blockSize - 1) / blockSize {
			if a[i] != whole[i] {
				changed++
			}
		}
		if over.Data != bytes || over.Changed != changed {
			t.Fatalf("data %d, changed %d, want %d and %d", over.Data, over.Changed, bytes, changed)
		}
	})
}

// TestHugeMap writes the map of a disk of 64 TiB: a block here and there, and
// runs as long as they get.
func TestHugeMap(t *testing.T) {
	f := setup(t)
	ctx := context.Background()
	s := f.create("", Spec{Disks: []Disk{{Name: "vda", Size: 64 << 40}}})
	mustSend(t, s, many(1, 2))
	w, err := s.WriteMap("vda", false)
	if err != nil {
		t.Fatal(err)
	}
	blocks := uint64(64 << 40 / blockSize)
	for i := uint64(0); i < blocks; i += blocks / 64 {
		if err := errors.Join(w.Set(ctx, i, flat(digests(1, 2, 1))), w.SetZero(ctx, i+3, blocks/64-3)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Finish(ctx)
	if err != nil || m.Data != 64*3*blockSize {
		t.Fatalf("%+v, %v", m, err)
	}
}
