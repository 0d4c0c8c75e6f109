package jbd2

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"cairn/mount/filesys"
)

// FuzzLoad: whatever a journal holds, Load ends with an error of this package's
// or a log that reads. Checksums are made to hold before a second try, so that
// the fuzzer gets behind them.
func FuzzLoad(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for sum := range 4 {
		for _, wide := range []bool{false, true} {
			w := newWriter(format{
				blockSize: 1024, version: 2, checksum: sum, wide: wide, async: wide, uuids: wide,
				first: 1, start: 15, maxLen: 24, sequence: 1<<32 - 2,
			}, rng)
			clear(w.image[1024:])
			blank := make([]byte, 1024)
			w.log([]uint64{3, 4, 5}, [][]byte{blank, blank, blank})
			w.commit()
			w.revoke(3, 9)
			w.log([]uint64{4}, [][]byte{blank})
			w.commit()
			w.log([]uint64{5}, [][]byte{blank})
			w.commit()
			f.Add(squeeze(w.image))
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		image := expand(input)
		tryLog(t, image)
		tryLog(t, mend(image))
	})
}

// piece is how many bytes of a block an input has.
const piece = 100

// squeeze takes the start of every kibibyte of a journal.
func squeeze(image []byte) (input []byte) {
	for ; len(image) > 0; image = image[1024:] {
		input = append(input, image[:piece]...)
	}
	return input
}

// expand makes a journal of what squeeze left.
func expand(input []byte) (image []byte) {
	for len(input) > 0 && len(image) < 1<<20 {
		n := min(piece, len(input))
		image = append(image, input[:n]...)
		image = append(image, make([]byte, 1024-n)...)
		input = input[n:]
	}
	return image
}

func tryLog(t *testing.T, image []byte) {
	l, err := Load(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		if !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrUnsupported) {
			t.Fatalf("error of no kind: %v", err)
		}
		return
	}
	r := l.Report()
	if r.Blocks != len(l.tags) || r.Blocks+r.Revoked > len(image)/1024 || cap(l.tags) > len(image) {
		t.Fatalf("a journal of %d bytes cannot hold this: %+v", len(image), r)
	}
	bs := int64(r.BlockSize)
	base := bytes.Repeat([]byte{0xA5}, 8*r.BlockSize)
	o := l.Overlay(bytes.NewReader(base))
	p := make([]byte, len(base))
	if n, err := o.ReadAt(p, 0); n < len(p) && !errors.Is(err, filesys.ErrCorrupt) {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	for i, tag := range l.tags {
		if i > 0 && tag.block <= l.tags[i-1].block {
			t.Fatal("blocks out of order")
		}
		if n, err := o.ReadAt(p[:bs], int64(tag.block)*bs); n < int(bs) && !errors.Is(err, filesys.ErrCorrupt) {
			t.Fatalf("read block %d: %d bytes, %v", tag.block, n, err)
		}
	}
}

// mend returns a copy of image in which every record's own checksum holds.
func mend(image []byte) []byte {
	if len(image) < superblockSize {
		return image
	}
	image = bytes.Clone(image)
	image[80] = checksumCRC32C
	be.PutUint32(image[252:], crc32cZeroed(^uint32(0), image[:superblockSize], 252))
	seed := crc32c(^uint32(0), image[48:64])
	bs := int(be.Uint32(image[12:]))
	if bs < 1024 || bs > 65536 {
		return image
	}
	for off := bs; off+bs <= len(image); off += bs {
		block := image[off : off+bs]
		if be.Uint32(block) != magic {
			continue
		}
		switch at := bs - 4; be.Uint32(block[4:]) {
		case typeDescriptor, typeRevoke:
			be.PutUint32(block[at:], crc32cZeroed(seed, block, at))
		case typeCommit:
			be.PutUint32(block[commitChecksum:], crc32cZeroed(seed, block, commitChecksum))
		}
	}
	return image
}
