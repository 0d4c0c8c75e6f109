package storetest

import (
	"context"
	"fmt"
	"sync/atomic"

	"cairn/blockstore"
	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// Target is one vault to test, empty at first.
type Target interface {
	// BlockSize is in bytes.
	BlockSize() int
	// StartUpload opens the upload of a point that will have these disks. Maps
	// may build on the point base, unless it is "".
	StartUpload(ctx context.Context, disks []Disk, base string) (Upload, error)
	// ReadBlocks returns the verified plain bytes of blocks, for a point.
	ReadBlocks(ctx context.Context, point string, ds []block.Digest) ([][]byte, error)
	// Disks returns a point's disks in the order of StartUpload.
	Disks(ctx context.Context, point string) ([]blockstore.Disk, error)
	// DeletePoint removes a point.
	DeletePoint(ctx context.Context, point string) error
}

// Disk announces a disk.
type Disk struct {
	Name string
	Size int64 // bytes
}

// Extent gives the digests of consecutive blocks of a disk, block.Zero for zeros.
type Extent struct {
	First   uint64
	Digests []block.Digest
}

// Upload is one upload to a Target.
type Upload interface {
	// FindMissing takes at most 4096 digests.
	FindMissing(ctx context.Context, ds []block.Digest) ([]int, error)
	// Put sends blocks, 2 MiB of them at most. What is wrong with them may show
	// at once, or when wait is called, which returns when they are durable.
	Put(ctx context.Context, blocks []blockstore.Block) (wait func() error, err error)
	// WriteMap stores a disk's map: the base's disk of the same name, or zeros,
	// with runs changed. Runs ascend.
	WriteMap(ctx context.Context, disk string, overBase bool, runs []Extent) (diskmap.Map, error)
	// Commit makes a point of the disks whose maps were written, and names it.
	Commit(ctx context.Context) (point string, err error)
	// Abort ends the upload without a point.
	Abort(ctx context.Context) error
}

// Local makes a Target of a store in this process.
func Local(s *blockstore.Store) Target { return &local{s: s} }

type local struct {
	s *blockstore.Store
	n atomic.Int64
}

func (t *local) BlockSize() int { return t.s.Info().BlockSize }

func (t *local) StartUpload(ctx context.Context, disks []Disk, base string) (Upload, error) {
	u, err := t.s.StartUpload(fmt.Sprintf("upload-%06d", t.n.Add(1)))
	if err != nil {
		return nil, err
	}
	l := &localUpload{t: t, u: u, disks: disks, maps: map[string]diskmap.Map{}}
	if base != "" {
		if err := u.PinPoint(ctx, base); err != nil {
			u.Abort()
			return nil, err
		}
		if l.base, err = t.s.Point(base); err != nil {
			u.Abort()
			return nil, err
		}
	}
	return l, nil
}

func (t *local) ReadBlocks(ctx context.Context, point string, ds []block.Digest) ([][]byte, error) {
	return t.s.Reader(point).ReadBlocks(ctx, ds)
}

func (t *local) Disks(_ context.Context, point string) ([]blockstore.Disk, error) {
	p, err := t.s.Point(point)
	return p.Disks, err
}

func (t *local) DeletePoint(ctx context.Context, point string) error {
	return t.s.DeletePoint(ctx, point)
}

type localUpload struct {
	t     *local
	u     *blockstore.Upload
	base  blockstore.Point
	disks []Disk
	maps  map[string]diskmap.Map
}

func (l *localUpload) FindMissing(ctx context.Context, ds []block.Digest) ([]int, error) {
	return l.u.FindMissing(ctx, ds)
}

func (l *localUpload) Put(ctx context.Context, blocks []blockstore.Block) (func() error, error) {
	ack, err := l.u.Put(ctx, blocks)
	if err != nil {
		return nil, err
	}
	return func() error {
		if err := l.u.Flush(ctx); err != nil {
			return err
		}
		<-ack.Done()
		return ack.Err()
	}, nil
}

func (l *localUpload) WriteMap(ctx context.Context, disk string, overBase bool, runs []Extent) (diskmap.Map, error) {
	var base *diskmap.Map
	if overBase {
		for _, d := range l.base.Disks {
			if d.Name == disk {
				base = &d.Map
			}
		}
	}
	for _, d := range l.disks {
		if d.Name != disk {
			continue
		}
		b, err := diskmap.NewBuilder(d.Size, l.t.BlockSize(), base, l.u, l.u)
		if err != nil {
			return diskmap.Map{}, err
		}
		for _, r := range runs {
			for i, dg := range r.Digests {
				if err := b.Set(ctx, r.First+uint64(i), dg); err != nil {
					return diskmap.Map{}, err
				}
			}
		}
		m, err := b.Finish(ctx)
		if err == nil {
			l.maps[disk] = m
		}
		return m, err
	}
	return diskmap.Map{}, fmt.Errorf("%w: no disk %s", blockstore.ErrInvalid, disk)
}

func (l *localUpload) Commit(ctx context.Context) (string, error) {
	p := blockstore.Point{ID: "point-" + l.u.ID()}
	for _, d := range l.disks {
		m, ok := l.maps[d.Name]
		if !ok {
			return "", fmt.Errorf("%w: disk %s has no map", blockstore.ErrInvalid, d.Name)
		}
		p.Disks = append(p.Disks, blockstore.Disk{Name: d.Name, Map: m})
	}
	return p.ID, l.u.Commit(ctx, p)
}

func (l *localUpload) Abort(context.Context) error {
	l.u.Abort()
	return nil
}
