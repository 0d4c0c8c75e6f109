package raid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// Bitmap is md's write-intent bitmap: a bit is set before any data of its chunk is
// written, and cleared some time after all legs have them. Where bits are clear
// the legs are in step.
//
//	 0  "bitm"
//	 4  version, 4 (3 on machines of the other byte order long ago)
//	 8  UUID of the array
//	24  events       what the array's counter was when the bitmap was written
//	40  sync size    sectors of each leg that the bits are about
//	48  state        bit 1: not to be believed
//	52  chunk size   bytes of a leg for one bit
//	256 bits, the lowest of a byte first
type Bitmap struct {
	at     blockdev.Device
	events uint64
	size   int64 // bytes of a leg
	chunk  int64
}

const (
	bitmapMagic = 0x6d746962
	bitmapHead  = 256
)

// ReadBitmap reads the head of the bitmap that lies at the start of d.
func ReadBitmap(d blockdev.Device) (*Bitmap, error) {
	head := make([]byte, bitmapHead)
	if _, err := d.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read write-intent bitmap: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(head) != bitmapMagic {
		return nil, fmt.Errorf("write-intent bitmap: bad magic: %w", filesys.ErrCorrupt)
	}
	if v := le.Uint32(head[4:]); v != 3 && v != 4 {
		return nil, fmt.Errorf("write-intent bitmap of version %d: %w", v, filesys.ErrUnsupported)
	}
	if state := le.Uint32(head[48:]); state&2 != 0 {
		return nil, fmt.Errorf("write-intent bitmap is marked stale: %w", filesys.ErrUnsupported)
	}
	sectors, chunk := le.Uint64(head[40:]), le.Uint32(head[52:])
	if chunk < 512 || chunk&(chunk-1) != 0 || sectors > 1<<54 {
		return nil, fmt.Errorf("write-intent bitmap: chunks of %d bytes, %d sectors: %w", chunk, sectors, filesys.ErrCorrupt)
	}
	return &Bitmap{at: d, events: le.Uint64(head[24:]), size: int64(sectors) * 512, chunk: int64(chunk)}, nil
}

// Events is the array's counter of events when the bitmap was last written. A
// bitmap that lags behind its array says nothing.
func (b *Bitmap) Events() uint64 { return b.events }

// InStep tells whether the n bytes at off of all legs are in step.
func (b *Bitmap) InStep(off, n int64) (bool, error) {
	if off < 0 || n <= 0 || off+n > b.size {
		return false, nil
	}
	first, last := off/b.chunk, (off+n-1)/b.chunk
	bits := make([]byte, min(last/8-first/8+1, 4096))
	for at := first / 8; at <= last/8; at += int64(len(bits)) {
		bits = bits[:min(int64(len(bits)), last/8-at+1)]
		if _, err := Full(b.at, bits, bitmapHead+at); err != nil {
			return false, fmt.Errorf("read write-intent bitmap: %w", err)
		}
		for i, v := range bits {
			if at+int64(i) == first/8 {
				v &= 0xFF << (first % 8)
			}
			if at+int64(i) == last/8 {
				v &= 0xFF >> (7 - last%8)
			}
			if v != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}
