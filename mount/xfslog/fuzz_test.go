package xfslog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"cairn/mount/filesys"
)

// FuzzLoad: whatever a log holds, Load ends with an error of this package's or a
// log that reads. Checksums and cycles are made to hold before a second try, so
// that the fuzzer gets behind them.
func FuzzLoad(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 8 {
		var order binary.ByteOrder = binary.LittleEndian
		if i&1 != 0 {
			order = binary.BigEndian
		}
		w := newWriter(i&2 != 0, uint32(1+i>>2), order, rng)
		w.split = i&4 != 0
		for w.at < w.size()-8 {
			w.unmount()
		}
		w.tail = w.startOf()
		w.begin(1)
		block := make([]byte, 1024)
		w.buffer(1, 8, 4, 0, block, 0x35)
		w.cancel(1, 10, 2)
		in := make([]byte, w.g.InodeSize)
		be.PutUint16(in, dinodeMagic)
		in[4], in[5], in[82] = 2, formatBtree, 12
		if w.g.V5 {
			in[4] = 3
		}
		root := make([]byte, 88)
		be.PutUint16(root[4:], 1)
		w.inode(1, 40, 1, fieldCore|fieldRoot|fieldAttr|fieldOwner, 0, i&1 != 0, w.swapped(in), root, make([]byte, 20))
		w.commit(1)
		w.begin(2)
		w.buffer(2, 44, blftInode, bufferInodes, block, 0xFF)
		create := be.AppendUint32(w.u16(w.u16(nil, typeCreate), 1), 0)
		for _, v := range []uint32{40, 64, uint32(w.g.InodeSize), uint32(64 * w.g.InodeSize / 1024), 5} {
			create = be.AppendUint32(create, v)
		}
		w.region(2, create)
		w.intent(2, typeEFI, 4)
		m := w.u64(nil, 128*sector/1024*2)
		m = w.u64(w.u64(m, 200), 10)
		w.intent(2, typeBUI, 5, w.u32(w.u32(m, 3), 1)...)
		w.commit(2)
		w.flush()
		f.Add(byte(i), squeeze(w))
	}
	f.Fuzz(func(t *testing.T, form byte, input []byte) {
		w := newWriter(form&2 != 0, 2, binary.LittleEndian, rand.New(rand.NewPCG(3, 4)))
		w.file(2, extentsOf(extent{0, 100, 4, false}), 1, 4)
		expand(w, input)
		tryLog(t, w)
		mend(w)
		tryLog(t, w)
	})
}

// squeeze takes what of a log is not zero: its sectors, each with its place.
func squeeze(w *writer) (input []byte) {
	log := w.log()
	for i := 0; i < len(log); i += sector {
		p := bytes.TrimRight(log[i:i+sector], "\x00")
		if len(p) == 0 {
			continue
		}
		input = append(input, byte(i/sector), byte(len(p)>>8), byte(len(p)))
		input = append(input, p...)
	}
	return input
}

// expand makes a log of what squeeze left.
func expand(w *writer, input []byte) {
	clear(w.log())
	for len(input) >= 3 {
		at := int(input[0]) * sector
		n := min(int(input[1])<<8|int(input[2]), len(input)-3, sector)
		copy(w.log()[at:at+sector], input[3:3+n])
		input = input[3+n:]
	}
}

// mend makes the UUID, place and checksum of every record hold.
func mend(w *writer) {
	log := w.log()
	ring := &ring{r: bytes.NewReader(log), size: w.size(), g: &w.g}
	for at := uint32(0); at < ring.size; at++ {
		p := log[at*sector:][:sector]
		if be.Uint32(p) != recordMagic {
			continue
		}
		copy(p[304:], w.g.UUID[:])
		be.PutUint32(p[16:], be.Uint32(p[4:]))
		be.PutUint32(p[20:], at)
		h, err := ring.parseHeader(p, at)
		if err != nil {
			continue
		}
		heads := make([]byte, h.sectors*sector)
		body := make([]byte, h.bodySectors()*sector)
		if ring.read(heads, at) != nil || ring.read(body, ring.add(at, h.sectors)) != nil {
			continue
		}
		binary.LittleEndian.PutUint32(p[32:], checksum(&h, heads, body[:h.len], headerCovered))
	}
}

func tryLog(t *testing.T, w *writer) {
	volume := bytes.NewReader(w.volume)
	l, err := Load(volume, w.g)
	known := func(err error) bool {
		return errors.Is(err, filesys.ErrCorrupt) || errors.Is(err, filesys.ErrUnsupported) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	if err != nil {
		if !known(err) {
			t.Fatalf("error of no kind: %v", err)
		}
		return
	}
	if len(l.ops) > 4*testLogBytes/opHeader+64*64 {
		t.Fatalf("%d pieces in a log of %d bytes", len(l.ops), testLogBytes)
	}
	o := l.Overlay(volume)
	end := int64(-1)
	for _, r := range l.Ranges() {
		if r.Off <= end || r.Len <= 0 {
			t.Fatalf("range at %d, %d bytes, after %d", r.Off, r.Len, end)
		}
		end = r.Off + r.Len
		p := make([]byte, r.Len)
		n, err := o.ReadAt(p, r.Off)
		if n < len(p) && !known(err) && err != io.EOF {
			t.Fatalf("read %d of %d bytes at %d: %v", n, len(p), r.Off, err)
		}
		// Parts of it say the same.
		if err == nil {
			half := make([]byte, (len(p)+1)/2)
			if _, err := o.ReadAt(half, r.Off+r.Len/4); err != nil || !bytes.Equal(half, p[r.Len/4:][:len(half)]) {
				t.Fatalf("half of the range at %d: %v", r.Off, err)
			}
		}
	}
}
