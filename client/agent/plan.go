package agent

import (
	"context"

	"cairn/client/source"
)

// piece is a run of whole blocks of a disk: to be read, or known to be zeros.
type piece struct {
	first, count uint64
	zero         bool
}

// planner turns a source's extents, which are aligned to nothing, into pieces
// of whole blocks: ascending, touching each block at most once, none crossing
// a multiple of max blocks unless it is zero. With gapsAreZero, what no extent
// mentions becomes zero pieces.
type planner struct {
	blockSize   int64
	size        int64 // of the disk
	max         uint64
	gapsAreZero bool
	emit        func(piece) error

	next uint64 // first block that no piece has covered
	read piece  // blocks to read, not emitted yet
}

// plan walks the extents of a disk.
func (p *planner) plan(ctx context.Context, d source.SnapshotDisk) error {
	if err := d.Extents(ctx, p.extent); err != nil {
		return err
	}
	if err := p.flush(); err != nil {
		return err
	}
	return p.gap(uint64((p.size + p.blockSize - 1) / p.blockSize))
}

func (p *planner) extent(e source.Extent) error {
	end := min(e.Offset+e.Length, p.size)
	if e.Offset >= end {
		return nil
	}
	bs := p.blockSize
	first, last := uint64(e.Offset/bs), uint64((end+bs-1)/bs)
	if e.Zero {
		// Only blocks that lie wholly inside are known to be zeros; the ends,
		// which hold other bytes as well, are read.
		zfirst, zlast := uint64((e.Offset+bs-1)/bs), uint64(end/bs)
		if end == p.size {
			zlast = last
		}
		if zfirst < zlast {
			if first < zfirst {
				if err := p.blocks(first, zfirst); err != nil {
					return err
				}
			}
			if err := p.zeros(zfirst, zlast); err != nil {
				return err
			}
			first = zlast
		}
		if first == last {
			return nil
		}
	}
	return p.blocks(first, last)
}

// blocks adds blocks first ≤ b < last to what is read.
func (p *planner) blocks(first, last uint64) error {
	first = max(first, p.next) // the block that two extents share is read once
	if first >= last {
		return nil
	}
	if p.read.count > 0 && p.read.first+p.read.count != first {
		if err := p.flush(); err != nil {
			return err
		}
	}
	if err := p.gap(first); err != nil {
		return err
	}
	for first < last {
		if p.read.count == 0 {
			p.read.first = first
		}
		n := min(last, (first/p.max+1)*p.max) - first
		p.read.count += n
		first += n
		p.next = first
		if first%p.max == 0 {
			if err := p.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// zeros adds blocks that are known to be zeros.
func (p *planner) zeros(first, last uint64) error {
	first = max(first, p.next)
	if first >= last {
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	if err := p.gap(first); err != nil {
		return err
	}
	p.next = last
	return p.emit(piece{first: first, count: last - first, zero: true})
}

// gap covers what lies before block to and was not mentioned.
func (p *planner) gap(to uint64) error {
	if to <= p.next {
		return nil
	}
	from := p.next
	p.next = to
	if !p.gapsAreZero {
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	return p.emit(piece{first: from, count: to - from, zero: true})
}

func (p *planner) flush() error {
	if p.read.count == 0 {
		return nil
	}
	r := p.read
	p.read = piece{}
	return p.emit(r)
}
