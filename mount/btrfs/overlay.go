package btrfs

import (
	"slices"
	"sort"
)

// overlay holds items that replace, add to or delete those of a tree. It is
// filled while a log is replayed and never changed afterwards.
type overlay struct {
	// chunks are sorted rows of items, none of them empty or long.
	chunks [][]overItem
	bytes  int
}

type overItem struct {
	k       key
	data    []byte
	deleted bool
}

const overChunk = 256

// find gives the place of the first item that is not below k.
func (o *overlay) find(k key) (chunk, i int) {
	if o == nil || len(o.chunks) == 0 {
		return 0, 0
	}
	chunk = sort.Search(len(o.chunks), func(i int) bool { return o.chunks[i][0].k.cmp(k) > 0 }) - 1
	if chunk < 0 {
		return 0, 0
	}
	row := o.chunks[chunk]
	return chunk, sort.Search(len(row), func(i int) bool { return row[i].k.cmp(k) >= 0 })
}

// set puts an item, in place of its equal.
func (o *overlay) set(item overItem) {
	o.bytes += len(item.data) + 64
	if len(o.chunks) == 0 {
		o.chunks = [][]overItem{{item}}
		return
	}
	c, i := o.find(item.k)
	row := o.chunks[c]
	if i < len(row) && row[i].k == item.k {
		o.bytes -= len(row[i].data) + 64
		row[i] = item
		return
	}
	row = slices.Insert(row, i, item)
	if len(row) > overChunk {
		o.chunks = slices.Insert(o.chunks, c+1, slices.Clone(row[overChunk/2:]))
		row = slices.Clip(row[:overChunk/2])
	}
	o.chunks[c] = row
}

// overIter stands at an item of an overlay, or at its end.
type overIter struct {
	o        *overlay
	chunk, i int
}

func (o *overlay) seek(k key) overIter {
	if o == nil {
		return overIter{}
	}
	c, i := o.find(k)
	return overIter{o, c, i}
}

func (it *overIter) item() *overItem {
	if it.o == nil {
		return nil
	}
	for it.chunk < len(it.o.chunks) {
		if row := it.o.chunks[it.chunk]; it.i < len(row) {
			return &row[it.i]
		}
		it.chunk, it.i = it.chunk+1, 0
	}
	return nil
}

func (it *overIter) next() { it.i++ }

// before gives the last item, not a deleted one, that is below k.
func (o *overlay) before(k key) *overItem {
	if o == nil || len(o.chunks) == 0 {
		return nil
	}
	for c, i := o.find(k); ; {
		for i--; i >= 0; i-- {
			if item := &o.chunks[c][i]; !item.deleted {
				return item
			}
		}
		if c--; c < 0 {
			return nil
		}
		i = len(o.chunks[c])
	}
}
