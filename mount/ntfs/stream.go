package ntfs

import (
	"fmt"
	"io"
	"sort"

	"cairn/mount/filesys"
)

// stream is the value of an attribute of any size. Its runs are decoded piece by
// piece, when they are needed.
type stream struct {
	fs     *FS
	base   *record
	first  *attr
	where  *record     // holds first
	pieces []listEntry // ascending; nil when there is one, first
}

// stream finds an attribute of an inode; nil without one.
func (in *inode) stream(typ uint32, name string) (*stream, error) {
	s := &stream{fs: in.fs, base: in.base, where: in.base}
	if in.list == nil {
		if s.first = in.base.find(typ, name); s.first == nil {
			return nil, nil
		}
	} else {
		for _, e := range in.list {
			if e.typ == typ && e.name == name && (len(s.pieces) == 0 || e.low != 0) {
				s.pieces = append(s.pieces, e)
			}
		}
		if len(s.pieces) == 0 {
			return nil, nil
		}
		var err error
		if s.where, err = in.fs.extension(in.base, s.pieces[0].ref); err != nil {
			return nil, err
		}
		if s.first, err = s.where.piece(s.pieces[0]); err != nil {
			return nil, err
		}
	}
	if s.first.nonresident && s.first.low != 0 || !s.first.nonresident && len(s.pieces) > 1 {
		return nil, corrupt("inode %d: the first piece of attribute %#x is missing", in.base.num, typ)
	}
	if s.first.nonresident && s.first.size > 0 && s.first.initialized > 0 && s.first.next == 0 {
		return nil, corrupt("inode %d: attribute %#x of %d bytes has no clusters", in.base.num, typ, s.first.size)
	}
	return s, nil
}

// runsOf decodes the runs of piece i, which ends where the next begins.
func (s *stream) runsOf(i int) ([]run, error) {
	a, num := s.first, s.base.num
	if s.pieces != nil {
		num = refNum(s.pieces[i].ref)
	}
	k := cacheKey{kind: kindRuns, a: num, b: uint64(s.first.typ)}
	if s.pieces != nil {
		k.sub = uint32(s.pieces[i].id)
	} else {
		k.sub = uint32(a.id)
	}
	if runs, ok := s.fs.cache.get(k).([]run); ok {
		return runs, nil
	}
	if i > 0 {
		rec, err := s.fs.extension(s.base, s.pieces[i].ref)
		if err != nil {
			return nil, err
		}
		if a, err = rec.piece(s.pieces[i]); err != nil {
			return nil, err
		}
		if !a.nonresident {
			return nil, corrupt("inode %d: a resident piece of attribute %#x", s.base.num, a.typ)
		}
	}
	if i+1 < len(s.pieces) && a.next != s.pieces[i+1].low {
		return nil, corrupt("inode %d: attribute %#x goes on at cluster %d instead of %d", s.base.num, a.typ, s.pieces[i+1].low, a.next)
	}
	runs, err := decodeRuns(a.pairs, a.low, a.next, s.fs.b.clusters)
	if err != nil {
		return nil, fmt.Errorf("inode %d: attribute %#x: %w", s.base.num, a.typ, err)
	}
	s.fs.cache.put(k, runs, 24*cap(runs))
	return runs, nil
}

// run gives the run from cluster vcn on. Holes that go on in the next piece are
// several runs. Its clusters have less than 2^63 bytes.
func (s *stream) run(vcn uint64) (run, error) {
	i := 0
	if len(s.pieces) > 1 {
		i = sort.Search(len(s.pieces), func(i int) bool { return s.pieces[i].low > vcn }) - 1
	}
	runs, err := s.runsOf(i)
	if err != nil {
		return run{}, err
	}
	r, ok := findRun(runs, vcn)
	if !ok {
		return run{}, corrupt("inode %d: attribute %#x has no cluster %d", s.base.num, s.first.typ, vcn)
	}
	// A hole may have more clusters than there are numbers for their bytes.
	r.n = min(r.n, 1<<(maxVolumeBits-s.fs.b.clusterBits))
	return r, nil
}

// Size is the size of the stream in bytes.
func (s *stream) Size() int64 { return s.first.length() }

// compressed says whether the stream is kept in compression units.
func (s *stream) compressed() bool {
	return s.first.nonresident && s.first.flags&flagCompression != 0
}

// readable refuses what cannot be understood.
func (s *stream) readable() error {
	a := s.first
	switch method := a.flags & flagCompression; {
	case a.flags&flagEncrypted != 0:
		return unsupported("inode %d: encryption (EFS)", s.base.num)
	case !a.nonresident || method == 0:
		return nil
	case method != flagCompressed:
		return unsupported("inode %d: compression method %d", s.base.num, method)
	case a.unit == 0 || uint(a.unit)+s.fs.b.clusterBits > maxUnitBits:
		return unsupported("inode %d: compression units of 2^%d clusters", s.base.num, a.unit)
	}
	return nil
}

// ReadAt reads the stream as its owner would: zeros for holes and for what was
// never written.
func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	size := s.Size()
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, filesys.ErrInvalid)
	}
	if err := s.readable(); err != nil {
		return 0, err
	}
	if off >= size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], io.EOF
	}
	if !s.first.nonresident {
		return copy(p, s.first.value[off:]), end
	}
	written := max(0, min(int64(len(p)), s.first.initialized-off))
	clear(p[written:])
	var n int
	var err error
	if s.compressed() {
		n, err = s.readUnits(p[:written], off)
	} else {
		n, err = s.readPlain(p[:written], off)
	}
	if err != nil {
		return n, err
	}
	return len(p), end
}

// readPlain reads clusters as they are.
func (s *stream) readPlain(p []byte, off int64) (done int, err error) {
	shift := s.fs.b.clusterBits
	for done < len(p) {
		pos := off + int64(done)
		r, err := s.run(uint64(pos) >> shift)
		if err != nil {
			return done, err
		}
		in := pos & (s.fs.b.clusterSize() - 1)
		part := p[done:]
		if n := r.n<<shift - uint64(in); n < uint64(len(part)) {
			part = part[:n]
		}
		if r.lcn == hole {
			clear(part)
		} else if err := readFull(s.fs.r, part, r.lcn<<shift+in); err != nil {
			return done, fmt.Errorf("inode %d: %w", s.base.num, err)
		}
		done += len(part)
	}
	return done, nil
}

// readAll reads a small stream whole, of at most limit bytes.
func (s *stream) readAll(limit int64) ([]byte, error) {
	if s.Size() > limit {
		return nil, corrupt("inode %d: attribute %#x of %d bytes, where at most %d make sense", s.base.num, s.first.typ, s.Size(), limit)
	}
	p := make([]byte, s.Size())
	if n, err := s.ReadAt(p, 0); n < len(p) {
		return nil, err
	}
	return p, nil
}

// Extent says whether the byte at off is data. Of compressed streams whole units
// are data or holes.
func (s *stream) Extent(off int64) (bool, int64, error) {
	at, n, err := s.Stored(off)
	return err == nil && at.Len != 0, n, err
}

// Stored tells which bytes of the volume the byte at off comes from.
func (s *stream) Stored(off int64) (filesys.Range, int64, error) {
	size := s.Size()
	if off < 0 || off >= size {
		return filesys.Range{}, 0, fmt.Errorf("extent at %d of %d: %w", off, size, filesys.ErrInvalid)
	}
	if !s.first.nonresident {
		at, ok := s.fs.mft.place(s.fs, s.where.num)
		if !ok {
			at = filesys.Range{Off: -1, Len: size}
		}
		return at, size - off, nil
	}
	if off >= s.first.initialized {
		return filesys.Range{}, size - off, nil
	}
	if s.compressed() {
		if err := s.readable(); err != nil {
			return filesys.Range{}, 0, err
		}
		return s.storedUnit(off)
	}
	shift := s.fs.b.clusterBits
	r, err := s.run(uint64(off) >> shift)
	if err != nil {
		return filesys.Range{}, 0, err
	}
	in := off & (s.fs.b.clusterSize() - 1)
	n := s.first.initialized - off
	if left := r.n<<shift - uint64(in); left < uint64(n) {
		n = int64(left)
	}
	if r.lcn == hole {
		return filesys.Range{}, n, nil
	}
	return filesys.Range{Off: r.lcn<<shift + in, Len: n}, n, nil
}
