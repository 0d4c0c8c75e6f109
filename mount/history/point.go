package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cairn/blockstore/diskmap"
	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// Point is an opened recovery point.
type Point struct {
	ID   string
	Time time.Time
	// Disks in the order in which the tree has them.
	Disks []Disk
	// Blocks reads the pages of the disks' maps, best through a Cache that all
	// points share, as the images of the tree should.
	Blocks diskmap.BlockReader
	Tree   *tree.Tree
}

// Disk is a disk of a point and its map.
type Disk struct {
	Name string
	Map  diskmap.Map
}

// Ref names a point without opening it.
type Ref struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
}

// Item is the points of a protected item.
type Item struct {
	Refs []Ref // oldest first
	// Open opens Refs[i]; whoever calls it closes the point's tree.
	Open func(ctx context.Context, i int) (*Point, error)
}

// Options are what all commands share.
type Options struct {
	// Problem is told what could not be read, and where: a volume or path of the
	// point of that id. It is not called twice at a time.
	Problem func(point, path string, err error)
	// Walk trusts nothing that the guest noted about its changes: both trees are
	// walked, and of each file is looked at where its content is stored. It finds
	// what was changed without the guest's kernel, by a repair for example.
	Walk bool
}

// ErrIncomplete: something could not be read; Options.Problem was told what.
var ErrIncomplete = errors.New("not everything could be read")

// volume is a volume of a point.
type volume struct {
	point *Point
	name  string
	fs    filesys.FS      // nil if it cannot be read
	err   error           // why
	dev   blockdev.Device // nil if it lies on several, or its bytes cannot be had
}

// path is where the volume's files are in the point's tree.
func (v *volume) path() string { return "/volumes/" + v.name }

// volumes opens the volumes of a point that hold files, or should; with only set
// none but that one.
func (p *Point) volumes(ctx context.Context, only string) ([]*volume, error) {
	list, err := p.Tree.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	var out []*volume
	for _, v := range list {
		if only != "" && v.Name != only || v.Err == nil && v.Reason == "" && v.Device != nil && v.Part.Readable() && !v.HoldsFiles() {
			continue
		}
		if v.Err == nil && len(v.Into) > 0 { // its files are those of what is made of it
			continue
		}
		x := &volume{point: p, name: v.Name}
		if x.fs, x.err = v.FS(); x.err != nil {
			x.fs = nil
		}
		if onOneDevice(v) {
			x.dev = v.Device
		}
		out = append(out, x)
	}
	return out, nil
}

// lost says why a disk of the point could not be looked into at all: then a
// volume that is not listed may be there nevertheless.
func (p *Point) lost(ctx context.Context) error {
	list, err := p.Tree.Volumes(ctx)
	for _, v := range list {
		if v.Err != nil {
			err = errors.Join(err, fmt.Errorf("disk %s: %w", v.Name, v.Err))
		}
	}
	return err
}

// place is where a byte of a volume is stored: disk by name, since points may
// have other disks.
type place struct {
	disk string
	off  int64
}

// errNoPlace: bytes have no place on a disk that could be told: they are computed
// from parity, say, or a part of the volume is gone. They can be compared by reading
// them alone, if at all.
var errNoPlace = errors.New("its place on the disks cannot be told")

func (v *volume) place(off int64) (place, int64, error) {
	p, n, err := v.dev.Place(off)
	switch {
	case err != nil:
		return place{}, 0, fmt.Errorf("byte %d of %s: %w: %w", off, v.name, errNoPlace, err)
	case n <= 0:
		return place{}, 0, fmt.Errorf("byte %d of %s: %w: no bytes", off, v.name, errNoPlace)
	case p.Disk == blockdev.Nowhere:
		return place{}, n, nil
	case p.Disk < 0 || p.Disk >= len(v.point.Disks):
		return place{}, 0, fmt.Errorf("place of byte %d of %s: on disk %d of %d", off, v.name, p.Disk, len(v.point.Disks))
	}
	return place{v.point.Disks[p.Disk].Name, p.Off}, n, nil
}

// disk is the point's disk of that name.
func (p *Point) disk(name string) (diskmap.Map, bool) {
	for _, d := range p.Disks {
		if d.Name == name {
			return d.Map, true
		}
	}
	return diskmap.Map{}, false
}

// onOneDevice says whether offsets of the volume mean bytes of one device: a
// btrfs may lie on several, each with offsets of its own.
func onOneDevice(v *tree.Volume) bool {
	fs, _ := v.FS()
	many, ok := fs.(interface{ Devices() int })
	return v.Device != nil && (!ok || many.Devices() == 1)
}
