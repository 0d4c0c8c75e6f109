package rpc

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// The wire: every message is a length, a header and a payload, all of them
// XDR (RFC 4506): big-endian words of four bytes, strings padded to them.
//
//	+--------+---------+---------+-----------+------+--------+--------+─────────+
//	| length | program | version | procedure | type | serial | status | payload |
//	+--------+---------+---------+-----------+------+--------+--------+─────────+
//	  4 bytes each; length counts itself                                0 … 32 MiB
const (
	headerSize = 28
	// maxMessage is the most bytes of a message, its length word included.
	maxMessage = 32<<20 + 4
	// maxString is the most bytes of one string.
	maxString = 4 << 20

	remoteProgram    = 0x20008086
	qemuProgram      = 0x20008087
	keepaliveProgram = 0x6b656570
	protocolVersion  = 1 // of each of the three

	keepalivePing = 1
	keepalivePong = 2
)

// Types of message.
const (
	typeCall    = 0
	typeReply   = 1
	typeMessage = 2
)

// Status of a reply.
const (
	statusOK    = 0
	statusError = 1
)

// header is what stands before a payload, without the length.
type header struct {
	program, version, procedure, kind, serial, status uint32
}

func (h *header) parse(b []byte) {
	for i, f := range []*uint32{&h.program, &h.version, &h.procedure, &h.kind, &h.serial, &h.status} {
		*f = binary.BigEndian.Uint32(b[4*i:])
	}
}

// encoder builds a message. The first error sticks.
type encoder struct {
	b   []byte
	err error
}

// args begins a payload, with room for the header before it.
func args() *encoder { return &encoder{b: make([]byte, headerSize, 256)} }

// finish fills in the header and returns the whole message.
func (e *encoder) finish(h header) []byte {
	be := binary.BigEndian
	be.PutUint32(e.b, uint32(len(e.b)))
	for i, v := range []uint32{h.program, h.version, h.procedure, h.kind, h.serial, h.status} {
		be.PutUint32(e.b[4+4*i:], v)
	}
	return e.b
}

func (e *encoder) u32(v uint32) *encoder {
	e.b = binary.BigEndian.AppendUint32(e.b, v)
	return e
}

func (e *encoder) i32(v int) *encoder {
	if v < math.MinInt32 || v > math.MaxInt32 {
		e.err = fmt.Errorf("%d does not fit in 32 bits", v)
	}
	return e.u32(uint32(int32(v)))
}

func (e *encoder) u64(v uint64) *encoder {
	e.b = binary.BigEndian.AppendUint64(e.b, v)
	return e
}

// str adds a string. The daemon is written in C: to it a string would end at a
// NUL, and name something else than the caller meant.
func (e *encoder) str(s string) *encoder {
	switch {
	case len(s) > maxString:
		e.err = fmt.Errorf("string of %d bytes: at most %d can be sent", len(s), maxString)
		return e
	case strings.IndexByte(s, 0) >= 0:
		e.err = fmt.Errorf("string with a NUL byte: %q", s)
		return e
	}
	e.u32(uint32(len(s)))
	e.b = append(e.b, s...)
	e.b = append(e.b, "\x00\x00\x00"[:-len(s)&3]...)
	return e
}

// opt adds a string that may be missing; "" stands for that.
func (e *encoder) opt(s string) *encoder {
	if s == "" {
		return e.u32(0)
	}
	return e.u32(1).str(s)
}

func (e *encoder) uuid(u UUID) *encoder {
	e.b = append(e.b, u[:]...)
	return e
}

func (e *encoder) domain(d Domain) *encoder {
	return e.str(d.Name).uuid(d.UUID).i32(d.ID)
}

func (e *encoder) checkpoint(c Checkpoint) *encoder {
	return e.str(c.Name).domain(c.Domain)
}

// decoder takes a payload apart. Whatever the bytes are, it does not panic and
// allocates no more than a small multiple of them; the first error sticks, and
// from then on every value is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = violation(format, args...)
		d.b = nil
	}
}

// take returns the next n bytes, or nil if there are not as many.
func (d *decoder) take(n int, what string) []byte {
	if d.err != nil {
		return nil
	}
	if n > len(d.b) {
		d.fail("%s of %d bytes where %d are left", what, n, len(d.b))
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) u32() uint32 {
	if b := d.take(4, "word"); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) i32() int { return int(int32(d.u32())) }

func (d *decoder) u64() uint64 {
	if b := d.take(8, "hyper"); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// size is u64 for what callers count in int64: bytes.
func (d *decoder) size() int64 {
	v := d.u64()
	if v > math.MaxInt64 {
		d.fail("size of %d bytes", v)
		return 0
	}
	return int64(v)
}

func (d *decoder) str() string {
	n := d.u32()
	if n > maxString {
		d.fail("string of %d bytes: at most %d are allowed", n, maxString)
		return ""
	}
	b := d.take(int(n+3)&^3, "string")
	if b == nil {
		return ""
	}
	return string(b[:n])
}

// present reads whether an optional value follows.
func (d *decoder) present() bool {
	v := d.u32()
	if v > 1 {
		d.fail("%d where a value is there (1) or not (0)", v)
	}
	return v == 1
}

func (d *decoder) opt() string {
	if d.present() {
		return d.str()
	}
	return ""
}

// count reads the length of a list of at most limit items, each of which takes
// at least size bytes: what it returns can be allocated.
func (d *decoder) count(limit, size int) int {
	n := d.u32()
	if int64(n) > int64(limit) || int64(n)*int64(size) > int64(len(d.b)) {
		d.fail("list of %d items: at most %d are allowed, and %d bytes are left", n, limit, len(d.b))
		return 0
	}
	return int(n)
}

func (d *decoder) uuid() (u UUID) {
	copy(u[:], d.take(len(u), "uuid"))
	return u
}

// minDomain is the fewest bytes that a domain takes.
const minDomain = 4 + 16 + 4

func (d *decoder) domain() Domain {
	return Domain{Name: d.str(), UUID: d.uuid(), ID: d.i32()}
}

func (d *decoder) checkpoint() Checkpoint {
	return Checkpoint{Name: d.str(), Domain: d.domain()}
}

// Kinds of typed parameter.
const (
	paramInt     = 1
	paramUint    = 2
	paramLlong   = 3
	paramUllong  = 4
	paramDouble  = 5
	paramBoolean = 6
	paramString  = 7
)

func (d *decoder) params(limit int) Params {
	n := d.count(limit, 12)
	p := make(Params, n)
	for range n {
		name := d.str()
		switch kind := d.u32(); kind {
		case paramInt:
			p[name] = int64(d.i32())
		case paramUint:
			p[name] = uint64(d.u32())
		case paramLlong:
			p[name] = int64(d.u64())
		case paramUllong:
			p[name] = d.u64()
		case paramDouble:
			p[name] = math.Float64frombits(d.u64())
		case paramBoolean:
			p[name] = d.u32() != 0
		case paramString:
			p[name] = d.str()
		default:
			d.fail("parameter %q of unknown type %d", name, kind)
		}
		if d.err != nil {
			return nil
		}
	}
	return p
}

// end returns the error there was; bytes that are left over are one.
func (d *decoder) end() error {
	if len(d.b) > 0 {
		d.fail("%d bytes too many", len(d.b))
	}
	return d.err
}
