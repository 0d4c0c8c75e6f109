package nbd

import (
	"bufio"
	"encoding/binary"
	"io"
	"slices"
)

// replyReader parses what the server sends in the transmission phase.
type replyReader struct {
	br         *bufio.Reader
	structured bool
	contexts   map[uint32]string
	conn       *conn
}

// next reads one simple reply or one chunk of a structured one, and completes
// the request when it is the last. An error is the connection's end.
func (p *replyReader) next() error {
	var b [4]byte
	if _, err := io.ReadFull(p.br, b[:]); err != nil {
		return err
	}
	switch magic := binary.BigEndian.Uint32(b[:]); {
	case magic == magicSimple:
		return p.simple()
	case magic == magicStructured && p.structured:
		return p.chunk()
	default:
		return violation("bad magic %#x in a reply", magic)
	}
}

// simple reads: u32 error, u64 cookie, and a read's data if error is 0.
func (p *replyReader) simple() error {
	var b [12]byte
	if _, err := io.ReadFull(p.br, b[:]); err != nil {
		return err
	}
	code, cookie := binary.BigEndian.Uint32(b[:]), binary.BigEndian.Uint64(b[4:])
	r, err := p.conn.find(cookie)
	if err != nil {
		return err
	}
	if p.structured && r.cmd == cmdRead || r.cmd == cmdBlockStatus && code == 0 {
		return violation("simple reply to a %s", cmdNames[r.cmd])
	}
	if len(r.pieces) > 0 || r.statuses != nil || r.failure != nil {
		return violation("simple reply after structured ones")
	}
	if code != 0 {
		p.conn.complete(cookie, r, &Error{Code: code, Offset: -1})
		return nil
	}
	if r.cmd == cmdRead {
		if err := p.data(r, 0, r.length); err != nil {
			return err
		}
	}
	p.conn.complete(cookie, r, nil)
	return nil
}

// data reads n bytes into the request's buffer at off.
func (p *replyReader) data(r *request, off, n uint32) error {
	return p.conn.fill(r, off, n, func(dst []byte) error {
		if dst == nil {
			_, err := io.CopyN(io.Discard, p.br, int64(n))
			return err
		}
		_, err := io.ReadFull(p.br, dst)
		return err
	})
}

// chunk reads: u16 flags, u16 type, u64 cookie, u32 length, and length bytes.
func (p *replyReader) chunk() error {
	var b [16]byte
	if _, err := io.ReadFull(p.br, b[:]); err != nil {
		return err
	}
	be := binary.BigEndian
	flags, typ, cookie, n := be.Uint16(b[:]), be.Uint16(b[2:]), be.Uint64(b[4:]), be.Uint32(b[12:])
	r, err := p.conn.find(cookie)
	if err != nil {
		return err
	}
	switch {
	case typ == chunkNone:
		if n != 0 || flags&chunkDone == 0 {
			err = violation("empty chunk of %d bytes, flags %#x", n, flags)
		}
	case typ == chunkOffsetData && r.cmd == cmdRead:
		err = p.offsetData(r, n)
	case typ == chunkOffsetHole && r.cmd == cmdRead:
		err = p.offsetHole(r, n)
	case typ == chunkBlockStatus && r.cmd == cmdBlockStatus:
		err = p.blockStatus(r, n)
	case typ&chunkErrorBit != 0:
		err = p.errorChunk(r, typ, n)
	default:
		err = violation("chunk of type %d in reply to a %s", typ, cmdNames[r.cmd])
	}
	if err != nil || flags&chunkDone == 0 {
		return err
	}
	err = r.failure
	if err == nil && r.cmd == cmdRead && !r.pieces.whole(r.length) {
		return violation("reply to a read of %d bytes at %d leaves some out", r.length, r.offset)
	}
	p.conn.complete(cookie, r, err)
	return nil
}

// offsetData reads a data chunk: u64 offset, and the bytes.
func (p *replyReader) offsetData(r *request, n uint32) error {
	if n < 9 {
		return violation("data chunk of %d bytes", n)
	}
	var b [8]byte
	if _, err := io.ReadFull(p.br, b[:]); err != nil {
		return err
	}
	off, err := r.place(binary.BigEndian.Uint64(b[:]), n-8)
	if err != nil {
		return err
	}
	return p.data(r, off, n-8)
}

// offsetHole reads a hole chunk: u64 offset, u32 length of zeros.
func (p *replyReader) offsetHole(r *request, n uint32) error {
	if n != 12 {
		return violation("hole chunk of %d bytes", n)
	}
	var b [12]byte
	if _, err := io.ReadFull(p.br, b[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(b[8:])
	off, err := r.place(binary.BigEndian.Uint64(b[:]), size)
	if err != nil {
		return err
	}
	return p.conn.fill(r, off, size, func(dst []byte) error {
		clear(dst)
		return nil
	})
}

// place notes that [offset, offset+n) of the export came in, and returns where
// in the request's buffer that is.
func (r *request) place(offset uint64, n uint32) (uint32, error) {
	if offset < r.offset || n == 0 || n > r.length || offset-r.offset > uint64(r.length-n) {
		return 0, violation("chunk of %d bytes at %d in reply to a read of %d bytes at %d", n, offset, r.length, r.offset)
	}
	off := uint32(offset - r.offset)
	if !r.pieces.add(off, off+n) {
		return 0, violation("chunk of %d bytes at %d comes twice or in too many pieces", n, offset)
	}
	return off, nil
}

// blockStatus reads a status chunk: u32 context id, then pairs of u32 length
// and u32 flags.
func (p *replyReader) blockStatus(r *request, n uint32) error {
	if n < 12 || n%8 != 4 || n > maxStatusChunk {
		return violation("block status of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(p.br, b); err != nil {
		return err
	}
	id := binary.BigEndian.Uint32(b)
	name, ok := p.contexts[id]
	if !ok {
		return violation("block status of context %d, which was not agreed on", id)
	}
	if _, dup := r.statuses[name]; dup {
		return violation("two block statuses of %s in one reply", name)
	}
	list := make([]status, 0, n/8)
	for b = b[4:]; len(b) > 0; b = b[8:] {
		s := status{length: binary.BigEndian.Uint32(b), flags: binary.BigEndian.Uint32(b[4:])}
		if s.length == 0 {
			return violation("block status of an empty extent")
		}
		list = append(list, s)
	}
	if r.statuses == nil {
		r.statuses = map[string][]status{}
	}
	r.statuses[name] = list
	return nil
}

// errorChunk reads: u32 error, u16 length of the text, the text, and of
// NBD_REPLY_TYPE_ERROR_OFFSET a u64 offset. The protocol promises that error
// chunks of types to come begin the same way.
func (p *replyReader) errorChunk(r *request, typ uint16, n uint32) error {
	if n < 6 || n > maxErrorChunk {
		return violation("error chunk of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(p.br, b); err != nil {
		return err
	}
	e := &Error{Code: binary.BigEndian.Uint32(b), Offset: -1}
	text := int(binary.BigEndian.Uint16(b[4:]))
	rest := b[6:]
	if e.Code == 0 || text > len(rest) {
		return violation("error chunk with code %d and a text of %d in %d bytes", e.Code, text, n)
	}
	e.Message, rest = string(rest[:text]), rest[text:]
	if typ == chunkErrorOffset {
		if len(rest) != 8 {
			return violation("error chunk with an offset of %d bytes", len(rest))
		}
		off := binary.BigEndian.Uint64(rest)
		if off < r.offset || off-r.offset > uint64(r.length) {
			return violation("error at %d in reply to %d bytes at %d", off, r.length, r.offset)
		}
		e.Offset = int64(off)
	}
	if r.failure == nil {
		r.failure = e
	}
	return nil
}

// pieces are the parts of a read that came in: disjoint, not adjacent,
// ascending half-open ranges of the buffer.
type pieces [][2]uint32

// add takes in [lo, hi). It fails if any of it is there already, or if the
// pieces are too many.
func (p *pieces) add(lo, hi uint32) bool {
	s := *p
	i, _ := slices.BinarySearchFunc(s, lo, func(x [2]uint32, lo uint32) int {
		if x[1] <= lo {
			return -1
		}
		return 1
	})
	// s[i] is the first piece that ends after lo.
	if i < len(s) && s[i][0] < hi {
		return false
	}
	left, right := i > 0 && s[i-1][1] == lo, i < len(s) && s[i][0] == hi
	switch {
	case left && right:
		s[i-1][1] = s[i][1]
		s = slices.Delete(s, i, i+1)
	case left:
		s[i-1][1] = hi
	case right:
		s[i][0] = lo
	case len(s) == maxReadPieces:
		return false
	default:
		s = slices.Insert(s, i, [2]uint32{lo, hi})
	}
	*p = s
	return true
}

// whole tells whether [0, n) came in.
func (p pieces) whole(n uint32) bool {
	return n == 0 || len(p) == 1 && p[0] == [2]uint32{0, n}
}
