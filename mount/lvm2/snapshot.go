package lvm2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// Snapshots of the old kind have a store: chunk 0 is a header, then an area of
// exceptions (one chunk) and the chunks it tells of follow each other:
//
//	│ header │ area 0 │ e chunks │ area 1 │ e chunks │ …    e = chunk size / 16
//
//	header: "SnAp" as a number, valid, version (1), chunk size in sectors
//	exception: chunk of the origin, chunk of the store; zero ends the list
//
// A chunk that has an exception is in the store: the origin's old content, or
// what was written to the snapshot. All others are still those of the origin.
const (
	snapMagic      = 0x70416e53
	maxSnapChunk   = 16 << 20
	minSnapChunk   = 512
	exceptionBytes = 16
)

// snapshot makes the device of a snapshot: the origin with the store's chunks.
func (b *builder) snapshot(s *segment) *built {
	v := &built{done: true}
	b.stack = append(b.stack, v)
	defer func() { b.stack = b.stack[:len(b.stack)-1] }()
	name := s.str("cow_store")
	if name == "" {
		name = s.str("merging_store")
	}
	store, origin := b.volume(name), b.volume(s.str("origin"))
	if v.err = errors.Join(store.err, origin.err); v.err != nil {
		return v
	}
	d, err := openSnapshot(store.dev, origin.dev, b.runs)
	if err != nil {
		v.err = fmt.Errorf("snapshot %s: %w", name, err)
		return v
	}
	v.dev = d
	return v
}

func openSnapshot(store, origin blockdev.Device, shared *atomic.Int64) (blockdev.Device, error) {
	h := make([]byte, 16)
	if _, err := io.ReadFull(io.NewSectionReader(store, 0, 16), h); err != nil {
		return nil, fmt.Errorf("read header of the store: %w", err)
	}
	le := binary.LittleEndian
	switch le.Uint32(h) {
	case 0:
		return origin, nil // never used
	case snapMagic:
	default:
		return nil, fmt.Errorf("header of the store: bad magic: %w", filesys.ErrCorrupt)
	}
	if le.Uint32(h[4:]) == 0 {
		return nil, fmt.Errorf("the snapshot is invalid: its store ran full, or could not be written: %w", filesys.ErrUnsupported)
	}
	if v := le.Uint32(h[8:]); v != 1 {
		return nil, fmt.Errorf("store of version %d: %w", v, filesys.ErrUnsupported)
	}
	chunk := int64(le.Uint32(h[12:])) * sectorSize
	if chunk < minSnapChunk || chunk > maxSnapChunk || chunk&(chunk-1) != 0 {
		return nil, fmt.Errorf("store with chunks of %d bytes: %w", chunk, filesys.ErrCorrupt)
	}
	return &overlay{store: store, origin: origin, chunk: chunk, shared: shared, read: readExceptions}, nil
}

// readExceptions reads what the store has.
func readExceptions(o *overlay) ([]run, error) {
	var runs []run
	perArea := o.chunk / exceptionBytes
	chunks := o.store.Size() / o.chunk
	buf := make([]byte, o.chunk)
	for at := int64(1); at < chunks; at += perArea + 1 {
		if _, err := raid.Full(o.store, buf, at*o.chunk); err != nil {
			return nil, fmt.Errorf("read exceptions of the snapshot: %w", err)
		}
		for i := int64(0); i < perArea; i++ {
			from := binary.LittleEndian.Uint64(buf[i*exceptionBytes:])
			to := binary.LittleEndian.Uint64(buf[i*exceptionBytes+8:])
			if to == 0 {
				return runs, nil
			}
			if to >= uint64(chunks) || from > uint64(o.origin.Size()/o.chunk) {
				return nil, fmt.Errorf("exception of chunk %d at chunk %d of a store of %d: %w", from, to, chunks, filesys.ErrCorrupt)
			}
			var err error
			if runs, err = o.addRun(runs, int64(from), int64(to)); err != nil {
				return nil, fmt.Errorf("exceptions of the snapshot: %w", err)
			}
		}
	}
	return runs, nil
}
