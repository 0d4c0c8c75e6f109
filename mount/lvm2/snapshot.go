package lvm2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

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
	maxSnapRuns    = 1 << 20 // 24 MiB
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
	d, err := openSnapshot(store.dev, origin.dev)
	if err != nil {
		v.err = fmt.Errorf("snapshot %s: %w", name, err)
		return v
	}
	v.dev = d
	return v
}

func openSnapshot(store, origin blockdev.Device) (blockdev.Device, error) {
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
	return &snapshot{store: store, origin: origin, chunk: chunk}, nil
}

type snapshot struct {
	store, origin blockdev.Device
	chunk         int64

	once sync.Once
	runs []exceptions // ascending by from
	err  error
}

// exceptions are chunks that follow each other in the origin and in the store.
type exceptions struct {
	from, to int64
	n        int64
}

// load reads all exceptions, when the first byte is read.
func (s *snapshot) load() error {
	s.once.Do(func() { s.runs, s.err = s.readExceptions() })
	return s.err
}

func (s *snapshot) readExceptions() ([]exceptions, error) {
	var runs []exceptions
	perArea := s.chunk / exceptionBytes
	chunks := s.store.Size() / s.chunk
	buf := make([]byte, s.chunk)
	for at := int64(1); at < chunks; at += perArea + 1 {
		if _, err := raid.Full(s.store, buf, at*s.chunk); err != nil {
			return nil, fmt.Errorf("read exceptions of the snapshot: %w", err)
		}
		for i := int64(0); i < perArea; i++ {
			from := binary.LittleEndian.Uint64(buf[i*exceptionBytes:])
			to := binary.LittleEndian.Uint64(buf[i*exceptionBytes+8:])
			if to == 0 {
				return sortExceptions(runs)
			}
			if to >= uint64(chunks) || from > uint64(s.origin.Size()/s.chunk) {
				return nil, fmt.Errorf("exception of chunk %d at chunk %d of a store of %d: %w", from, to, chunks, filesys.ErrCorrupt)
			}
			if n := len(runs); n > 0 && runs[n-1].from+runs[n-1].n == int64(from) && runs[n-1].to+runs[n-1].n == int64(to) {
				runs[n-1].n++
				continue
			}
			if len(runs) == maxSnapRuns {
				return nil, fmt.Errorf("snapshot with more than %d pieces: %w", maxSnapRuns, filesys.ErrUnsupported)
			}
			runs = append(runs, exceptions{int64(from), int64(to), 1})
		}
	}
	return sortExceptions(runs)
}

func sortExceptions(runs []exceptions) ([]exceptions, error) {
	slices.SortFunc(runs, func(a, b exceptions) int { return int(a.from - b.from) })
	for i := 1; i < len(runs); i++ {
		if runs[i].from < runs[i-1].from+runs[i-1].n {
			return nil, fmt.Errorf("chunk %d has two exceptions: %w", runs[i].from, filesys.ErrCorrupt)
		}
	}
	return runs, nil
}

func (s *snapshot) Size() int64 { return s.origin.Size() }

// find tells where the byte at off is, and for how many bytes that goes on.
func (s *snapshot) find(off int64) (d blockdev.Device, at, n int64, err error) {
	if err := s.load(); err != nil {
		return nil, 0, 0, err
	}
	chunk := off / s.chunk
	n = s.Size() - off
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i].from+s.runs[i].n > chunk })
	if i == len(s.runs) {
		return s.origin, off, n, nil
	}
	r := s.runs[i]
	if r.from > chunk {
		return s.origin, off, min(n, r.from*s.chunk-off), nil
	}
	in := off - r.from*s.chunk
	return s.store, r.to*s.chunk + in, min(n, r.n*s.chunk-in), nil
}

func (s *snapshot) ReadAt(p []byte, off int64) (int, error) {
	return raid.ReadPieces(p, off, s.Size(), func(p []byte, off int64) (int, error) {
		d, at, n, err := s.find(off)
		if err != nil {
			return 0, err
		}
		return raid.Full(d, p[:min(int64(len(p)), n)], at)
	})
}

func (s *snapshot) Place(off int64) (blockdev.Place, int64, error) {
	if off < 0 || off >= s.Size() {
		return blockdev.Place{}, 0, outside(off, s.Size())
	}
	d, at, n, err := s.find(off)
	if err != nil {
		return blockdev.Place{}, 0, err
	}
	p, m, err := d.Place(at)
	return p, min(n, m), err
}
