package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/mount/filesys"
)

// compareChunk is how much of either file is read at once to be compared.
const compareChunk = 256 << 10

// comparer compares files of a volume at two moments.
type comparer struct {
	ctx context.Context
	// changed tells which bytes within a range of the volume may differ; nil
	// where that cannot be told.
	changed func(off, n int64) ([]filesys.Range, error)
	// read counts the bytes of either file that were compared.
	read int64
	bufs [2][]byte
}

// same says whether two files have the same content. It reads only what their
// places on the volume do not prove to be equal.
func (c *comparer) same(a, b filesys.File) (bool, error) {
	size := a.Size()
	if size != b.Size() {
		return false, nil
	}
	sa, okA := a.(filesys.Stored)
	sb, okB := b.(filesys.Stored)
	if !okA || !okB || c.changed == nil {
		return c.equal(a, b, 0, size)
	}
	for off := int64(0); off < size; {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		x, y, n, err := storedPair(sa, sb, off)
		if err != nil {
			return false, err
		}
		switch {
		case x.at.Len == 0 && x.at.Off >= 0 && y.at.Len == 0 && y.at.Off >= 0: // holes
		case x != y || x.at.Off < 0:
			if ok, err := c.equal(a, b, off, n); !ok || err != nil {
				return false, err
			}
		default:
			if ok, err := c.sameRun(a, b, off, x); !ok || err != nil {
				return false, err
			}
			n = x.n
		}
		off += n
	}
	return true, nil
}

// run is what Stored answers.
type run struct {
	at filesys.Range
	n  int64
}

// plain says whether the run's bytes stand on the volume as they are.
func (r run) plain() bool { return r.at.Len == r.n }

// storedPair gives the runs of two files at off, cut to the shorter if both
// can be cut, and for how many bytes they are to be compared.
func storedPair(a, b filesys.Stored, off int64) (x, y run, n int64, err error) {
	if x.at, x.n, err = a.Stored(off); err == nil {
		y.at, y.n, err = b.Stored(off)
	}
	if err != nil {
		return x, y, 0, fmt.Errorf("where byte %d is stored: %w", off, err)
	}
	n = min(x.n, y.n)
	if n <= 0 {
		return x, y, 0, fmt.Errorf("where byte %d is stored: no bytes", off)
	}
	for _, r := range []*run{&x, &y} {
		if r.plain() {
			r.n, r.at.Len = n, n
		}
	}
	return x, y, n, nil
}

// sameRun compares a run that both files have at off.
func (c *comparer) sameRun(a, b filesys.File, off int64, r run) (bool, error) {
	changed, err := c.changed(r.at.Off, r.at.Len)
	if err != nil || len(changed) == 0 {
		return err == nil, err
	}
	if !r.plain() {
		return c.equal(a, b, off, r.n)
	}
	for _, ch := range changed {
		if ok, err := c.equal(a, b, off+ch.Off-r.at.Off, ch.Len); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// equal reads and compares n bytes from off.
func (c *comparer) equal(a, b filesys.File, off, n int64) (bool, error) {
	for i := range c.bufs {
		if c.bufs[i] == nil {
			c.bufs[i] = make([]byte, compareChunk)
		}
	}
	for n > 0 {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		k := min(n, compareChunk-off%compareChunk)
		x, y := c.bufs[0][:k], c.bufs[1][:k]
		if err := readFull(a, x, off); err != nil {
			return false, err
		}
		if err := readFull(b, y, off); err != nil {
			return false, err
		}
		c.read += k
		if !bytes.Equal(x, y) {
			return false, nil
		}
		off, n = off+k, n-k
	}
	return true, nil
}

func readFull(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// digest is over where a file's content comes from: the places of its runs and
// the digests of the blocks of the disk that hold them. Two states of a file
// with one digest have the same content; the reverse need not be, since the
// blocks hold neighbours too. It is empty where that cannot be told.
func digest(ctx context.Context, v *volume, f filesys.File) (string, error) {
	st, ok := f.(filesys.Stored)
	if !ok || v.dev == nil {
		return "", nil
	}
	d := &digester{ctx: ctx, v: v, h: blake3.New()}
	d.numbers(f.Size())
	for off := int64(0); off < f.Size(); {
		at, n, err := st.Stored(off)
		switch {
		case err != nil:
			return "", fmt.Errorf("where byte %d is stored: %w", off, err)
		case n <= 0:
			return "", fmt.Errorf("where byte %d is stored: no bytes", off)
		case at.Off < 0:
			return "", nil
		}
		d.numbers(n, at.Off, at.Len)
		if err := d.bytes(at.Off, at.Len); errors.Is(err, errNoPlace) {
			return "", nil
		} else if err != nil {
			return "", err
		}
		off += n
	}
	return hex.EncodeToString(d.h.Sum(nil)[:16]), nil
}

type digester struct {
	ctx context.Context
	v   *volume
	h   *blake3.Hasher
}

func (d *digester) numbers(list ...int64) {
	for _, n := range list {
		_ = binary.Write(d.h, binary.LittleEndian, n) // a hash takes everything
	}
}

// bytes adds what decides n bytes of the volume.
func (d *digester) bytes(off, n int64) error {
	for end := off + n; off < end; {
		p, k, err := d.v.place(off)
		if err != nil {
			return err
		}
		k = min(k, end-off)
		d.numbers(p.off, k, int64(len(p.disk)))
		_, _ = d.h.WriteString(p.disk)
		if m, ok := d.v.point.disk(p.disk); ok && p.disk != "" {
			bs := int64(m.BlockSize)
			if err := diskmap.Walk(d.ctx, d.v.point.Blocks, m, uint64(p.off/bs), uint64((p.off+k+bs-1)/bs), func(index uint64, dg block.Digest) error {
				d.numbers(int64(index))
				_, _ = d.h.Write(dg[:])
				return nil
			}); err != nil {
				return err
			}
		}
		off += k
	}
	return nil
}
