package blockstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// tables lists the table files of blocks/.
func tables(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.List("v/blocks")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range names {
		if isTable(n) {
			out = append(out, "v/blocks/"+n)
		}
	}
	return out
}

// damage replaces a table's contents.
func damage(t *testing.T, fs vfs.FS, path string, change func([]byte) []byte) {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close(), fs.Remove(path), writeFile(fs, path, string(change(b)))); err != nil {
		t.Fatal(err)
	}
}

// tableWith finds the table and offset of a block that is stored raw.
func tableWith(t *testing.T, fs vfs.FS, plain []byte) (path string, offset int) {
	t.Helper()
	for _, p := range tables(t, fs) {
		f, err := fs.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(b, plain); i >= 0 {
			return p, i
		}
	}
	t.Fatal("block is in no table")
	return "", 0
}

func flipAt(i int) func([]byte) []byte {
	return func(b []byte) []byte { b[i] ^= 0x10; return b }
}

// damagedVault has two points that share blocks 10 … 19, and one apart.
func damagedVault(t *testing.T) *vfs.MemFS {
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	testBackup(t, s, "left", 0, 20)
	testBackup(t, s, "right", 10, 30)
	testBackup(t, s, "apart", 40, 50)
	testClose(t, s)
	return mem
}

func TestFlippedByte(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name    string
		n       int // block
		damaged []string
	}{
		{"shared block", 15, []string{"left", "right"}},
		{"first block", 0, []string{"left"}},
		{"last block", 49, []string{"apart"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := damagedVault(t)
			plain := testPlain(c.n)
			d := block.Sum(plain)
			path, off := tableWith(t, mem, plain)
			damage(t, mem, path, flipAt(off+1000))
			log := &testLog{}
			s := testOpen(t, "v", Options{FS: mem, Logger: log})

			for name, read := range map[string]func(context.Context, []block.Digest) ([][]byte, error){"ReadBlocks": s.ReadBlocks, "ReadStored": s.ReadStored, "Reader": s.Reader("some point").ReadBlocks} {
				_, err := read(ctx, []block.Digest{d})
				var ce *CorruptError
				wantErr(t, name, err, ErrCorrupt)
				if !errors.As(err, &ce) || ce.Digest != d || ce.ID == 0 || ce.Err == nil {
					t.Errorf("%s: %v does not name the block", name, err)
				} else if name == "Reader" && (ce.Point != "some point" || !strings.Contains(err.Error(), "some point")) {
					t.Errorf("%s: %v does not name the point", name, err)
				} else if !strings.Contains(err.Error(), d.String()) {
					t.Errorf("%s: message %q lacks the digest", name, err)
				}
			}
			if log.lines() == 0 {
				t.Error("nothing was logged")
			}
			for _, id := range []string{"left", "right", "apart"} {
				r, err := s.VerifyPoint(ctx, id, nil)
				if err != nil {
					t.Fatal(err)
				}
				if slices.Contains(c.damaged, id) {
					if r.BadCount != 1 || r.Bad[0].Digest != d || r.Bad[0].Page || !slices.Equal(r.Damaged, []string{id}) {
						t.Errorf("verify %s: %v", id, r)
					}
				} else if r.BadCount > 0 || len(r.Damaged) > 0 {
					t.Errorf("verify %s: %v", id, r)
				}
			}
			r, err := s.Verify(ctx, nil)
			if err != nil || r.BadCount != 1 || r.Bad[0].Digest != d || r.Bad[0].Err == nil || !slices.Equal(slices.Sorted(slices.Values(r.Damaged)), slices.Sorted(slices.Values(c.damaged))) || r.Points != 3 {
				t.Errorf("verify: %v, %+v", err, r)
			}
			// All else goes on.
			testBackup(t, s, "more", 60, 63)
			if s.Info().Failed != nil {
				t.Error(s.Info().Failed)
			}
		})
	}
}

// TestEveryByte flips one byte here and there of everything in blocks/'s
// tables. Whatever it hits, no read gives wrong bytes, and what can be read is
// right.
func TestEveryByte(t *testing.T) {
	ctx := context.Background()
	rng := newRand(t)
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	// Small blocks, because Pebble looks at every bit of a damaged one.
	small := func(n int) []byte { return append(testPlain(n)[:1500], make([]byte, testBlock-1500)...) }
	var ds []block.Digest
	u := startUpload(t, s, "u")
	for n := range 5 {
		ds = append(ds, block.Sum(small(n)))
		if _, err := u.Put(ctx, []Block{{ds[n], block.Encode(nil, small(n), block.Fastest)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	testClose(t, s)
	path := tables(t, mem)[0]
	fi, err := mem.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	size := int(fi.Size())
	var places []int
	for i := range 15 {
		places = append(places, rng.IntN(size), size-1-i*5) // the tail has the indexes
	}
	var good, bad int
	for _, at := range places {
		damage(t, mem, path, flipAt(at))
		s, err := Open("v", Options{FS: mem})
		if err != nil {
			wantErr(t, "open", err, ErrCorrupt)
			bad++
		} else {
			for n, d := range ds {
				p, err := s.ReadBlocks(ctx, []block.Digest{d})
				if err == nil && !bytes.Equal(p[0], small(n)) {
					t.Fatalf("byte %d flipped: wrong bytes of block %d", at, n)
				}
				if err != nil {
					wantErr(t, "read", err, ErrCorrupt)
					bad++
				} else {
					good++
				}
			}
			if r, err := s.Verify(ctx, nil); err != nil {
				t.Errorf("byte %d flipped: verify: %v, %+v", at, err, r)
			}
			testClose(t, s)
		}
		damage(t, mem, path, flipAt(at)) // and back
	}
	t.Logf("%d blocks read, %d refused", good, bad)
	if good == 0 || bad == 0 {
		t.Error("one of the two never happened")
	}
}

func TestLostTable(t *testing.T) {
	ctx := context.Background()
	for name, change := range map[string]func(*testing.T, *vfs.MemFS, string){
		"removed": func(t *testing.T, mem *vfs.MemFS, path string) {
			if err := mem.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"cut short": func(t *testing.T, mem *vfs.MemFS, path string) {
			damage(t, mem, path, func(b []byte) []byte { return b[:len(b)/2] })
		},
		"empty": func(t *testing.T, mem *vfs.MemFS, path string) {
			damage(t, mem, path, func([]byte) []byte { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := damagedVault(t)
			path, _ := tableWith(t, mem, testPlain(15))
			change(t, mem, path)
			s := testOpen(t, "v", Options{FS: mem})
			_, err := s.Reader("left").ReadBlocks(ctx, digestsOf(testBlocks(15)))
			var ce *CorruptError
			if !errors.As(err, &ce) || ce.Point != "left" {
				t.Errorf("read: %v", err)
			}
			if err := s.checkPoint("apart", 40, 50); err != nil {
				t.Errorf("what lies in other tables: %v", err)
			}
			r, err := s.Verify(ctx, nil)
			slices.Sort(r.Damaged)
			if err != nil || r.BadCount != 21 || !slices.Equal(r.Damaged, []string{"left", "right"}) {
				t.Errorf("verify: %v, %d bad, damaged %v", err, r.BadCount, r.Damaged)
			}
			testBackup(t, s, "more", 60, 63)
		})
	}
}

func setNext(s *Store, id uint64) {
	st := *s.st.Load()
	st.next = id
	s.st.Store(&st)
}

// TestWrongIndex has an index that says what is not so.
func TestWrongIndex(t *testing.T) {
	ctx := context.Background()
	mem := damagedVault(t)
	s := testOpen(t, "v", Options{FS: mem})
	ds := digestsOf(testBlocks(1, 2, 3, 4, 41))
	es, err := s.lookup(ds)
	if err != nil {
		t.Fatal(err)
	}
	wrong := es[0]
	wrong.id = es[1].id // another block
	nowhere := es[2]
	nowhere.id = 1 << 40
	b := s.index.NewBatch()
	err = errors.Join(
		b.Set(digestKey(nil, ds[0]), wrong.append(nil), nil),
		b.Set(digestKey(nil, ds[2]), nowhere.append(nil), nil),
		b.Delete(digestKey(nil, ds[4]), nil),
		b.Commit(pebble.Sync),
	)
	if err != nil {
		t.Fatal(err)
	}
	setNext(s, 1<<40+1) // as if that id were old
	for _, n := range []int{0, 2} {
		_, err := s.ReadBlocks(ctx, ds[n:n+1])
		var ce *CorruptError
		if !errors.As(err, &ce) || ce.Digest != ds[n] {
			t.Errorf("read: %v", err)
		}
	}
	_, err = s.ReadBlocks(ctx, ds[4:])
	wantErr(t, "read what the index lost", err, ErrBlockMissing)
	r, err := s.VerifyPoint(ctx, "left", nil)
	if err != nil || r.BadCount != 2 {
		t.Errorf("verify left: %v, %+v", err, r)
	}
	r, err = s.VerifyPoint(ctx, "apart", nil)
	if err != nil || r.BadCount != 1 || r.Bad[0].Digest != ds[4] || !errors.Is(r.Bad[0].Err, ErrBlockMissing) {
		t.Errorf("verify apart: %v, %+v", err, r)
	}
	r, err = s.VerifyPoint(ctx, "right", nil)
	if err != nil || r.BadCount != 0 {
		t.Errorf("verify right: %v, %+v", err, r)
	}
	setNext(s, 200) // do not scan 2⁴⁰ ids
	if err := s.index.Delete(digestKey(nil, ds[2]), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	r, err = s.Verify(ctx, nil)
	slices.Sort(r.Damaged)
	// Orphans: the blocks of which the index lost or bent the entry.
	if err != nil || r.BadCount != 3 || !slices.Equal(r.Damaged, []string{"apart", "left"}) || r.Orphans != 3 {
		t.Errorf("verify: %v, %+v", err, r)
	}
}

// TestDamagedPage damages a page above data: what is below it is not reached
// from there, and the points above it are named, through all levels.
func TestDamagedPage(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	// Three levels: 256² blocks and more, mostly zeros.
	const size = (256*256 + 1) * testBlock
	ds := digestsOf(testBlocks(1, 2, 3))
	points := map[string][]uint64{"a": {5, 70}, "b": {5, 300}, "c": {66000 - 500}}
	var leaf block.Digest // of block 5 and 70
	for id, at := range points {
		u := startUpload(t, s, id)
		if _, err := u.putTest(1, 4); err != nil {
			t.Fatal(err)
		}
		b, err := diskmap.NewBuilder(size, testBlock, nil, nil, u)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range at {
			if err := b.Set(ctx, n, ds[i]); err != nil {
				t.Fatal(err)
			}
		}
		m, err := b.Finish(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Commit(ctx, Point{ID: id, Disks: []Disk{{"vda", m}}}); err != nil {
			t.Fatal(err)
		}
		if id == "a" {
			err := diskmap.WalkPages(ctx, s, m, diskmap.Visitor{Leaf: func(p diskmap.Page, _ []block.Digest) error { leaf = p.Digest; return nil }})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	es, err := s.lookup([]block.Digest{leaf})
	if err != nil {
		t.Fatal(err)
	}
	// Damage is done by taking the entry away: tables are covered elsewhere.
	e := es[0]
	e.id += 1 << 20
	if err := s.index.Set(digestKey(nil, leaf), e.append(nil), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	s.res.verified.forget(s.num)
	r, err := s.VerifyPoint(ctx, "a", nil)
	if err != nil || r.BadCount != 1 || !r.Bad[0].Page || r.Bad[0].Digest != leaf {
		t.Errorf("verify a: %v, %+v", err, r)
	}
	for _, id := range []string{"b", "c"} {
		if r, err := s.VerifyPoint(ctx, id, nil); err != nil || r.BadCount != 0 {
			t.Errorf("verify %s: %v, %+v", id, err, r)
		}
	}
	setNext(s, e.id+1)
	r, err = s.Verify(ctx, nil)
	if err != nil || r.BadCount != 1 || !slices.Equal(r.Damaged, []string{"a"}) {
		t.Errorf("verify: %v, %+v", err, r)
	}
	// The bad block shared by all three taints all of them.
	if err := s.index.Delete(digestKey(nil, ds[0]), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	r, err = s.Verify(ctx, nil)
	slices.Sort(r.Damaged)
	if err != nil || r.BadCount != 2 || !slices.Equal(r.Damaged, []string{"a", "b", "c"}) {
		t.Errorf("verify: %v, %+v", err, r)
	}
}
