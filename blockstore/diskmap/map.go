package diskmap

import (
	"context"
	"fmt"

	"cairn/blockstore/block"
)

const (
	// Fanout is the number of entries in a page.
	Fanout = 256
	// PageSize is the length of a page in bytes.
	PageSize = Fanout * 32

	fanoutBits = 8
)

// Map names the content of one disk.
type Map struct {
	Size      int64        // bytes of the disk, not rounded up to blocks
	BlockSize int          // bytes per block, see block.ValidSize
	Root      block.Digest // digest of the top page; block.Zero when the disk is empty or all zeros
}

// Blocks is the number of blocks, the last of which may be a partial one.
func (m Map) Blocks() uint64 {
	if m.Size <= 0 || m.BlockSize <= 0 {
		return 0
	}
	return (uint64(m.Size)-1)/uint64(m.BlockSize) + 1
}

// Depth is the number of page levels, 7 at most; 0 for a disk of 0 bytes.
func (m Map) Depth() int {
	n := m.Blocks()
	if n == 0 {
		return 0
	}
	d := 1
	for n > 1<<(fanoutBits*d) {
		d++
	}
	return d
}

// Validate checks what can be checked without reading pages.
func (m Map) Validate() error {
	if m.Size < 0 {
		return fmt.Errorf("disk map: negative size %d", m.Size)
	}
	if err := block.ValidSize(m.BlockSize); err != nil {
		return fmt.Errorf("disk map: %w", err)
	}
	if m.Size == 0 && m.Root != block.Zero {
		return fmt.Errorf("disk map: empty disk with root %s, must be zero", m.Root)
	}
	return nil
}

// BlockReader fetches blocks and pages by digest. It returns their verified
// plain bytes in the order asked, all or an error. The slices are shared:
// callers must not modify them. An Image calls it from many goroutines at once.
type BlockReader interface {
	ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error)
}

// PageWriter stores a page and returns its digest, block.Sum(plain). The
// caller reuses plain after the return.
type PageWriter interface {
	WritePage(ctx context.Context, plain []byte) (block.Digest, error)
}

// Page is a reference to a page: where it stands in a map, and its digest.
type Page struct {
	Level  int    // 1 for leaves, which hold block digests, up to Map.Depth
	Index  uint64 // position among the pages of its level
	Digest block.Digest
}

// First is the index of the first block below the page.
func (p Page) First() uint64 { return p.Index << (fanoutBits * p.Level) }

func (p Page) String() string {
	return fmt.Sprintf("map page level %d index %d (%s)", p.Level, p.Index, p.Digest)
}

func (p Page) child(i int, d block.Digest) Page {
	return Page{Level: p.Level - 1, Index: p.Index<<fanoutBits + uint64(i), Digest: d}
}

// top refers to the map's root page.
func (m Map) top() Page { return Page{Level: m.Depth(), Digest: m.Root} }

// entries is how many entries of p lie before the end of a disk of n blocks.
func (p Page) entries(n uint64) int {
	first := p.First()
	if n <= first {
		return 0
	}
	shift := fanoutBits * (p.Level - 1)
	return int(min(Fanout, (n-first-1)>>shift+1))
}

// entry is entry i of a page's plain bytes.
func entry(page []byte, i int) block.Digest {
	return block.Digest(page[i*len(block.Digest{}):])
}

func setEntry(page []byte, i int, d block.Digest) {
	copy(page[i*len(d):(i+1)*len(d)], d[:])
}

// check refuses a page that breaks the format, for a disk of n blocks.
func (p Page) check(plain []byte, n uint64) error {
	if len(plain) != PageSize {
		return fmt.Errorf("%s: %w: %d bytes, must be %d", p, block.ErrFormat, len(plain), PageSize)
	}
	live := p.entries(n) * len(block.Digest{})
	if !block.IsZero(plain[live:]) {
		return fmt.Errorf("%s: %w: an entry behind the end of the disk is not zero", p, block.ErrFormat)
	}
	if block.IsZero(plain[:live]) {
		return fmt.Errorf("%s: %w: all entries are zero", p, block.ErrFormat)
	}
	return nil
}

// readPages reads pages and checks them; page i is of a disk of blocks(i).
func readPages(ctx context.Context, r BlockReader, ps []Page, blocks func(i int) uint64) ([][]byte, error) {
	if len(ps) == 0 {
		return nil, nil
	}
	ds := make([]block.Digest, len(ps))
	for i, p := range ps {
		ds[i] = p.Digest
	}
	pages, err := r.ReadBlocks(ctx, ds)
	if err == nil && len(pages) != len(ps) {
		err = fmt.Errorf("reader returned %d blocks for %d", len(pages), len(ps))
	}
	if err != nil {
		if len(ps) == 1 {
			return nil, fmt.Errorf("%s: %w", ps[0], err)
		}
		return nil, fmt.Errorf("%s and %d more: %w", ps[0], len(ps)-1, err)
	}
	for i, p := range ps {
		if err := p.check(pages[i], blocks(i)); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// readPage reads one page of a disk of the given number of blocks.
func readPage(ctx context.Context, r BlockReader, p Page, blocks uint64) ([]byte, error) {
	pages, err := readPages(ctx, r, []Page{p}, func(int) uint64 { return blocks })
	if err != nil {
		return nil, err
	}
	return pages[0], nil
}
