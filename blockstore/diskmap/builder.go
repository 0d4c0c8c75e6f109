package diskmap

import (
	"context"
	"errors"
	"fmt"

	"cairn/blockstore/block"
)

// Builder makes a map in one ascending pass over the blocks. It holds one page
// per level, reads base pages only on the paths to what is set (and up to 32
// leaves ahead when these prove to be needed), writes only pages that differ
// from the base's, and reuses every other subtree by digest. It is for one
// goroutine. After an error it is of no more use.
type Builder struct {
	m    Map
	base Map // Root is Zero when there is none
	r    BlockReader
	w    PageWriter

	levels  []openPage // levels[l]: the open page of level l; [0] is unused
	root    block.Digest
	next    uint64 // lowest index that may be set next
	started bool   // the base is grafted in
	err     error  // sticky

	ahead  map[block.Digest][]byte // leaf pages of the base read ahead of need
	window int                     // leaf pages asked for last time

	run      block.Digest   // digest of the runs memoised in runPages
	runPages []block.Digest // runPages[l]: digest of a level l page below which every block is run
}

// openPage is the page of its level on the current path. Open levels are
// contiguous up to the top, and each open page is the parent of the one below.
type openPage struct {
	open  bool
	dirty bool // differs from the base's page at this place
	index uint64
	buf   [PageSize]byte
}

// NewBuilder starts a map of a disk of size bytes. Blocks that are not set keep
// what base has for them, zero without a base or behind its end. The base's
// size may differ, its block size may not. A disk shrunk to a size inside a
// block must have this block set again, or Finish fails: only the caller can
// hash it anew, padded with zeros. r may be nil when there is no base.
func NewBuilder(size int64, blockSize int, base *Map, r BlockReader, w PageWriter) (*Builder, error) {
	b := &Builder{m: Map{Size: size, BlockSize: blockSize}, r: r, w: w, ahead: map[block.Digest][]byte{}}
	if err := b.m.Validate(); err != nil {
		return nil, err
	}
	if base != nil {
		if err := base.Validate(); err != nil {
			return nil, fmt.Errorf("base: %w", err)
		}
		if base.BlockSize != blockSize {
			return nil, fmt.Errorf("base: block size %d, the new map's is %d", base.BlockSize, blockSize)
		}
		b.base = *base
	}
	b.levels = make([]openPage, b.m.Depth()+1)
	return b, nil
}

// Set gives block index the digest d; block.Zero clears it. Indexes must
// strictly ascend over all calls of Set and SetRun.
func (b *Builder) Set(ctx context.Context, index uint64, d block.Digest) error {
	return b.SetRun(ctx, index, 1, d)
}

// SetRun gives count blocks from index on the digest d, in time proportional to
// the pages on the run's two edges: below, whole subtrees are replaced.
func (b *Builder) SetRun(ctx context.Context, index, count uint64, d block.Digest) error {
	if b.err == nil {
		b.err = b.setRun(ctx, index, count, d)
	}
	return b.err
}

func (b *Builder) setRun(ctx context.Context, index, count uint64, d block.Digest) error {
	blocks := b.m.Blocks()
	if index < b.next {
		return fmt.Errorf("disk map: block %d set after block %d, must ascend", index, b.next-1)
	}
	if index > blocks || count > blocks-index {
		return fmt.Errorf("disk map: %d blocks from %d on are behind the end of a disk of %d blocks", count, index, blocks)
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	for pos, end := index, index+count; pos < end; {
		// The largest subtree that starts at pos and lies within the run. What
		// a zero run covers up to the end of the disk counts as whole.
		level := 0
		for level < b.m.Depth() {
			span := uint64(1) << (fanoutBits * (level + 1))
			if pos&(span-1) != 0 || (end-pos < span && (d != block.Zero || end != blocks)) {
				break
			}
			level++
		}
		if err := b.seek(ctx, level+1, pos); err != nil {
			return err
		}
		sub, err := b.uniform(ctx, level, d)
		if err != nil {
			return err
		}
		b.setChild(level, pos>>(fanoutBits*level), sub)
		pos += uint64(1) << (fanoutBits * level)
	}
	b.next = index + count
	return nil
}

// Finish closes the map and returns it. The Builder is done then.
func (b *Builder) Finish(ctx context.Context) (Map, error) {
	if b.err != nil {
		return Map{}, b.err
	}
	b.err = errors.New("disk map: builder is finished")
	if err := b.finish(ctx); err != nil {
		b.err = err
		return Map{}, err
	}
	b.m.Root = b.root
	return b.m, nil
}

func (b *Builder) finish(ctx context.Context) error {
	if err := b.start(ctx); err != nil {
		return err
	}
	if b.base.Root != block.Zero && b.m.Size < b.base.Size && b.m.Size > 0 {
		// Loading the path to the last block trims it, see load.
		last := b.m.Blocks() - 1
		if err := b.seek(ctx, 1, last); err != nil {
			return err
		}
		partial := b.m.Size%int64(b.m.BlockSize) != 0
		if partial && b.next <= last && entry(b.levels[1].buf[:], int(last%Fanout)) != block.Zero {
			return fmt.Errorf("disk map: disk shrunk from %d to %d bytes: its last block %d must be set anew", b.base.Size, b.m.Size, last)
		}
	}
	for level := 1; level < len(b.levels); level++ {
		if err := b.close(ctx, level); err != nil {
			return err
		}
	}
	return nil
}

// start grafts the base into the new tree, which may be deeper or shallower.
func (b *Builder) start(ctx context.Context) error {
	if b.started {
		return nil
	}
	b.started = true
	if b.base.Root == block.Zero || b.m.Size == 0 {
		return nil
	}
	p, depth := b.base.top(), b.m.Depth()
	for p.Level > depth && p.Digest != block.Zero { // shrunk: go down the left edge
		page, err := readPage(ctx, b.r, p, b.base.Blocks())
		if err != nil {
			return err
		}
		p = p.child(0, entry(page, 0))
	}
	if p.Level >= depth {
		b.root = p.Digest
		return nil
	}
	for l := p.Level + 1; l <= depth; l++ { // grown: new pages above the old root
		b.levels[l].open, b.levels[l].dirty = true, true
	}
	b.setChild(p.Level, 0, p.Digest)
	return nil
}

// child is the digest that the tree has for the page (for level 0 the block) of
// this level and index; its parent must be open. setChild replaces it.
func (b *Builder) child(level int, index uint64) block.Digest {
	if level == b.m.Depth() {
		return b.root
	}
	return entry(b.levels[level+1].buf[:], int(index%Fanout))
}

func (b *Builder) setChild(level int, index uint64, d block.Digest) {
	if level == b.m.Depth() {
		b.root = d
	} else if p := &b.levels[level+1]; entry(p.buf[:], int(index%Fanout)) != d {
		setEntry(p.buf[:], int(index%Fanout), d)
		p.dirty = true
	}
}

// seek closes every open page that is below level or does not hold the block,
// then opens those that do, from the top down to level.
func (b *Builder) seek(ctx context.Context, level int, blk uint64) error {
	for l := 1; l < len(b.levels); l++ {
		if l < level || b.levels[l].index != blk>>(fanoutBits*l) {
			if err := b.close(ctx, l); err != nil {
				return err
			}
		}
	}
	for l := len(b.levels) - 1; l >= level; l-- {
		if !b.levels[l].open {
			if err := b.load(ctx, l, blk>>(fanoutBits*l)); err != nil {
				return err
			}
		}
	}
	return nil
}

// load opens a page with the base's entries, less those behind the new end.
func (b *Builder) load(ctx context.Context, level int, index uint64) error {
	p := &b.levels[level]
	p.open, p.dirty, p.index = true, false, index
	ref := Page{Level: level, Index: index, Digest: b.child(level, index)}
	if ref.Digest == block.Zero {
		clear(p.buf[:])
		return nil
	}
	page, err := b.readBase(ctx, ref)
	if err != nil {
		return err
	}
	copy(p.buf[:], page)
	if tail := p.buf[ref.entries(b.m.Blocks())*len(block.Digest{}):]; !block.IsZero(tail) {
		clear(tail)
		p.dirty = true
	}
	return nil
}

// maxAhead bounds the leaf pages of the base that are held ahead of need.
const maxAhead = 32

// readBase reads a page of the base. A builder that touches most leaves, as a
// backup of scattered changes does, would wait for each of them: so while the
// leaves that were read ahead are used, twice as many are asked for next time.
func (b *Builder) readBase(ctx context.Context, ref Page) ([]byte, error) {
	if page, ok := b.ahead[ref.Digest]; ok {
		delete(b.ahead, ref.Digest)
		return page, ref.check(page, b.base.Blocks())
	}
	if ref.Level > 1 || b.m.Depth() == 1 {
		return readPage(ctx, b.r, ref, b.base.Blocks())
	}
	if 2*len(b.ahead) < b.window {
		b.window = min(max(1, 2*b.window), maxAhead)
	} else {
		b.window = 1
	}
	clear(b.ahead)
	ds := []block.Digest{ref.Digest}
	parent := b.levels[2].buf[:]
	for i := int(ref.Index%Fanout) + 1; i < Fanout && len(ds) < b.window; i++ {
		if d := entry(parent, i); d != block.Zero && d != ref.Digest {
			ds = append(ds, d)
		}
	}
	pages, err := b.r.ReadBlocks(ctx, ds)
	if err != nil || len(pages) != len(ds) { // perhaps for a page that is not needed
		return readPage(ctx, b.r, ref, b.base.Blocks())
	}
	for i, d := range ds[1:] {
		b.ahead[d] = pages[i+1]
	}
	return pages[0], ref.check(pages[0], b.base.Blocks())
}

// close stores the open page of a level, if it changed, and tells its parent.
func (b *Builder) close(ctx context.Context, level int) error {
	p := &b.levels[level]
	if !p.open {
		return nil
	}
	p.open = false
	if !p.dirty {
		return nil
	}
	d, err := b.write(ctx, p.buf[:])
	if err != nil {
		return fmt.Errorf("write map page level %d index %d: %w", level, p.index, err)
	}
	b.setChild(level, p.index, d)
	return nil
}

func (b *Builder) write(ctx context.Context, page []byte) (block.Digest, error) {
	if block.IsZero(page) {
		return block.Zero, nil
	}
	return b.w.WritePage(ctx, page)
}

// uniform is the digest of a full subtree whose blocks are all d: d itself at
// level 0. Its one page per level is written when it is first needed.
func (b *Builder) uniform(ctx context.Context, level int, d block.Digest) (block.Digest, error) {
	if level == 0 || d == block.Zero {
		return d, nil
	}
	if b.run != d || b.runPages == nil {
		b.run, b.runPages = d, []block.Digest{d}
	}
	for l := len(b.runPages); l <= level; l++ {
		var page [PageSize]byte
		for i := range Fanout {
			setEntry(page[:], i, b.runPages[l-1])
		}
		sub, err := b.write(ctx, page[:])
		if err != nil {
			return block.Zero, fmt.Errorf("write map page of a run, level %d: %w", l, err)
		}
		b.runPages = append(b.runPages, sub)
	}
	return b.runPages[level], nil
}
