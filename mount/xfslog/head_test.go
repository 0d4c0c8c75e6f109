package xfslog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"cairn/mount/filesys"
)

// steps commits transactions, each in a record of its own, that write their
// number into a sector, and gives where each record begins.
func steps(w *writer, from, to int) (at []uint32) {
	for i := from; i <= to; i++ {
		w.flush()
		at = append(at, w.at)
		w.begin(uint32(i))
		block := bytes.Repeat([]byte{byte(i)}, 1024)
		w.buffer(uint32(i), uint64(4*i), blftBitmap, 0, block, 0xFF)
		w.commit(uint32(i))
	}
	w.flush()
	return at
}

// replayed lists which of the first n of those transactions are replayed.
func replayed(t *testing.T, w *writer, l *Log, n int) (list []int) {
	t.Helper()
	got := after(t, w, l)
	for i := 1; i <= n; i++ {
		if bytes.Equal(got[4*i*sector:][:1024], bytes.Repeat([]byte{byte(i)}, 1024)) {
			list = append(list, i)
		}
	}
	return list
}

func expect(t *testing.T, what string, got []int, from, to int) {
	t.Helper()
	ok := len(got) == max(0, to-from+1)
	for i := range got {
		ok = ok && got[i] == from+i
	}
	if !ok {
		t.Errorf("%s: replayed %v, want %d to %d", what, got, from, to)
	}
}

// counter counts reads.
type counter struct {
	r     io.ReaderAt
	reads int
}

func (c *counter) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	return c.r.ReadAt(p, off)
}

// TestClean: a log that ends with an unmount costs few reads, wherever it ends.
func TestClean(t *testing.T) {
	forms(t, []bool{true}, func(t *testing.T, w *writer) {
		for range 200 {
			steps(w, 1, 1+w.rng.IntN(3))
			w.unmount()
			c := &counter{r: bytes.NewReader(w.volume)}
			l, err := Load(c, w.g)
			if err != nil || !l.Clean() || len(l.Report().Warnings()) > 0 {
				t.Fatalf("head at %d: %v", w.at, err)
			}
			// 8 for the search, and the record before.
			if c.reads > 16 {
				t.Fatalf("%d reads", c.reads)
			}
			if r := bytes.NewReader(w.volume); l.Overlay(r) != io.ReaderAt(r) {
				t.Error("an overlay of nothing")
			}
		}
	})
}

// TestEverywhere: every place of the head and the tail.
func TestEverywhere(t *testing.T) {
	forms(t, []bool{false, true}, func(t *testing.T, w *writer) {
		for range 150 {
			n := 1 + w.rng.IntN(8)
			w.tail = w.startOf()
			steps(w, 1, n)
			l := load(t, w)
			expect(t, l.Report().String(), replayed(t, w, l, 8), 1, n)
			if l.Report().Transactions != n {
				t.Fatalf("%v", l.Report())
			}
			clear(w.volume[:testLog])
			w.unmount()
		}
	})
}

// TestTorn: records at the head of which a part did not reach the disk, in any
// order, end the log before them.
func TestTorn(t *testing.T) {
	forms(t, []bool{false, true}, func(t *testing.T, w *writer) {
		w.sums = true
		for range 100 {
			w.tail = w.startOf()
			before := bytes.Clone(w.log())
			at := steps(w, 1, 6)
			end := w.at
			written := bytes.Clone(w.log())
			bad := w.rng.IntN(5) + 1 // the record with a hole
			next := end
			if bad < 5 {
				next = at[bad+1]
			}
			length := (next + w.size() - at[bad]) % w.size()
			hole := at[bad] + uint32(w.rng.IntN(int(length)))
			hole %= w.size()
			what := "missing"
			// What an unused further header says does not count.
			unused := hole == (at[bad]+1)%w.size() && w.most > cycleSectors*sector
			if unused || w.rng.IntN(2) == 0 {
				// As it was before: of the last cycle.
				copy(w.log()[hole*sector:][:sector], before[hole*sector:])
			} else {
				what = "damaged"
				p := w.log()[hole*sector:][:sector]
				for i := 4; i < 64; i++ {
					p[i+40] ^= 0x55
				}
			}
			l, err := Load(bytes.NewReader(w.volume), w.g)
			if err != nil {
				t.Fatalf("%s, record %d of %v, sector %d: %v", what, bad, at, hole, err)
			}
			expect(t, what+": "+l.Report().String(), replayed(t, w, l, 6), 1, bad)
			copy(w.log(), written)
			clear(w.volume[:testLog])
			w.unmount()
		}
	})
}

// TestFirstWrap: of a log that has just begun its second round, the last sector
// of the first did not reach the disk.
func TestFirstWrap(t *testing.T) {
	w := newWriter(true, 2, binary.LittleEndian, seeded(t))
	for w.at < w.size()-16 {
		steps(w, 1, 1)
		w.unmount()
	}
	clear(w.volume[:testLog])
	w.tail = w.startOf()
	at := steps(w, 1, 8)
	if w.cycle != 2 {
		t.Fatalf("records at %v are in one round", at)
	}
	whole := 0 // records in front of the one that is incomplete
	for _, next := range at[1:] {
		if next < at[0] {
			break
		}
		whole++
	}
	clear(w.log()[len(w.log())-sector:])
	l, err := Load(bytes.NewReader(w.volume), w.g)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, l.Report().String(), replayed(t, w, l, 8), 1, whole)
}

// TestNeverWritten: a log of which more was never written than can be under way.
func TestNeverWritten(t *testing.T) {
	const size = 16 << 10
	log := make([]byte, size*sector)
	for i := range size - maxInFlight*maxRecord/sector {
		be.PutUint32(log[i*sector:], 2)
	}
	r := &ring{r: bytes.NewReader(log), size: size, g: &Geometry{}}
	if _, _, _, err := r.searchHead(); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

// TestTailOverwritten: when the records under way have damaged the first ones,
// the log begins behind those.
func TestTailOverwritten(t *testing.T) {
	w := newWriter(true, 2, binary.LittleEndian, seeded(t))
	w.tail = w.startOf()
	at := steps(w, 1, 12) // more than can be under way
	w.log()[at[0]*sector+sector+20] ^= 1
	l, err := Load(bytes.NewReader(w.volume), w.g)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, l.Report().String(), replayed(t, w, l, 12), 2, 12)
	if l.Report().Torn == "" {
		t.Error("it does not say so")
	}
}

// TestMiddleDamaged: a record that fails its checksum far from head and tail is
// an error, not an end.
func TestMiddleDamaged(t *testing.T) {
	w := newWriter(true, 2, binary.LittleEndian, seeded(t))
	w.g.LogSize = 4 << 20
	w.volume = append(w.volume, make([]byte, 8<<20)...)
	clear(w.log())
	w.at, w.cycle = 0, 1
	w.most = 512
	w.unmount()
	w.tail = w.startOf()
	at := steps(w, 1, 100)
	w.log()[at[50]*sector+sector+20] ^= 1
	w.most = 32 << 10
	refused(t, w, filesys.ErrCorrupt, "fails its checksum")
}

// TestUncommitted: what was not committed is not there, nor what began before
// the tail.
func TestUncommitted(t *testing.T) {
	w := newWriter(true, 2, binary.LittleEndian, seeded(t))
	block := bytes.Repeat([]byte{1}, 1024)
	w.begin(1)
	w.buffer(1, 4, blftBitmap, 0, block, 0xFF)
	w.flush()
	w.tail = w.startOf()
	w.begin(2)
	w.buffer(2, 8, blftBitmap, 0, block, 0xFF)
	w.commit(1)
	w.flush()
	l := load(t, w)
	if got := after(t, w, l); !bytes.Equal(got, w.volume) || l.Report().Transactions != 0 {
		t.Errorf("something was replayed: %v", l.Report())
	}
	if len(l.Report().Warnings()) != 1 {
		t.Errorf("%q", l.Report().Warnings())
	}
}
