package blockstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// lookup finds blocks in the index; the zero entry stands for one that is not
// there. It seeks in ascending order with one iterator, which reads each index
// block once, and asks the bloom filters of all levels, which Get does not.
func (s *Store) lookup(ds []block.Digest) ([]entry, error) {
	es := make([]entry, len(ds))
	if len(ds) == 0 {
		return es, nil
	}
	order := make([]int32, len(ds))
	for i := range order {
		order[i] = int32(i)
	}
	if len(ds) > 1 {
		slices.SortFunc(order, func(a, b int32) int { return bytes.Compare(ds[a][:], ds[b][:]) })
	}
	it, err := s.index.NewIter(&pebble.IterOptions{
		LowerBound:   []byte{digestSpace},
		UpperBound:   []byte{digestSpace + 1},
		UseL6Filters: true,
	})
	if err != nil {
		return nil, s.readError(err)
	}
	defer it.Close()
	key := make([]byte, 0, digestKeyLen)
	for _, i := range order {
		key = digestKey(key[:0], ds[i])
		if !it.SeekPrefixGE(key) {
			if err := it.Error(); err != nil {
				return nil, s.readError(err)
			}
			continue
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, s.readError(err)
		}
		if es[i], err = parseEntry(v); err != nil {
			return nil, fmt.Errorf("block %s: %w", ds[i], err)
		}
	}
	return es, nil
}

// isDamage tells errors that say "what is stored is not what it should be" from
// those that say "try again".
func isDamage(err error) bool {
	return pebble.IsCorruptionError(err) || errors.Is(err, block.ErrCorrupt) || errors.Is(err, fs.ErrNotExist) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// readError makes Pebble's errors about the index match ErrCorrupt.
func (s *Store) readError(err error) error {
	if err != nil && isDamage(err) {
		return fmt.Errorf("%w: %s: %v", ErrCorrupt, s.path(indexName), err)
	}
	return err
}

// ReadBlocks returns the plain bytes of blocks or pages, in the order asked,
// all or an error: ErrBlockMissing for one that the vault has not, a
// CorruptError for one that is damaged. Every block was re-hashed when it was
// read, now or when it came into the cache. The slices must not be modified.
func (s *Store) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	return s.read(ctx, ds, nil, "")
}

// ReadStored is ReadBlocks for the stored form, which it does not verify: it is
// for the wire, where the far end does. The slices are the caller's.
func (s *Store) ReadStored(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	return s.ReadStoredInto(ctx, ds, func(_, n int) []byte { return make([]byte, n) })
}

// ReadStoredInto is ReadStored into memory of the caller's: room gives n bytes
// for the i-th block, and may be called by several goroutines at a time. After
// the return nothing writes to it any more.
func (s *Store) ReadStoredInto(ctx context.Context, ds []block.Digest, room func(i, n int) []byte) ([][]byte, error) {
	return s.read(ctx, ds, room, "")
}

// Reader is ReadBlocks with errors that name the point.
func (s *Store) Reader(point string) diskmap.BlockReader { return pointReader{s, point} }

type pointReader struct {
	s     *Store
	point string
}

func (r pointReader) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	bs, err := r.s.read(ctx, ds, nil, r.point)
	if err == nil {
		return bs, nil
	}
	if c := new(CorruptError); errors.As(err, &c) {
		return nil, err // it names the point itself
	}
	return nil, fmt.Errorf("point %s: %w", r.point, err)
}

var (
	_ diskmap.BlockReader = (*Store)(nil)
	_ diskmap.BlockReader = pointReader{}
)

// want is a block to be read: where it goes, and what it must be.
type want struct {
	i      int
	digest block.Digest
	entry  entry
}

func byID(a, b want) int { return cmp.Compare(a.entry.id, b.entry.id) }

// read gives plain bytes, or stored ones if there is room for them.
func (s *Store) read(ctx context.Context, ds []block.Digest, room func(i, n int) []byte, point string) ([][]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	out := make([][]byte, len(ds))
	var ask []block.Digest
	var where []int
	for i, d := range ds {
		if d == block.Zero {
			return nil, fmt.Errorf("read block %d of %d: %w", i, len(ds), ErrZeroBlock)
		}
		if room == nil {
			out[i] = s.res.verified.get(s.num, d)
		}
		if out[i] == nil {
			ask, where = append(ask, d), append(where, i)
		}
	}
	es, err := s.lookup(ask)
	if err != nil {
		return nil, err
	}
	wants := make([]want, len(ask))
	for i, e := range es {
		if e.id == 0 {
			return nil, fmt.Errorf("block %s: %w", ask[i], ErrBlockMissing)
		}
		wants[i] = want{where[i], ask[i], e}
	}
	run := perFetcher
	if room != nil {
		run = perCopier
	}
	return out, s.fetch(ctx, wants, run, func(w want, value []byte, err error) error {
		switch {
		case errors.Is(err, errNoSuchID) && s.gone(w.digest):
			return fmt.Errorf("block %s: %w", w.digest, ErrBlockMissing)
		case err != nil:
		case room != nil:
			out[w.i] = room(w.i, len(value))
			copy(out[w.i], value)
		default:
			out[w.i], err = block.Open(nil, value, w.digest)
		}
		if err != nil && isDamage(err) {
			return &CorruptError{Digest: w.digest, ID: w.entry.id, Point: point, Err: err}
		}
		if err == nil && room == nil {
			s.res.verified.put(s.num, w.digest, out[w.i])
		}
		return err
	})
}

// gone reports whether the index has no such block: one that was found and is not
// in blocks/ may have been reclaimed in between.
func (s *Store) gone(d block.Digest) bool {
	es, err := s.lookup([]block.Digest{d})
	return err == nil && es[0].id == 0
}

// damagedIDs remembers blocks that Pebble found damaged. It spends seconds of
// computing on every such read, to find out whether a single bit was flipped.
type damagedIDs struct {
	mu sync.Mutex
	m  map[uint64]error
}

func (d *damagedIDs) get(id uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.m[id]
}

func (d *damagedIDs) add(id uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.m == nil {
		d.m = map[uint64]error{}
	}
	if len(d.m) < 10*maxBad {
		d.m[id] = err
	}
}

// errNoSuchID is what fetch says about an id that is not in blocks/.
var errNoSuchID = fmt.Errorf("%w: the index names it, but there is no such block", ErrCorrupt)

// perFetcher is how many blocks it takes to employ another core when they are
// decoded, and perCopier when not: copying one takes as long as waking a thread.
const (
	perFetcher = 4
	perCopier  = 64
)

// fetch reads blocks by id, in ascending order on as many cores as is worth it,
// one for every run blocks, and calls each, on any of them, with the stored bytes
// or what went wrong. An error of each ends it.
func (s *Store) fetch(ctx context.Context, wants []want, run int, each func(w want, stored []byte, err error) error) error {
	slices.SortFunc(wants, byID)
	n := min(runtime.GOMAXPROCS(0), (len(wants)+run-1)/run)
	if n <= 1 {
		return s.fetchRun(ctx, wants, each)
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error { return s.fetchRun(ctx, wants[i*len(wants)/n:(i+1)*len(wants)/n], each) })
	}
	return g.Wait()
}

// blockIter makes an iterator over blocks/. When tables are replaced, the new one
// is there in a place where it cannot be seen yet at the moment at which the old
// ones go: an iterator made just then would see neither.
func (s *Store) blockIter(o *pebble.IterOptions) (*pebble.Iterator, error) {
	s.replacing.RLock()
	defer s.replacing.RUnlock()
	return s.blocks.NewIter(o)
}

func (s *Store) fetchRun(ctx context.Context, wants []want, each func(want, []byte, error) error) error {
	if len(wants) == 0 {
		return nil
	}
	it, err := s.blockIter(nil)
	if err != nil {
		return err
	}
	defer func() { it.Close() }()
	var key [8]byte
	get := func() ([]byte, error) {
		if err := s.damaged.get(binary.BigEndian.Uint64(key[:])); err != nil {
			return nil, err
		}
		if it.SeekGE(key[:]) && bytes.Equal(it.Key(), key[:]) {
			return it.ValueAndErr()
		}
		if err := it.Error(); err != nil {
			return nil, err
		}
		return nil, errNoSuchID
	}
	for n, w := range wants {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.ctx.Err() != nil {
			return ErrClosed
		}
		binary.BigEndian.PutUint64(key[:], w.entry.id)
		v, err := get()
		if err != nil && n > 0 {
			// From one block to another near it the iterator steps, and trips
			// over damage in between. A fresh one goes straight to the block.
			again, nerr := s.blockIter(nil)
			if nerr != nil {
				return nerr
			}
			it.Close()
			it = again
			v, err = get()
		}
		if pebble.IsCorruptionError(err) {
			s.damaged.add(w.entry.id, err)
		}
		if err := each(w, v, err); err != nil {
			return err
		}
	}
	return nil
}
