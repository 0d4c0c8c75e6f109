package upload

import (
	"context"
	"errors"
	"fmt"

	"cairn/blockstore"
	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// Map is the finished map of a disk.
type Map struct {
	diskmap.Map
	// Data is the number of bytes in blocks that are not all zeros, never more
	// than the disk has.
	Data int64
	// Changed is the number of blocks that differ from the base's; without a
	// base, those that are not zeros.
	Changed int64
}

// MapWriter takes the map of one disk in ascending order. It is for one
// goroutine, and holds a few pages and MaxDigests digests, whatever the disk's
// size.
type MapWriter struct {
	s    *Session
	disk int // index into Spec.Disks
	base *Map
	over bool
	b    *diskmap.Builder

	next    uint64 // the lowest index that may come
	data    uint64 // blocks set that are not zeros
	pending []run  // set and not looked up yet
	lookups int    // digests in pending to look up
	asked   []block.Digest
}

// run is a number of consecutive blocks with one digest.
type run struct {
	first, count uint64
	digest       block.Digest
}

// WriteMap begins the map of a disk. If over, blocks that are not set keep what
// the disk has in the upload's base; otherwise they are zeros. A second map of
// the same disk takes the first one's place when it is finished. Errors:
// *MapError, ErrDisk.
func (s *Session) WriteMap(disk string, over bool) (*MapWriter, error) {
	if _, err := s.Renew(); err != nil {
		return nil, err
	}
	for i, d := range s.spec.Disks {
		if d.Name != disk {
			continue
		}
		if over && d.Base == nil {
			if s.spec.Base == "" {
				return nil, &MapError{Disk: disk, Detail: "is to build on a base, but the upload has no base recovery point"}
			}
			return nil, &MapError{Disk: disk, Detail: "is to build on a base, but the base recovery point has no such disk"}
		}
		w := &MapWriter{s: s, disk: i, base: d.Base, over: over}
		var under *diskmap.Map
		if over {
			under = &d.Base.Map
		}
		var err error
		if w.b, err = diskmap.NewBuilder(d.Size, s.blockSize, under, s.reader(), s.up); err != nil {
			return nil, &MapError{Disk: disk, Detail: err.Error()}
		}
		return w, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrDisk, disk)
}

// ErrDisk: the upload has not announced a disk of that name.
var ErrDisk = errors.New("upload has no such disk")

// Set gives the blocks from first on their digests, 32 bytes each, one after
// the other; block.Zero for zeros. Errors: *MapError, *MissingError.
func (w *MapWriter) Set(ctx context.Context, first uint64, digests []byte) error {
	const size = len(block.Digest{})
	if len(digests)%size != 0 {
		return w.errorf("%d bytes of digests from block %d on, must be a multiple of %d", len(digests), first, size)
	}
	n := uint64(len(digests) / size)
	if err := w.take(first, n); err != nil {
		return err
	}
	if err := w.s.begin(); err != nil {
		return err
	}
	defer w.s.finish()
	for i := range n {
		if err := w.add(ctx, run{first + i, 1, block.Digest(digests[int(i)*size:])}); err != nil {
			return err
		}
	}
	return nil
}

// SetZero makes count blocks from first on zeros. Errors: *MapError,
// *MissingError.
func (w *MapWriter) SetZero(ctx context.Context, first, count uint64) error {
	if err := w.take(first, count); err != nil {
		return err
	}
	if err := w.s.begin(); err != nil {
		return err
	}
	defer w.s.finish()
	return w.add(ctx, run{first, count, block.Zero})
}

func (w *MapWriter) errorf(format string, args ...any) error {
	return &MapError{Disk: w.s.spec.Disks[w.disk].Name, Detail: fmt.Sprintf(format, args...)}
}

// take checks that a run fits behind those before it, and onto the disk.
func (w *MapWriter) take(first, count uint64) error {
	blocks := w.blocks()
	switch {
	case first < w.next:
		return w.errorf("block %d comes after block %d; blocks must ascend and come once", first, w.next-1)
	case first > blocks || count > blocks-first:
		return w.errorf("%d blocks from block %d on reach behind the end of the disk, which has %d blocks", count, first, blocks)
	}
	w.next = first + count
	return nil
}

func (w *MapWriter) blocks() uint64 {
	return diskmap.Map{Size: w.s.spec.Disks[w.disk].Size, BlockSize: w.s.blockSize}.Blocks()
}

// add queues a run, and writes what is queued once that is enough for a look-up.
func (w *MapWriter) add(ctx context.Context, r run) error {
	if r.count == 0 {
		return nil
	}
	if r.digest != block.Zero {
		w.data += r.count
	}
	if n := len(w.pending); n > 0 {
		if last := &w.pending[n-1]; last.digest == r.digest && last.first+last.count == r.first {
			last.count += r.count
			return nil
		}
	}
	w.pending = append(w.pending, r)
	if r.digest != block.Zero {
		w.lookups++
	}
	if w.lookups == MaxDigests || len(w.pending) == 2*MaxDigests {
		return w.write(ctx)
	}
	return nil
}

// write looks up and pins the digests that are pending, and sets them.
func (w *MapWriter) write(ctx context.Context) error {
	w.asked = w.asked[:0]
	for _, r := range w.pending {
		if r.digest != block.Zero {
			w.asked = append(w.asked, r.digest)
		}
	}
	missing, err := w.s.up.FindMissing(ctx, w.asked)
	if err != nil {
		return w.s.reason(err)
	}
	if len(missing) > 0 {
		d := w.asked[missing[0]]
		e := &MissingError{Disk: w.s.spec.Disks[w.disk].Name, Digest: d, More: len(missing) - 1}
		for _, r := range w.pending {
			if r.digest == d {
				e.Index = r.first
				break
			}
		}
		return e
	}
	for _, r := range w.pending {
		if err := w.b.SetRun(ctx, r.first, r.count, r.digest); err != nil {
			return w.s.reason(err)
		}
	}
	w.pending, w.lookups = w.pending[:0], 0
	return nil
}

// Finish closes the map, makes it durable, and announces it to Commit.
func (w *MapWriter) Finish(ctx context.Context) (Map, error) {
	if err := w.s.begin(); err != nil {
		return Map{}, err
	}
	defer w.s.finish()
	if err := w.write(ctx); err != nil {
		return Map{}, err
	}
	if last := w.blocks(); w.over && last > 0 && w.next < last && w.cutsBlock() {
		d, err := w.digest(ctx, w.base.Map, last-1)
		if err != nil {
			return Map{}, err
		}
		if d != block.Zero {
			return Map{}, w.errorf("the disk was shrunk to a size within block %d, which must be given anew", last-1)
		}
	}
	m, err := w.b.Finish(ctx)
	if err != nil {
		return Map{}, w.s.reason(err)
	}
	if err := w.s.up.Flush(ctx); err != nil {
		return Map{}, w.s.reason(err)
	}
	done, err := w.measure(ctx, m)
	if err != nil {
		return Map{}, w.s.reason(err)
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.maps[w.disk] = &done
	return done, nil
}

// cutsBlock is whether the disk became smaller and ends within a block.
func (w *MapWriter) cutsBlock() bool {
	size := w.s.spec.Disks[w.disk].Size
	return size < w.base.Size && size%int64(w.s.blockSize) != 0
}

// measure counts what the map holds and what is different from the base, from
// what was set or else in time proportional to the difference.
func (w *MapWriter) measure(ctx context.Context, m diskmap.Map) (Map, error) {
	done := Map{Map: m, Changed: int64(w.data)}
	blocks := int64(w.data)
	if w.base != nil {
		gained := int64(0)
		done.Changed = 0
		err := diskmap.Diff(ctx, w.s.reader(), w.base.Map, m, func(_ uint64, was, is block.Digest) error {
			done.Changed++
			if was == block.Zero {
				gained++
			} else if is == block.Zero {
				gained--
			}
			return nil
		})
		if err != nil {
			return Map{}, err
		}
		if w.over {
			bs := int64(m.BlockSize)
			blocks = (w.base.Data+bs-1)/bs + gained
		}
	}
	done.Data = blocks * int64(m.BlockSize)
	if rest := m.Size % int64(m.BlockSize); rest != 0 { // the last block counts as far as the disk goes
		d, err := w.digest(ctx, m, m.Blocks()-1)
		if err != nil {
			return Map{}, err
		}
		if d != block.Zero {
			done.Data -= int64(m.BlockSize) - rest
		}
	}
	return done, nil
}

// digest is that of one block of a map.
func (w *MapWriter) digest(ctx context.Context, m diskmap.Map, index uint64) (digest block.Digest, err error) {
	err = diskmap.Walk(ctx, w.s.reader(), m, index, index+1, func(_ uint64, d block.Digest) error {
		digest = d
		return nil
	})
	return digest, err
}

// reader reads pages of the base, and of finished maps. Reading through the
// upload pins them, and spares look-ups when pages that name the same are put.
func (s *Session) reader() diskmap.BlockReader { return s.up }

var _ diskmap.PageWriter = (*blockstore.Upload)(nil)
