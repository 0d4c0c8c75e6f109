package history

import (
	"cmp"
	"context"
	"slices"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/mount/filesys"
)

// delta is what differs between the disks of two points, computed as it is
// asked for.
type delta struct {
	a, b  *Point
	disks map[string][]filesys.Range
}

func newDelta(a, b *Point) *delta { return &delta{a: a, b: b, disks: map[string][]filesys.Range{}} }

// nothing says whether the points have the same disks, of the same content.
func (d *delta) nothing() bool { return slices.Equal(d.a.Disks, d.b.Disks) }

// disk gives the ranges of a disk that differ. One that only one point has
// differs as a whole.
func (d *delta) disk(ctx context.Context, name string) ([]filesys.Range, error) {
	if list, ok := d.disks[name]; ok {
		return list, nil
	}
	a, okA := d.a.disk(name)
	b, okB := d.b.disk(name)
	var list []filesys.Range
	if size := max(a.Size, b.Size); !okA || !okB || a.BlockSize != b.BlockSize {
		list = []filesys.Range{{Len: size}}
	} else {
		bs := int64(a.BlockSize)
		if err := diskmap.Diff(ctx, d.b.Blocks, a, b, func(index uint64, _, _ block.Digest) error {
			off := int64(index) * bs
			list = add(list, off, min(bs, size-off))
			return nil
		}); err != nil {
			return nil, err
		}
	}
	d.disks[name] = list
	return list, nil
}

// add appends a range behind those in list.
func add(list []filesys.Range, off, n int64) []filesys.Range {
	if n <= 0 {
		return list
	}
	if k := len(list); k > 0 && list[k-1].Off+list[k-1].Len == off {
		list[k-1].Len += n
		return list
	}
	return append(list, filesys.Range{Off: off, Len: n})
}

// within calls fn with what of ranges lies in the n bytes from off.
func within(ranges []filesys.Range, off, n int64, fn func(off, n int64)) {
	i, _ := slices.BinarySearchFunc(ranges, off, func(r filesys.Range, at int64) int {
		return cmp.Compare(r.Off+r.Len, at+1)
	})
	for ; i < len(ranges) && ranges[i].Off < off+n; i++ {
		from, to := max(ranges[i].Off, off), min(ranges[i].Off+ranges[i].Len, off+n)
		if from < to {
			fn(from, to-from)
		}
	}
}

// volume gives the ranges of a volume that differ between its two states: bytes
// in blocks that do, and bytes that are kept elsewhere than before.
func (d *delta) volume(ctx context.Context, a, b *volume) ([]filesys.Range, error) {
	var list []filesys.Range
	end := min(a.dev.Size(), b.dev.Size())
	for off, steps := int64(0), 0; off < end; steps++ {
		if steps%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		pa, na, err := a.place(off)
		if err != nil {
			return nil, err
		}
		pb, nb, err := b.place(off)
		if err != nil {
			return nil, err
		}
		n := min(na, nb, end-off)
		switch {
		case pa != pb:
			list = add(list, off, n)
		case pa.disk != "":
			changed, err := d.disk(ctx, pa.disk)
			if err != nil {
				return nil, err
			}
			within(changed, pa.off, n, func(at, m int64) { list = add(list, off+at-pa.off, m) })
		}
		off += n
	}
	return add(list, end, max(a.dev.Size(), b.dev.Size())-end), nil
}

// part gives the ranges within n bytes from off of a volume that differ, like
// volume, but looks at the maps of these bytes only.
func part(ctx context.Context, a, b *volume, off, n int64) ([]filesys.Range, error) {
	var list []filesys.Range
	for end := off + n; off < end; {
		if off >= min(a.dev.Size(), b.dev.Size()) {
			return add(list, off, end-off), nil
		}
		pa, na, err := a.place(off)
		if err != nil {
			return nil, err
		}
		pb, nb, err := b.place(off)
		if err != nil {
			return nil, err
		}
		n := min(na, nb, end-off)
		if pa != pb {
			list = add(list, off, n)
		} else if pa.disk != "" {
			if list, err = partOfDisk(ctx, a.point, b.point, pa, off, n, list); err != nil {
				return nil, err
			}
		}
		off += n
	}
	return list, nil
}

// partOfDisk adds what differs of the n bytes at p, which are those from off of
// the volume.
func partOfDisk(ctx context.Context, a, b *Point, p place, off, n int64, list []filesys.Range) ([]filesys.Range, error) {
	ma, okA := a.disk(p.disk)
	mb, okB := b.disk(p.disk)
	if !okA || !okB || ma.BlockSize != mb.BlockSize {
		return add(list, off, n), nil
	}
	bs := int64(ma.BlockSize)
	err := diskmap.DiffRange(ctx, b.Blocks, ma, mb, uint64(p.off/bs), uint64((p.off+n+bs-1)/bs), func(index uint64, _, _ block.Digest) error {
		from, to := max(int64(index)*bs, p.off), min(int64(index+1)*bs, p.off+n)
		list = add(list, off+from-p.off, to-from)
		return nil
	})
	return list, err
}
