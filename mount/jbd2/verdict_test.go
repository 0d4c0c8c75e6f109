package jbd2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"cairn/mount/filesys"
)

// three writes three transactions of a revoke record, a descriptor, two blocks
// and a commit: records at steps 5k, 5k+1 and 5k+4. Transaction k has the
// blocks 2k and 2k+1; block 50, which nobody logs, is revoked.
func three(t testing.TB, f format) *writer {
	f.first, f.start, f.maxLen, f.sequence = 1, 1, 60, 20
	if f.version == 0 {
		f.version = 2
	}
	f.blockSize = 1024
	w := newWriter(f, seeded(t))
	for k := range uint64(3) {
		w.revoke(50)
		w.log([]uint64{2 * k, 2*k + 1}, [][]byte{randomBytes(w.rng, 1024), randomBytes(w.rng, 1024)})
		w.commit()
	}
	return w
}

// TestDamage: one record is damaged, in a log of each kind. What the kernel
// takes as the end of the log ends it here; what makes it refuse is ErrCorrupt.
func TestDamage(t *testing.T) {
	const (
		revoke, descriptor, data, commit = 0, 1, 2, 4
		refused                          = -1
	)
	sync := func(sum int) format { return format{checksum: sum} }
	async := func(sum int) format { return format{checksum: sum, async: true} }
	wide := func(sum int) format { return format{checksum: sum, wide: true} }
	flip := func(at int) func(*writer, []byte) {
		return func(_ *writer, b []byte) { b[at] ^= 0x40 }
	}
	flipOld := func(at int) func(*writer, []byte) { // … and a commit from long ago
		return func(w *writer, b []byte) {
			b[at] ^= 0x40
			be.PutUint64(w.slot(2*5 + commit)[48:], 1_000_000_000)
		}
	}
	for _, c := range []struct {
		name   string
		f      format
		trans  uint32
		record uint32
		damage func(w *writer, block []byte)
		want   int // transactions
		end    string
	}{
		{"magic", sync(0), 1, descriptor, flip(0), 1, "no record in log block 7"},
		{"type", sync(0), 1, descriptor, flip(7), 1, "log block 7 has record type 65"},
		{"sequence", sync(0), 1, commit, flip(11), 1, "log block 10 is of transaction 85, not 21"},
		{"nothing", sync(3), 0, revoke, func(*writer, []byte) {}, 3, "no record in log block 16"},
		{"commit garbage without checksum", sync(0), 2, commit, flip(300), 3, ""},

		{"v1 descriptor", sync(1), 1, descriptor, flip(500), refused, "transaction 21 fails"},
		{"v1 data", sync(1), 1, data, flip(500), refused, "transaction 21 fails"},
		{"v1 commit", sync(1), 1, commit, flip(16), refused, "transaction 21 fails"},
		{"v1 commit type", sync(1), 1, commit, flip(12), refused, "transaction 21 fails"},
		{"v1 commit size", sync(1), 1, commit, flip(13), refused, "transaction 21 fails"},
		{"v1 revoke is not summed", sync(1), 1, revoke, flip(500), 3, ""},
		{"v1 last", sync(1), 2, data, flip(500), refused, "transaction 22 fails"},
		{"v1 last, older", sync(1), 2, data, flipOld(500), 2, "transaction 22 fails its checksum and is older"},
		{"v1 no checksum", sync(1), 1, commit, func(_ *writer, b []byte) { clear(b[12:48]) }, 3, ""},
		{"v1 async last", async(1), 2, data, flip(500), 2, "transaction 22 fails its checksum"},
		{"v1 async middle", async(1), 1, data, flip(500), refused, "transaction 21 fails its checksum and 22 was committed"},
		{"v1 async middle, next cut off", async(1), 1, data, func(w *writer, b []byte) {
			b[500] ^= 1
			clear(w.slot(2*5 + commit))
		}, 1, "transaction 21 fails its checksum"},

		{"v2 descriptor", sync(2), 1, descriptor, flip(500), refused, "transaction 21 fails"},
		{"v2 revoke", sync(2), 1, revoke, flip(500), refused, "transaction 21 fails"},
		{"v2 commit", sync(2), 1, commit, flip(16), refused, "transaction 21 fails"},
		{"v2 async commit", async(2), 1, commit, flip(16), 1, "transaction 21 fails its checksum"},
		{"v3 descriptor", sync(3), 1, descriptor, flip(500), refused, "transaction 21 fails"},
		{"v3 async descriptor", async(3), 1, descriptor, flip(500), refused, "transaction 21 fails"},
		{"v3 revoke", wide(3), 1, revoke, flip(500), refused, "transaction 21 fails"},
		{"v3 commit", sync(3), 1, commit, flip(16), refused, "transaction 21 fails"},
		{"v3 async commit", async(3), 1, commit, flip(20), 1, "transaction 21 fails its checksum"},
		{"v3 descriptor, older", sync(3), 2, descriptor, flipOld(500), 2, "transaction 22 fails its checksum and is older"},
		{"v3 revoke, older", sync(3), 2, revoke, flipOld(500), 2, "transaction 22 fails its checksum and is older"},
		{"v3 commit, older", sync(3), 2, commit, flipOld(500), 2, "transaction 22 fails its checksum and is older"},
		{"v3 descriptor, never committed", sync(3), 2, descriptor, func(w *writer, b []byte) {
			b[500] ^= 1
			clear(w.slot(2*5 + commit))
		}, 2, "no record in log block 15"},
		{"v3 only the header is summed", sync(3), 1, commit, func(w *writer, b []byte) {
			for i := 64; i < len(b); i++ {
				b[i] = byte(i)
			}
		}, 3, ""},

		{"revoke too long", sync(0), 1, revoke, func(_ *writer, b []byte) { be.PutUint32(b[12:], 1025) }, refused, "log block 6: revoke record of 1025 bytes"},
		{"revoke too long for its tail", sync(2), 1, revoke, func(w *writer, b []byte) {
			be.PutUint32(b[12:], 1021)
			w.seal(b)
		}, refused, "revoke record of 1021 bytes"},
		{"revoke too long, never committed", sync(0), 2, revoke, func(w *writer, b []byte) {
			be.PutUint32(b[12:], 1025)
			clear(w.slot(2*5 + commit))
		}, 2, ""},
		{"revoke shorter than its header", sync(0), 1, revoke, func(_ *writer, b []byte) { be.PutUint32(b[12:], 3) }, 3, ""},
		{"block no volume has", wide(0), 1, descriptor, func(_ *writer, b []byte) { be.PutUint32(b[12+8:], 1<<30) }, refused, "logs block 4611686018427387906, which no volume has"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := three(t, c.f)
			c.damage(w, w.slot(5*c.trans+c.record))
			l, err := Load(bytes.NewReader(w.image), int64(len(w.image)))
			if c.want == refused {
				if !errors.Is(err, filesys.ErrCorrupt) || !strings.Contains(err.Error(), c.end) {
					t.Fatalf("Load: %v, want %q", err, c.end)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r := l.Report(); !strings.Contains(r.End, c.end) {
				t.Errorf("log ends because %q, want %q", r.End, c.end)
			}
			expect(t, w, l, c.want)
		})
	}
}

// TestDamagedData: with checksums of its own, a damaged block is an error where
// it is read, never its bytes and never the older ones, unless it is revoked or
// logged again.
func TestDamagedData(t *testing.T) {
	for sum := 2; sum <= 3; sum++ {
		w := three(t, format{checksum: sum})
		w.slot(5 + 3)[900] ^= 1 // block 3
		o := load(t, w.image).Overlay(bytes.NewReader(make([]byte, 120*1024)))
		p := make([]byte, 120*1024)
		if n, err := o.ReadAt(p, 0); n != 3*1024 || !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("v%d: read across the block: %d, %v", sum, n, err)
		}
		if n, err := o.ReadAt(p[:1], 3*1024); n != 0 || !errors.Is(err, filesys.ErrCorrupt) || !strings.Contains(err.Error(), "block 3 fails") {
			t.Errorf("v%d: read in the block: %d, %v", sum, n, err)
		}
		if _, err := o.ReadAt(p[:3*1024], 0); err != nil || !bytes.Equal(p[2048:3072], w.writes[2].data) {
			t.Errorf("v%d: read before the block: %v", sum, err)
		}
		if _, err := o.ReadAt(p[:1024], 4096); err != nil {
			t.Errorf("v%d: read behind the block: %v", sum, err)
		}
		w.revoke(3)
		w.commit()
		expect(t, w, load(t, w.image), 4)
		w.log([]uint64{3}, [][]byte{randomBytes(w.rng, 1024)})
		w.commit()
		expect(t, w, load(t, w.image), 5)
	}
}

func TestSuperblock(t *testing.T) {
	set := func(off int, v uint32) func(*writer) {
		return func(w *writer) {
			be.PutUint32(w.image[off:], v)
			w.sealSuperblock()
		}
	}
	for _, c := range []struct {
		name   string
		f      format
		change func(w *writer)
		err    error
		text   string
	}{
		{"magic", format{}, set(0, 1), filesys.ErrCorrupt, "magic 0x1"},
		{"type", format{}, set(4, 1), filesys.ErrCorrupt, "record type 1"},
		{"block size 0", format{}, set(12, 0), filesys.ErrCorrupt, "block size 0"},
		{"block size 512", format{}, set(12, 512), filesys.ErrCorrupt, "block size 512"},
		{"block size 3000", format{}, set(12, 3000), filesys.ErrCorrupt, "block size 3000"},
		{"block size huge", format{}, set(12, 1<<31), filesys.ErrCorrupt, "block size"},
		{"too long", format{}, set(16, 61), filesys.ErrCorrupt, "journal of 61 blocks of 1024 in a file of 61440 bytes"},
		{"far too long", format{}, set(16, math.MaxUint32), filesys.ErrCorrupt, "journal of 4294967295 blocks"},
		{"no blocks", format{}, set(16, 0), filesys.ErrCorrupt, "first block is 1 of 0"},
		{"first 0", format{}, set(20, 0), filesys.ErrCorrupt, "first block is 0"},
		{"first behind", format{}, set(20, 60), filesys.ErrCorrupt, "first block is 60"},
		{"start behind", format{}, set(28, 60), filesys.ErrCorrupt, "log starts at block 60, outside of 1 to 59"},
		{"start before", format{first: 5}, func(w *writer) {
			be.PutUint32(w.image[20:], 5)
			be.PutUint32(w.image[28:], 4)
		}, filesys.ErrCorrupt, "log starts at block 4"},
		{"incompat", format{}, set(40, 0x1001|0x80), filesys.ErrUnsupported, "features 0x80, 0x1000"},
		{"ro_compat", format{}, set(44, 2), filesys.ErrUnsupported, "features 0x2"},
		{"v2 and v3", format{checksum: 3}, set(40, 0x18), filesys.ErrCorrupt, "several checksum"},
		{"v1 and v3", format{checksum: 3}, set(36, 1), filesys.ErrCorrupt, "several checksum"},
		{"checksum type", format{checksum: 2}, set(80, 2<<24), filesys.ErrUnsupported, "checksum type 2"},
		{"checksum", format{checksum: 3}, func(w *writer) { w.image[700] = 1 }, filesys.ErrCorrupt, "superblock has checksum"},
		{"fast commits", format{}, set(40, 0x20), filesys.ErrCorrupt, "area of 256 blocks in a journal of 60"},
		{"cut off", format{}, func(w *writer) { w.image = w.image[:1000] }, filesys.ErrCorrupt, "1000 bytes"},
		{"empty", format{}, func(w *writer) { w.image = nil }, filesys.ErrCorrupt, "0 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := three(t, c.f)
			c.change(w)
			_, err := Load(bytes.NewReader(w.image), int64(len(w.image)))
			if !errors.Is(err, c.err) || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("Load: %v, want %q", err, c.text)
			}
		})
	}

	t.Run("clean", func(t *testing.T) {
		w := three(t, format{checksum: 3})
		set(28, 0)(w)
		l := load(t, w.image)
		if r := l.Report(); !r.Clean || r.BlockSize != 1024 || r.Checksum != 3 || r.String() != "the journal is clean" {
			t.Errorf("report %+v", r)
		}
		base := bytes.NewReader(nil)
		if o := l.Overlay(base); o != io.ReaderAt(base) {
			t.Error("the overlay of a clean journal is not the volume itself")
		}
	})
	t.Run("no transaction", func(t *testing.T) {
		w := three(t, format{})
		set(24, 99)(w)
		set(32, 0xfffffffb)(w)
		r := load(t, w.image).Report()
		if r.Clean || r.Transactions != 0 || r.First != 0 || r.Last != 0 || r.Errno != -5 {
			t.Errorf("report %+v", r)
		}
		if got := r.String(); got != "the journal holds no committed transaction (log block 1 is of transaction 20, not 99)" {
			t.Error(got)
		}
	})
	t.Run("v1 has no features", func(t *testing.T) {
		w := three(t, format{version: 1})
		set(36, math.MaxUint32)(w)
		set(40, math.MaxUint32)(w)
		set(44, math.MaxUint32)(w)
		expect(t, w, load(t, w.image), 3)
	})
	t.Run("journal ends early", func(t *testing.T) {
		w := three(t, format{})
		_, err := Load(bytes.NewReader(w.image[:5*1024]), int64(len(w.image)))
		if !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("Load: %v", err)
		}
	})
}

// TestCircles: logs on which a walk that only follows records would not end.
func TestCircles(t *testing.T) {
	for name, kind := range map[string]uint32{"descriptors": 1, "revokes": 5} {
		w := three(t, format{})
		for at := range w.maxLen - w.first {
			b := w.slot(at)
			clear(b)
			be.PutUint32(b, magic)
			be.PutUint32(b[4:], kind)
			be.PutUint32(b[8:], w.sequence)
			be.PutUint16(b[18:], flagLastTag)
		}
		if r := load(t, w.image).Report(); r.Transactions != 0 || r.End != "the log meets its own start" {
			t.Errorf("%s: %s", name, r)
		}
	}
	// One descriptor whose tags go around the ring more than once.
	w := three(t, format{})
	b := w.slot(0)
	clear(b)
	be.PutUint32(b, magic)
	be.PutUint32(b[4:], 1)
	be.PutUint32(b[8:], w.sequence)
	for off := 12; off+8 <= len(b); off += 8 {
		be.PutUint16(b[off+6:], flagSameUUID)
	}
	if r := load(t, w.image).Report(); r.Transactions != 0 || r.End != "the log meets its own start" {
		t.Errorf("long descriptor: %s", r)
	}
}

// TestTooManyBlocks: a forged log cannot have more memory than the limit.
func TestTooManyBlocks(t *testing.T) {
	w := three(t, format{})
	sb, err := readSuperblock(bytes.NewReader(w.image), int64(len(w.image)))
	if err != nil {
		t.Fatal(err)
	}
	s := &scanner{superblock: sb, r: bytes.NewReader(w.image), block: make([]byte, 1024), limit: 5}
	if _, err := s.scan(); !errors.Is(err, filesys.ErrUnsupported) || !strings.Contains(err.Error(), "more than 5 blocks") {
		t.Errorf("scan: %v", err)
	}
	s.limit, s.at, s.tags = 6, 0, nil
	if _, err := s.scan(); err != nil {
		t.Errorf("scan: %v", err)
	}
	be.PutUint32(w.image[16:], maxBlocks+1)
	if _, err := Load(bytes.NewReader(w.image), (maxBlocks+1)*1024); !errors.Is(err, filesys.ErrUnsupported) {
		t.Errorf("Load: %v", err)
	}
}

// TestFastCommits: committed fast-commit records that belong behind the log are
// refused by name; anything else in their area is not part of the file system.
func TestFastCommits(t *testing.T) {
	le := binary.LittleEndian
	record := func(kind uint16, value ...byte) []byte {
		p := le.AppendUint16(nil, kind)
		p = le.AppendUint16(p, uint16(len(value)))
		return append(p, value...)
	}
	head := func(features, tid uint32) []byte {
		return record(9, le.AppendUint32(le.AppendUint32(nil, features), tid)...)
	}
	// commit ends a run of records.
	commit := func(tid uint32, run []byte) []byte {
		run = append(run, record(8, le.AppendUint32(nil, tid)...)...)
		le.PutUint16(run[len(run)-6:], 8)
		return le.AppendUint32(run, naiveZero(run))
	}
	pad := func(p []byte) []byte { // to the end of the block
		n := 1024 - len(p)%1024
		return append(p, record(7, make([]byte, n-4)...)...)
	}
	inode := record(6, make([]byte, 132)...)
	for _, c := range []struct {
		name string
		area []byte
		want string // of the error
	}{
		{"empty", nil, ""},
		{"one block", commit(23, append(head(0, 23), inode...)), "fast_commit log records behind transaction 22"},
		{"two blocks", commit(23, append(pad(append(head(0, 23), inode...)), inode...)), "fast_commit log records behind transaction 22"},
		{"of the transaction before", commit(22, append(head(0, 22), inode...)), ""},
		{"of the next but one", commit(24, append(head(0, 24), inode...)), ""},
		{"tail of another transaction", commit(22, append(head(0, 23), inode...)), ""},
		{"never committed", append(head(0, 23), inode...), ""},
		{"checksum", func() []byte {
			p := commit(23, append(head(0, 23), inode...))
			p[40] ^= 1
			return p
		}(), ""},
		{"no head", commit(23, inode), ""},
		{"short head", commit(23, record(9, 1, 2)), ""},
		{"short tail", append(head(0, 23), record(8, 1, 2, 3)...), ""},
		{"features", commit(23, head(4, 23)), "fast_commit features 0x4"},
		{"unknown record", commit(23, append(head(0, 23), record(10)...)), ""},
		{"too long", append(head(0, 23), 6, 0, 0xff, 0xff), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := format{blockSize: 1024, version: 2, checksum: 3, fast: true, first: 1, start: 1000, maxLen: 1100, fcBlocks: 70, sequence: 20}
			w := newWriter(f, seeded(t))
			for k := range uint64(3) { // the last one around the end of the ring
				w.log(w.someBlocks(10, 100), repeat(10, func() []byte { return randomBytes(w.rng, 1024) }))
				w.log([]uint64{100 + k}, [][]byte{randomBytes(w.rng, 1024)})
				w.commit()
			}
			area := w.image[1031*1024:]
			clear(area)
			copy(area, c.area)
			l, err := Load(bytes.NewReader(w.image), int64(len(w.image)))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				expect(t, w, l, 3)
			} else if !errors.Is(err, filesys.ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Load: %v, want %q", err, c.want)
			}
		})
	}
}

// naiveZero is the crc32c from zero, not inverted.
func naiveZero(p []byte) uint32 {
	crc := uint32(0)
	for _, b := range p {
		crc ^= uint32(b)
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low == 1 {
				crc ^= 0x82F63B78
			}
		}
	}
	return crc
}

func repeat(n int, fn func() []byte) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = fn()
	}
	return out
}
