package server

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	pb "cairn/proto/cairn/v1"
)

// diskRange is a range of one disk of a point, opened for reading.
type diskRange struct {
	v        *Vault
	name     PointName
	m        diskmap.Map
	r        diskmap.BlockReader
	from, to int64 // bytes
	release  func()
}

// openDisk checks the fields that the calls which read a disk share, and keeps
// vault and point until release is called. length 0 means to the end of the
// disk. Errors: those of names, RECOVERY_POINT_NOT_FOUND, DISK_NOT_FOUND.
func (s *Server) openDisk(f *fields, name, disk string, offset, length int64) (_ *diskRange, err error) {
	n := f.point("name", name)
	if disk == "" {
		f.add("disk", "must be given: a target such as \"vda\"")
	}
	f.text("disk", disk, 64)
	if offset < 0 {
		f.add("offset", "is %d; it must not be negative", offset)
	}
	if length < 0 {
		f.add("length", "is %d; it must not be negative", length)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	v, releaseVault, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	releasePoint, err := v.hold(n)
	if err != nil {
		releaseVault()
		return nil, err
	}
	d := &diskRange{v: v, name: n, r: v.Store.Reader(n.storeID()), release: func() { releasePoint(); releaseVault() }}
	defer func() {
		if err != nil {
			d.release()
		}
	}()
	var ok bool
	if d.m, ok, err = v.diskOf(n, disk); err != nil {
		return nil, err
	}
	if !ok {
		return nil, newError(pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND,
			"recovery point %q has no disk %s", n, quote(disk)).with("recovery_point", name).with("disk", disk)
	}
	if offset > d.m.Size || length > d.m.Size-offset {
		path := "length"
		if offset > d.m.Size {
			path = "offset"
		}
		return nil, invalidField(path, "offset %d and length %d reach behind the end of disk %s, which has %d bytes", offset, length, quote(disk), d.m.Size)
	}
	d.from, d.to = offset, offset+length
	if length == 0 {
		d.to = d.m.Size
	}
	return d, nil
}

// diskOf is the map of a point's disk; ok is false if it has none of that name.
func (v *Vault) diskOf(n PointName, target string) (m diskmap.Map, ok bool, err error) {
	_, sp, err := v.point(n)
	if err != nil {
		return m, false, err
	}
	for _, d := range sp.Disks {
		if d.Name == target {
			return d.Map, true, nil
		}
	}
	return m, false, nil
}

// blocks are the indexes of the first block of the range and of that behind it;
// the same for an empty range.
func (d *diskRange) blocks() (from, to uint64) {
	bs := int64(d.m.BlockSize)
	if d.from == d.to {
		return 0, 0
	}
	return uint64(d.from / bs), uint64((d.to + bs - 1) / bs)
}

// clip gives the part of count blocks from first on that lies in the range.
func (d *diskRange) clip(first, count uint64) (from, to int64) {
	bs := int64(d.m.BlockSize)
	return max(d.from, int64(first)*bs), min(d.to, int64(first+count)*bs)
}

// extentsPerMessage bounds a message to some tens of KiB.
const extentsPerMessage = 2048

var errEnough = errors.New("enough")

// ReadExtents streams the ranges of a disk that hold data, or differ.
func (s *recoveryPointService) ReadExtents(r *pb.ReadExtentsRequest, stream grpc.ServerStreamingServer[pb.ReadExtentsResponse]) error {
	var f fields
	var base PointName
	if r.Base != "" {
		base = f.point("base", r.Base)
		if n, ok := splitName(r.Name, pointPattern, false); ok && base.Point != "" && base.VaultName != (VaultName{n[0], n[1]}) {
			f.add("base", "is in another vault than %s", quote(r.Name))
		}
	}
	d, err := s.openDisk(&f, r.Name, r.Disk, r.Offset, r.Length)
	if err != nil {
		return err
	}
	defer d.release()
	out := &extentWriter{d: d, stream: stream}
	if r.Base == "" {
		from, to := d.blocks()
		err = diskmap.Walk(stream.Context(), d.r, d.m, from, to, func(i uint64, _ block.Digest) error { return out.add(i, false) })
	} else {
		err = s.diffExtents(stream.Context(), d, base, r.Disk, out)
	}
	if err != nil {
		return lostBlock(d.name, err)
	}
	return out.flush()
}

// diffExtents lists what differs from the disk of that target in base; a base
// without such a disk counts as zeros.
func (s *recoveryPointService) diffExtents(ctx context.Context, d *diskRange, base PointName, target string, out *extentWriter) error {
	release, err := d.v.hold(base)
	if err != nil {
		return err
	}
	defer release()
	was, ok, err := d.v.diskOf(base, target)
	if err != nil {
		return err
	}
	if !ok {
		was = emptyMap(d.v.Store)
	}
	from, to := d.blocks()
	err = diskmap.Diff(ctx, d.r, was, d.m, func(i uint64, _, is block.Digest) error {
		switch {
		case i >= to:
			return errEnough
		case i < from:
			return nil
		}
		return out.add(i, is == block.Zero)
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// extentWriter merges blocks to extents and sends them.
type extentWriter struct {
	d      *diskRange
	stream grpc.ServerStreamingServer[pb.ReadExtentsResponse]
	first  uint64
	count  uint64
	zero   bool
	ready  []*pb.Extent
}

// add takes a block, behind those before it.
func (w *extentWriter) add(index uint64, zero bool) error {
	if w.count > 0 && w.first+w.count == index && w.zero == zero {
		w.count++
		return nil
	}
	w.cut()
	w.first, w.count, w.zero = index, 1, zero
	if len(w.ready) < extentsPerMessage {
		return nil
	}
	return w.send()
}

func (w *extentWriter) cut() {
	if w.count > 0 {
		from, to := w.d.clip(w.first, w.count)
		w.ready = append(w.ready, &pb.Extent{Offset: from, Length: to - from, Zero: w.zero})
	}
}

func (w *extentWriter) send() error {
	err := w.stream.Send(&pb.ReadExtentsResponse{Extents: w.ready})
	w.ready = nil
	return err
}

func (w *extentWriter) flush() error {
	w.cut()
	if len(w.ready) == 0 {
		return nil
	}
	return w.send()
}
