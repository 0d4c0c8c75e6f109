package diskmap

import (
	"context"
	"fmt"
	"io"

	"cairn/blockstore/block"
)

// CacheOptions bound the memory of a Cache. The zero value is a good choice for
// random access.
type CacheOptions struct {
	// Pages is for decoded map pages, in bytes; 0 means 4 MiB, which covers
	// 8 GiB of disk at 64 KiB blocks.
	Pages int64
	// Blocks is for recently read blocks, in bytes; 0 means 32 MiB, below 0
	// none. It is raised to twice ReadAhead.
	Blocks int64
	// ReadAhead is how far in bytes sequential readers, all of them together, are
	// read ahead of, in the background; 0 means not at all. An Image that reads
	// ahead must be closed.
	ReadAhead int64
}

// Cache is the memory of one or many Images: of all disks of all points of a
// mount, say. What two of them have in common it holds once. Blocks are known by
// their digest, so whatever may be read through one of its Images, the others
// are given too.
type Cache struct {
	pages  *cache
	blocks *cache
	ahead  *readAhead // nil when off
}

// NewCache makes an empty cache. There is nothing to close.
func NewCache(o CacheOptions) *Cache {
	if o.Pages == 0 {
		o.Pages = 4 << 20
	}
	if o.Blocks == 0 {
		o.Blocks = 32 << 20
	}
	c := &Cache{pages: newCache(max(0, o.Pages))}
	if o.ReadAhead > 0 {
		o.Blocks = max(o.Blocks, 2*o.ReadAhead)
		c.ahead = newReadAhead(o.ReadAhead)
	}
	c.blocks = newCache(max(0, o.Blocks))
	return c
}

// ImageOptions say what memory an Image uses: Cache, or when that is nil one of
// its own, of these bounds (see CacheOptions).
type ImageOptions struct {
	Cache      *Cache
	PageCache  int64
	BlockCache int64
	ReadAhead  int64
}

// batchBytes bounds the plain bytes of one ReadBlocks call.
const batchBytes = 4 << 20

// Image reads a disk: it is an io.ReaderAt over a Map. All its methods are safe
// for concurrent use. Blocks and pages come verified from the BlockReader; what
// then does not fit the map is an error that matches block.ErrCorrupt.
//
// A read that covers several blocks fetches those it lacks with one ReadBlocks
// call (per 4 MiB). Memory is bounded by the two caches, plus 4 MiB or one block
// for each read under way. Of an IntoReader's blocks the memory is used again.
type Image struct {
	r      BlockReader
	m      Map
	pages  *cache
	blocks *cache
	ahead  *prefetcher // nil when off
}

var _ io.ReaderAt = (*Image)(nil)

// NewImage opens a map for reading; m must be valid (Map.Validate), which the
// first read checks.
func NewImage(r BlockReader, m Map, opts ImageOptions) *Image {
	c := opts.Cache
	if c == nil {
		c = NewCache(CacheOptions{Pages: opts.PageCache, Blocks: opts.BlockCache, ReadAhead: opts.ReadAhead})
	}
	im := &Image{r: r, m: m, pages: c.pages, blocks: c.blocks}
	if c.ahead != nil {
		im.ahead = newPrefetcher(im, c.ahead)
	}
	return im
}

// Size is the size of the disk in bytes.
func (im *Image) Size() int64 { return im.m.Size }

// Close stops reading ahead and waits until it has. Reads under way are not
// disturbed, and later ones still work.
func (im *Image) Close() error {
	if im.ahead != nil {
		im.ahead.close()
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	return im.ReadAtContext(context.Background(), p, off)
}

// ReadAtContext is ReadAt that ends early, with the context's error, when ctx
// does.
func (im *Image) ReadAtContext(ctx context.Context, p []byte, off int64) (n int, err error) {
	if err := im.m.Validate(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("read disk image: negative offset %d", off)
	}
	if off >= im.m.Size {
		return 0, io.EOF
	}
	if left := im.m.Size - off; int64(len(p)) > left {
		p, err = p[:left], io.EOF
	}
	if im.ahead != nil {
		im.ahead.notice(off, int64(len(p)))
	}
	for n < len(p) {
		k, err := im.readBatch(ctx, p[n:], off+int64(n))
		if err != nil {
			return n, err
		}
		n += k
	}
	return n, err
}

// readBatch reads the beginning of p, up to the end of a batch.
func (im *Image) readBatch(ctx context.Context, p []byte, off int64) (int, error) {
	bs := int64(im.m.BlockSize)
	first := off / bs
	last := min((off+int64(len(p))-1)/bs, first+max(1, batchBytes/bs)-1)
	h, err := im.fetch(ctx, uint64(first), uint64(last)+1)
	if err != nil {
		return 0, fmt.Errorf("read disk image at %d: %w", off, err)
	}
	defer h.release()
	n, skip := 0, int(off-first*bs)
	for _, b := range h.blocks {
		k := min(len(p)-n, int(bs)-skip)
		if b == nil {
			clear(p[n : n+k])
		} else {
			copy(p[n:n+k], b[skip:])
		}
		n, skip = n+k, 0
	}
	return n, nil
}

// fetch returns the blocks from ≤ index < to, nil for zeros, to be released.
func (im *Image) fetch(ctx context.Context, from, to uint64) (*held, error) {
	ds, err := im.lookup(ctx, from, to)
	if err != nil {
		return nil, err
	}
	h, err := im.blocks.get(ctx, im.r, ds, im.m.BlockSize)
	if err != nil {
		return nil, err
	}
	for i, b := range h.blocks {
		if b != nil && len(b) != im.m.BlockSize {
			err := fmt.Errorf("disk block %d (%s): %w: %d bytes, must be %d", from+uint64(i), ds[i], block.ErrFormat, len(b), im.m.BlockSize)
			h.release()
			return nil, err
		}
	}
	return h, nil
}

// lookup returns the digests of blocks from ≤ index < to.
func (im *Image) lookup(ctx context.Context, from, to uint64) ([]block.Digest, error) {
	level, index := im.m.Depth(), uint64(0)
	ds := []block.Digest{im.m.Root}
	for ; level > 0; level-- {
		pages, err := im.readPages(ctx, level, index, ds)
		if err != nil {
			return nil, err
		}
		shift := fanoutBits * (level - 1)
		lo, hi := from>>shift, (to-1)>>shift
		next := make([]block.Digest, 0, hi-lo+1)
		for c := lo; c <= hi; c++ {
			var d block.Digest
			if page := pages[c>>fanoutBits-index]; page != nil {
				d = entry(page, int(c%Fanout))
			}
			next = append(next, d)
		}
		ds, index = next, lo
	}
	return ds, nil
}

// readPages returns consecutive pages of a level, checked; nil for block.Zero.
// They are not released: their memory is not used again.
func (im *Image) readPages(ctx context.Context, level int, index uint64, ds []block.Digest) ([][]byte, error) {
	ref := Page{Level: level, Index: index}
	h, err := im.pages.get(ctx, im.r, ds, PageSize)
	if err != nil {
		ref.Digest = ds[0]
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	for i, page := range h.blocks {
		if page != nil {
			ref.Index, ref.Digest = index+uint64(i), ds[i]
			if err := ref.check(page, im.m.Blocks()); err != nil {
				return nil, err
			}
		}
	}
	return h.blocks, nil
}

// extentPages bounds the pages that one call of Extent looks at.
const extentPages = 256

// Extent says whether the block at off holds data or is a hole (all zeros), and
// for how many bytes from off on this goes on at least: the next call may report
// the same kind again, since a call looks at a bounded number of pages. Behind
// the end of the disk the error is io.EOF.
func (im *Image) Extent(ctx context.Context, off int64) (data bool, length int64, err error) {
	if err := im.m.Validate(); err != nil {
		return false, 0, err
	}
	if off < 0 {
		return false, 0, fmt.Errorf("extent of disk image: negative offset %d", off)
	}
	if off >= im.m.Size {
		return false, 0, io.EOF
	}
	bs := uint64(im.m.BlockSize)
	blocks := im.m.Blocks()
	pos := uint64(off) / bs
	for pages := 0; pos < blocks && pages < extentPages; pages++ {
		d, n, err := im.run(ctx, pos)
		if err != nil {
			return false, 0, fmt.Errorf("extent of disk image at %d: %w", off, err)
		}
		if pages == 0 {
			data = d
		}
		if d != data {
			break
		}
		pos += n
	}
	end := im.m.Size
	if pos < blocks {
		end = int64(pos * bs)
	}
	return data, end - off, nil
}

// run says what block index is, and how many of its kind follow, itself
// included, in the page where that is decided: the leaf, or the page above it
// whose entry is zero. The end of the disk does not count.
func (im *Image) run(ctx context.Context, index uint64) (data bool, n uint64, err error) {
	d := im.m.Root
	for level := im.m.Depth(); d != block.Zero; level-- {
		pages, err := im.readPages(ctx, level, index>>(fanoutBits*level), []block.Digest{d})
		if err != nil {
			return false, 0, err
		}
		shift := fanoutBits * (level - 1)
		at := index >> shift
		first := int(at % Fanout)
		d = entry(pages[0], first)
		if level > 1 && d != block.Zero {
			continue
		}
		data = d != block.Zero
		for i := first; i < Fanout && (entry(pages[0], i) != block.Zero) == data; i++ {
			at++
		}
		return data, at<<shift - index, nil
	}
	return false, im.m.Blocks() - index, nil
}
