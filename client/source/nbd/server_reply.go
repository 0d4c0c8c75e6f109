package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
)

// Error numbers of replies, as the protocol has them.
const (
	errnoPerm     = 1
	errnoIO       = 5
	errnoInvalid  = 22
	errnoShutdown = 108

	cmdFlagReqOne = 1 << 3 // of a block status: one descriptor is enough
	cmdFlagFUA    = 1 << 0
)

// servedRequest is one request.
type servedRequest struct {
	flags, cmd uint16
	cookie     uint64
	off        uint64
	length     uint32
}

// answer does what a request asks for. An error means that the connection is of
// no more use.
func (c *served) answer(r servedRequest) error {
	inside := r.off <= uint64(c.size) && uint64(r.length) <= uint64(c.size)-r.off
	switch r.cmd {
	case cmdRead:
		if r.flags&^cmdFlagFUA != 0 || !inside || r.length == 0 || r.length > maxRequest {
			return c.fail(r, errnoInvalid, "read of a range that is not allowed")
		}
		if c.structured {
			return c.readStructured(r)
		}
		return c.readSimple(r)
	case cmdFlush:
		return c.ok(r)
	case cmdBlockStatus:
		if !c.allocation || r.flags&^cmdFlagReqOne != 0 || !inside || r.length == 0 {
			return c.fail(r, errnoInvalid, "block status of a range that is not allowed")
		}
		return c.blockStatus(r)
	case cmdWrite, cmdTrim, cmdWriteZeroes:
		return c.fail(r, errnoPerm, "the export is read-only")
	}
	return c.fail(r, errnoInvalid, "unknown command")
}

// piece reads n bytes at off into a buffer of its own, within the server's
// bounds, and calls use with it.
func (c *served) piece(off, n int64, use func([]byte) error) error {
	select {
	case c.s.reads <- struct{}{}:
		defer func() { <-c.s.reads }()
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
	p := make([]byte, n)
	var got int
	var err error
	if d, ok := c.export.Data.(ContextReaderAt); ok {
		got, err = d.ReadAtContext(c.ctx, p, off)
	} else {
		got, err = c.export.Data.ReadAt(p, off)
	}
	if int64(got) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return readError{err}
	}
	return use(p)
}

// readError marks an error of an export's data, which the client is told.
type readError struct{ error }

// readSimple answers with a simple reply: its head promises all the bytes, so an
// error after the first piece can only be told by hanging up.
func (c *served) readSimple(r servedRequest) error {
	off, end := int64(r.off), int64(r.off)+int64(r.length)
	locked := false
	defer func() {
		if locked {
			c.wmu.Unlock()
		}
	}()
	for off < end {
		n := min(end-off, pieceSize)
		err := c.piece(off, n, func(p []byte) error {
			if locked {
				return c.write(p)
			}
			locked = true
			c.wmu.Lock()
			return c.write(simpleHead(r, 0), p)
		})
		var bad readError
		if errors.As(err, &bad) && !locked {
			return c.fail(r, errnoIO, bad.Error())
		}
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

// readStructured answers with a chunk for every piece and for every hole.
func (c *served) readStructured(r servedRequest) error {
	be := binary.BigEndian
	m, _ := c.export.Data.(Mapper)
	off, end := int64(r.off), int64(r.off)+int64(r.length)
	data, until := true, end // what is known of what lies at off
	known := m == nil
	for off < end {
		if !known {
			is, n, err := m.Extent(c.ctx, off)
			if err != nil || n <= 0 {
				return c.fail(r, errnoIO, "the map of the export cannot be read")
			}
			data, until = is, min(end, off+min(n, end-off))
		}
		n := until - off
		if data {
			n = min(n, pieceSize)
		}
		var flags uint16
		if off+n == end {
			flags = chunkDone
		}
		var err error
		if data {
			err = c.piece(off, n, func(p []byte) error {
				return c.chunk(r, flags, chunkOffsetData, be.AppendUint64(nil, uint64(off)), p)
			})
		} else {
			err = c.chunk(r, flags, chunkOffsetHole, be.AppendUint32(be.AppendUint64(nil, uint64(off)), uint32(n)))
		}
		var bad readError
		if errors.As(err, &bad) {
			return c.fail(r, errnoIO, bad.Error())
		}
		if err != nil {
			return err
		}
		off += n
		known = m == nil || off < until
	}
	return nil
}

// blockStatus answers with what base:allocation says of the range, or of the
// beginning of it.
func (c *served) blockStatus(r servedRequest) error {
	be := binary.BigEndian
	m := c.export.Data.(Mapper)
	b := be.AppendUint32(nil, allocationID)
	off, end := int64(r.off), int64(r.off)+int64(r.length)
	last, length, first := uint32(0), int64(0), true
	flush := func() {
		b = be.AppendUint32(b, uint32(length))
		b = be.AppendUint32(b, last)
	}
	for range maxExtents {
		if off == end {
			break
		}
		data, n, err := m.Extent(c.ctx, off)
		if err != nil || n <= 0 {
			return c.fail(r, errnoIO, "the map of the export cannot be read")
		}
		n = min(n, end-off)
		state := uint32(StateHole | StateZero)
		if data {
			state = 0
		}
		if !first && state != last {
			if r.flags&cmdFlagReqOne != 0 {
				break
			}
			flush()
			length = 0
		}
		last, first = state, false
		length += n
		off += n
	}
	flush()
	return c.chunk(r, chunkDone, chunkBlockStatus, b)
}

func simpleHead(r servedRequest, errno uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicSimple)
	b = binary.BigEndian.AppendUint32(b, errno)
	return binary.BigEndian.AppendUint64(b, r.cookie)
}

// chunk sends one chunk of a structured reply.
func (c *served) chunk(r servedRequest, flags, typ uint16, payload ...[]byte) error {
	n := 0
	for _, p := range payload {
		n += len(p)
	}
	b := binary.BigEndian.AppendUint32(nil, magicStructured)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint64(b, r.cookie)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.write(append([][]byte{b}, payload...)...)
}

// ok answers a request that has nothing to give. With structured replies a
// simple one is still allowed for everything but reads.
func (c *served) ok(r servedRequest) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.write(simpleHead(r, 0))
}

// fail answers with an error.
func (c *served) fail(r servedRequest, errno uint32, text string) error {
	if c.ctx.Err() != nil {
		errno = errnoShutdown
	}
	if c.structured {
		text = text[:min(len(text), 512)]
		b := binary.BigEndian.AppendUint32(nil, errno)
		b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
		return c.chunk(r, chunkDone, chunkErrorBit+1, b, []byte(text))
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.write(simpleHead(r, errno))
}
