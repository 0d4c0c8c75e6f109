package lvm2

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// overlay is a device of which some chunks are on another one: a snapshot and its
// store, or a slow volume and its cache.
type overlay struct {
	store, origin blockdev.Device
	chunk         int64 // bytes

	read   func(*overlay) ([]run, error)
	shared *atomic.Int64 // counts the runs of all overlays of a group
	mu     sync.Mutex    // guards what follows until it is loaded
	loaded atomic.Bool
	runs   []run // ascending by from, disjoint
	err    error
}

// run is chunks that follow each other in the origin and in the store.
type run struct {
	from, to int64
	n        int64
}

// maxRuns bounds the memory of all overlays of a group to 24 MiB.
const maxRuns = 1 << 20

// load reads which chunks the store has, when the first byte is read. What is
// wrong with the store is remembered; that it could not be reached is not.
func (o *overlay) load() error {
	if o.loaded.Load() {
		return o.err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.loaded.Load() {
		return o.err
	}
	runs, err := o.read(o)
	if err == nil {
		o.shared.Add(int64(len(runs)))
		err = sortRuns(runs)
	} else if !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrUnsupported) {
		return err
	}
	o.runs, o.err = runs, err
	o.loaded.Store(true)
	return err
}

// addRun adds a chunk to runs.
func (o *overlay) addRun(runs []run, from, to int64) ([]run, error) {
	if n := len(runs); n > 0 && runs[n-1].from+runs[n-1].n == from && runs[n-1].to+runs[n-1].n == to {
		runs[n-1].n++
		return runs, nil
	}
	if int64(len(runs))+o.shared.Load() >= maxRuns {
		return nil, fmt.Errorf("the snapshots and caches of the group have more than %d pieces: %w", maxRuns, filesys.ErrUnsupported)
	}
	return append(runs, run{from, to, 1}), nil
}

func sortRuns(runs []run) error {
	slices.SortFunc(runs, func(a, b run) int { return int(a.from - b.from) })
	for i := 1; i < len(runs); i++ {
		if runs[i].from < runs[i-1].from+runs[i-1].n {
			return fmt.Errorf("chunk %d is there twice: %w", runs[i].from, filesys.ErrCorrupt)
		}
	}
	return nil
}

func (o *overlay) Size() int64 { return o.origin.Size() }

// find tells where the byte at off is, and for how many bytes that goes on.
func (o *overlay) find(off int64) (d blockdev.Device, at, n int64, err error) {
	if err := o.load(); err != nil {
		return nil, 0, 0, err
	}
	chunk := off / o.chunk
	n = o.Size() - off
	i := sort.Search(len(o.runs), func(i int) bool { return o.runs[i].from+o.runs[i].n > chunk })
	if i == len(o.runs) {
		return o.origin, off, n, nil
	}
	r := o.runs[i]
	if r.from > chunk {
		return o.origin, off, min(n, r.from*o.chunk-off), nil
	}
	in := off - r.from*o.chunk
	return o.store, r.to*o.chunk + in, min(n, r.n*o.chunk-in), nil
}

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	return raid.ReadPieces(p, off, o.Size(), func(p []byte, off int64) (int, error) {
		d, at, n, err := o.find(off)
		if err != nil {
			return 0, err
		}
		return raid.Full(d, p[:min(int64(len(p)), n)], at)
	})
}

func (o *overlay) Place(off int64) (blockdev.Place, int64, error) {
	if off < 0 || off >= o.Size() {
		return blockdev.Place{}, 0, outside(off, o.Size())
	}
	d, at, n, err := o.find(off)
	if err != nil {
		return blockdev.Place{}, 0, err
	}
	p, m, err := d.Place(at)
	return p, min(n, m), err
}
