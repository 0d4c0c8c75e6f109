package xfslog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func seeded(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// load reads the log of w.
func load(t *testing.T, w *writer) *Log {
	t.Helper()
	w.flush()
	l, err := Load(bytes.NewReader(w.volume), w.g)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// refused loads a log that is to be refused, with words in the reason.
func refused(t *testing.T, w *writer, kind error, words string) {
	t.Helper()
	w.flush()
	_, err := Load(bytes.NewReader(w.volume), w.g)
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), words) {
		t.Errorf("Load: %v, want %q", err, words)
	}
}

// after is the replayed volume.
func after(t *testing.T, w *writer, l *Log) []byte {
	t.Helper()
	p := make([]byte, len(w.volume))
	if _, err := l.Overlay(bytes.NewReader(w.volume)).ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// forms runs a test for every kind of log and machine.
func forms(t *testing.T, v5 []bool, test func(t *testing.T, w *writer)) {
	for _, v5 := range v5 {
		for _, version := range []uint32{1, 2} {
			for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
				t.Run(fmt.Sprintf("v5=%v log=%d %v", v5, version, order), func(t *testing.T) {
					w := newWriter(v5, version, order, seeded(t))
					if version == 2 {
						w.most = []int{16 << 10, 32 << 10, 48 << 10}[w.rng.IntN(3)]
					}
					test(t, w)
				})
			}
		}
	}
}

// TestRandomBuffers: random transactions, side by side, split over records
// anywhere, around the end of the log, with blocks that are freed.
func TestRandomBuffers(t *testing.T) {
	forms(t, []bool{false, true}, func(t *testing.T, w *writer) {
		w.split = true
		w.most = min(w.most, []int{1024, 4096, 16384}[w.rng.IntN(3)])
		// So that the log wraps: it begins near its end.
		for w.at < w.size()-40 {
			w.unmount()
		}
		w.tail = w.startOf()
		want := bytes.Clone(w.volume)
		type pending struct {
			tid    uint32
			chunks map[uint64]uint32
			blocks map[uint64][]byte
			freed  map[uint64]bool
			logged []uint64
		}
		var open []*pending
		base := bytes.Clone(w.volume)
		for tid := uint32(1); w.startOf().cycle() < 3 && (w.at < 150 || w.startOf().cycle() < 2); {
			switch n := w.rng.IntN(4); {
			case n == 0 && len(open) < 5:
				w.begin(tid)
				open = append(open, &pending{tid, map[uint64]uint32{}, map[uint64][]byte{}, map[uint64]bool{}, nil})
				tid++
			case n == 1 && len(open) > 0:
				i := w.rng.IntN(len(open))
				p := open[i]
				open = append(open[:i], open[i+1:]...)
				w.commit(p.tid)
				for at := range p.freed {
					copy(want[at*sector:], base[at*sector:][:2048])
				}
				for at, chunks := range p.chunks {
					for c := range 16 {
						if chunks>>c&1 != 0 && !p.freed[at] {
							copy(want[int(at)*sector+c*chunk:], p.blocks[at][c*chunk:(c+1)*chunk])
						}
					}
				}
			case len(open) > 0:
				p := open[w.rng.IntN(len(open))]
				at := uint64(4 * w.rng.IntN(20))
				if _, ok := p.chunks[at]; ok || p.freed[at] {
					continue
				}
				if w.rng.IntN(10) == 0 {
					w.cancel(p.tid, at, 4)
					p.freed[at] = true
					continue
				}
				block := make([]byte, 2048)
				for i := range block {
					block[i] = byte(w.rng.Uint32()) | 1
				}
				p.chunks[at], p.blocks[at] = uint32(w.rng.IntN(1<<16)), block
				w.buffer(p.tid, at, blftBitmap, 0, block, p.chunks[at])
			}
			if w.rng.IntN(10) == 0 {
				w.flush()
			}
		}
		l := load(t, w)
		got := after(t, w, l)
		if !bytes.Equal(got[:testLog], want[:testLog]) {
			for i := 0; i < testLog; i += chunk {
				if !bytes.Equal(got[i:i+chunk], want[i:i+chunk]) {
					t.Fatalf("chunk %d of sector %d differs (%v)", i%sector/chunk, i/sector, l.Report())
				}
			}
		}
		// Reads of any part agree with the whole.
		o := l.Overlay(bytes.NewReader(w.volume))
		for range 200 {
			off := w.rng.IntN(50000)
			p := make([]byte, w.rng.IntN(6000))
			if n, err := o.ReadAt(p, int64(off)); n < len(p) || !bytes.Equal(p, got[off:off+n]) {
				t.Fatalf("read of %d at %d: %d, %v", len(p), off, n, err)
			}
		}
	})
}

// TestSequenceNumbers: a block that is newer than the transaction is left alone,
// unless it is another file system's; what is replayed has number and checksum.
func TestSequenceNumbers(t *testing.T) {
	forms(t, []bool{true}, func(t *testing.T, w *writer) {
		for w.at < w.size()/2 {
			w.unmount()
		}
		w.tail = w.startOf()
		block := func(n lsn, uuid [16]byte, fill byte) []byte {
			p := bytes.Repeat([]byte{fill}, 1024)
			be.PutUint32(p, 0x41423342)
			be.PutUint64(p[shortTree.lsn:], uint64(n))
			copy(p[shortTree.uuid:], uuid[:])
			seal(p, shortTree.crc)
			return p
		}
		start := w.startOf()
		for i, n := range []lsn{start - 1, start, start + 1, start + 1<<32, 0, ^lsn(0)} {
			copy(w.volume[(10+i)*1024:], block(n, w.g.UUID, 1))
			copy(w.volume[(20+i)*1024:], block(n, [16]byte{9}, 1))
		}
		w.begin(7)
		for i := range 16 {
			w.buffer(7, uint64(20+2*i), 4, 0, block(0, w.g.UUID, 2), 0xFF)
		}
		w.commit(7)
		got := after(t, w, load(t, w))
		for i := range 16 {
			replayed := i != 1 && i != 2 && i != 3
			p := got[(10+i)*1024:][:1024]
			if !replayed {
				if p[900] != 1 {
					t.Errorf("block %d is replayed", i)
				}
				continue
			}
			if want := block(start, w.g.UUID, 2); !bytes.Equal(p, want) {
				t.Errorf("block %d is not replayed, or not sealed", i)
			}
		}
	})
}

// TestOldInodes: inodes of version 4 by the counter of their writes, buffers of
// new ones as such, in the forms of both widths of machine.
func TestOldInodes(t *testing.T) {
	forms(t, []bool{false}, func(t *testing.T, w *writer) {
		w.split = true
		inode := func(fill byte, writes uint16) []byte {
			p := bytes.Repeat([]byte{fill}, 256)
			be.PutUint16(p, dinodeMagic)
			p[4], p[5], p[82], p[83] = 2, 1, 10, 1 // fork at 180
			clear(p[6:8])
			clear(p[24:32])
			be.PutUint16(p[30:], writes)
			be.PutUint32(p[96:], ^uint32(0))
			return p
		}
		// Slots: 0 on disk older, 1 newer, 2 newer at the end of the count, 3
		// of a new buffer, 4 new and then changed, 5 a device.
		for i, n := range []uint16{3, 9, 0xFFFF} {
			copy(w.volume[40*sector+i*256:], inode(1, n))
		}
		w.begin(1)
		fresh := bytes.Repeat(inode(3, 0), 2)
		w.buffer(1, 44, []int{blftInode, blftUnknown}[w.rng.IntN(2)], 0, fresh, 0xF)
		w.commit(1)
		w.begin(2)
		for i := range 3 {
			in := inode(2, 5)
			w.inode(2, 40, i, fieldCore|fieldData|fieldAttr, 0, i%2 == 0, w.swapped(in), in[100:180], in[180:])
		}
		in := inode(4, 0)
		w.inode(2, 44, 1, fieldCore|fieldDevice, 0x1234, true, w.swapped(in))
		w.commit(2)
		// The link to the next unlinked inode, of two.
		links := make([]byte, 512)
		be.PutUint32(links[96:], 77)
		be.PutUint32(links[256+96:], 78)
		w.begin(3)
		w.buffer(3, 44, blftInode, bufferInodes, links, 0b0101)
		w.commit(3)
		got := after(t, w, load(t, w))
		check := func(name string, at int, want []byte) {
			t.Helper()
			if p := got[at : at+256]; !bytes.Equal(p, want) {
				t.Errorf("%s:\n%x\nwant\n%x", name, p, want)
			}
		}
		replayed := inode(2, 0)
		check("older", 40*sector, replayed)
		check("newer", 40*sector+256, inode(1, 9))
		check("wrapped", 40*sector+512, replayed)
		want := inode(3, 0)
		be.PutUint32(want[96:], 77)
		check("new", 44*sector, want)
		want = append(inode(4, 0)[:100:100], inode(3, 0)[100:]...)
		be.PutUint32(want[96:], 78)
		be.PutUint32(want[100:], 0x1234)
		check("new and changed", 44*sector+256, want)
	})
}

// TestMachines: items of version 5 in the byte order of another machine.
func TestMachines(t *testing.T) {
	forms(t, []bool{true}, func(t *testing.T, w *writer) {
		in := make([]byte, 512)
		for i := range in {
			in[i] = byte(w.rng.Uint32())
		}
		be.PutUint16(in, dinodeMagic)
		in[4], in[5], in[82], in[83] = 3, 2, 0, 0
		clear(in[6:8])
		clear(in[24:32])
		be.PutUint64(in[120:], 0) // no flags
		clear(in[132:144])
		copy(w.volume[40*sector:], in)
		be.PutUint64(w.volume[40*sector+112:], 0)
		clear(w.volume[40*sector+8 : 40*sector+96])
		start := w.startOf()
		w.begin(1)
		w.inode(1, 40, 0, fieldCore, 0, false, w.swapped(in))
		w.commit(1)
		got := after(t, w, load(t, w))[40*sector:][:512]
		be.PutUint64(in[112:], uint64(start))
		seal(in, dinodeCRC)
		if !bytes.Equal(got, in) {
			t.Errorf("\n%x\nwant\n%x", got[:176], in[:176])
		}
	})
}

// TestRoot: the root of a tree, from memory to disk.
func TestRoot(t *testing.T) {
	w := newWriter(false, 2, binary.LittleEndian, seeded(t))
	in := make([]byte, 256)
	be.PutUint16(in, dinodeMagic)
	in[4], in[5] = 2, formatBtree
	copy(w.volume[40*sector:], in)
	root := make([]byte, 24+2*16)
	be.PutUint16(root[4:], 1)
	be.PutUint16(root[6:], 2)
	for i := range 2 {
		be.PutUint64(root[24+8*i:], uint64(10+i))
		be.PutUint64(root[40+8*i:], uint64(20+i))
	}
	w.begin(1)
	w.inode(1, 40, 0, fieldCore|fieldRoot, 0, false, w.swapped(in), root)
	w.commit(1)
	fork := after(t, w, load(t, w))[40*sector+100:][:156]
	const most = (156 - 4) / 16
	for i := range 2 {
		if be.Uint64(fork[4+8*i:]) != uint64(10+i) || be.Uint64(fork[4+8*most+8*i:]) != uint64(20+i) {
			t.Fatalf("%x", fork)
		}
	}
	if !bytes.Equal(fork[:4], root[4:8]) {
		t.Errorf("%x", fork)
	}
}

// TestNewerInode: an inode on disk that is newer than the transaction is left
// alone, forks and all; one of the same transaction is not.
func TestNewerInode(t *testing.T) {
	w := newWriter(true, 2, binary.LittleEndian, seeded(t))
	start := w.startOf()
	inode := func(fill byte, n lsn) []byte {
		p := make([]byte, 512)
		be.PutUint16(p, dinodeMagic)
		p[4], p[5] = 3, 1
		be.PutUint32(p[8:], uint32(fill))
		be.PutUint64(p[dinodeLSN:], uint64(n))
		copy(p[dinodeV3:], bytes.Repeat([]byte{fill}, 100))
		seal(p, dinodeCRC)
		return p
	}
	list := []lsn{0, start - 1, start, start + 1}
	w.begin(1)
	for i, n := range list {
		copy(w.volume[40*sector+i*512:], inode(1, n))
		in := inode(2, 0)
		w.inode(1, 40, i, fieldCore|fieldData, 0, false, w.swapped(in), in[dinodeV3:][:100])
	}
	w.commit(1)
	got := after(t, w, load(t, w))
	for i, n := range list {
		want := inode(2, start)
		if n > start {
			want = inode(1, n)
		}
		if p := got[40*sector+i*512:][:512]; !bytes.Equal(p, want) {
			t.Errorf("inode %d:\n%x\nwant\n%x", i, p, want)
		}
	}
}

// TestForget: records that were kept are let go of, and read again.
func TestForget(t *testing.T) {
	w := newWriter(true, 2, binary.LittleEndian, seeded(t))
	w.tail = w.startOf()
	steps(w, 1, 8)
	l := load(t, w)
	for range 2 {
		l.Forget()
		if n := l.Kept(); n != 0 {
			t.Errorf("%d bytes are kept", n)
		}
		expect(t, l.Report().String(), replayed(t, w, l, 8), 1, 8)
		if n := l.Kept(); n < 8*1024 {
			t.Errorf("%d bytes are kept of 8 records", n)
		}
	}
}
