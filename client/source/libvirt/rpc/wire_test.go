package rpc

import (
	"bytes"
	"errors"
	"io"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// replies are all the shapes of payload that a daemon sends.
var replies = map[string]func(*decoder){
	"domain":      func(d *decoder) { d.domain() },
	"checkpoint":  func(d *decoder) { d.checkpoint() },
	"failure":     func(d *decoder) { d.failure() },
	"params":      func(d *decoder) { d.i32(); d.params(maxJobParams) },
	"string":      func(d *decoder) { d.str() },
	"optional":    func(d *decoder) { d.opt() },
	"sizes":       func(d *decoder) { d.size(); d.size(); d.size() },
	"domains":     func(d *decoder) { list(d, 16384, minDomain, (*decoder).domain) },
	"checkpoints": func(d *decoder) { list(d, 16384, 4+minDomain, (*decoder).checkpoint) },
}

func list[T any](d *decoder, limit, size int, item func(*decoder) T) {
	for range d.count(limit, size) {
		item(d)
	}
	d.u32()
}

var everyParam = args().u32(7).
	str("int").u32(paramInt).i32(-3).
	str("uint").u32(paramUint).u32(math.MaxUint32).
	str("llong").u32(paramLlong).u64(1<<64 - 5).
	str("ullong").u32(paramUllong).u64(math.MaxUint64).
	str("double").u32(paramDouble).u64(math.Float64bits(0.5)).
	str("boolean").u32(paramBoolean).u32(1).
	str("string").u32(paramString).str("seven").b[headerSize:]

func TestParams(t *testing.T) {
	d := &decoder{b: everyParam}
	p := d.params(7)
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	want := Params{"int": int64(-3), "uint": uint64(math.MaxUint32), "llong": int64(-5), "ullong": uint64(math.MaxUint64),
		"double": 0.5, "boolean": true, "string": "seven"}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got %v", p)
	}
	if p.Int64("llong") != -5 || p.Int64("ullong") != math.MaxInt64 || p.Int64("string") != 0 || p.Int64("none") != 0 ||
		!p.Bool("boolean") || p.Bool("int") || p.Text("string") != "seven" || p.Text("int") != "" {
		t.Error("values by type")
	}
	d = &decoder{b: everyParam}
	d.params(6)
	wantErr(t, d.end(), ErrProtocol)
	d = &decoder{b: args().u32(1).str("x").u32(8).u32(0).b[headerSize:]}
	d.params(6)
	wantErr(t, d.end(), ErrProtocol)
}

// A payload cut short anywhere is refused, and so is one with a word too many.
func TestTruncated(t *testing.T) {
	payloads := map[string][]byte{
		"domain":     args().domain(golden).b,
		"checkpoint": args().checkpoint(Checkpoint{"cp1", golden}).b,
		"failure":    failure(&Error{Code: 1, Text: "text", Str1: "one", Str2: "two", Str3: "three"}).b,
		"string":     args().str("hello").b,
		"domains":    args().u32(2).domain(golden).domain(idle).u32(2).b,
	}
	for name, b := range payloads {
		b = b[headerSize:]
		for n := 0; n <= len(b)+4; n++ {
			d := &decoder{b: append(b[:min(n, len(b)):len(b)], make([]byte, max(0, n-len(b)))...)}
			replies[name](d)
			if err := d.end(); (err == nil) != (n == len(b)) {
				t.Errorf("%s: %d of %d bytes: %v", name, n, len(b), err)
			} else if err != nil {
				wantErr(t, err, ErrProtocol)
			}
		}
	}
}

// Lengths and counts that lie are refused before anything is allocated.
func TestLies(t *testing.T) {
	for name, test := range map[string]struct {
		payload []byte
		read    func(*decoder)
	}{
		"long string":    {args().u32(math.MaxUint32).b, replies["string"]},
		"string limit":   {append(args().u32(maxString+1).b, make([]byte, maxString+4)...), replies["string"]},
		"many domains":   {args().u32(16384).u32(0).b, replies["domains"]},
		"domains limit":  {append(args().u32(16385).b, make([]byte, 16385*minDomain+4)...), replies["domains"]},
		"third boolean":  {args().u32(2).str("x").b, replies["optional"]},
		"negative size":  {args().u64(1 << 63).u64(0).u64(0).b, replies["sizes"]},
		"params too few": {args().u32(0).u32(2).str("x").u32(1).u32(1).b, replies["params"]},
	} {
		d := &decoder{b: test.payload[headerSize:]}
		test.read(d)
		if err := d.end(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEncoderLimits(t *testing.T) {
	for name, e := range map[string]*encoder{
		"NUL":         args().str("a\x00b"),
		"long string": args().str(strings.Repeat("x", maxString+1)),
		"large":       args().i32(math.MaxInt32 + 1),
		"small":       args().i32(math.MinInt32 - 1),
		"in a domain": args().domain(Domain{Name: "\x00"}).u32(0),
	} {
		if e.err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for n := range 9 {
		e := args().str(strings.Repeat("x", n))
		if d := (&decoder{b: e.b[headerSize:]}); len(e.b)%4 != 0 || d.str() != strings.Repeat("x", n) || d.end() != nil {
			t.Errorf("string of %d bytes: %x", n, e.b[headerSize:])
		}
	}
	c, _ := connect(t)
	if _, err := c.LookupByName(t.Context(), "a\x00b"); err == nil {
		t.Error("a name with a NUL was looked up")
	}
	huge := args()
	huge.b = append(huge.b, make([]byte, maxMessage)...)
	if err := c.call(t.Context(), procConnectOpen, "", huge, nil); err == nil {
		t.Error("a message of more than 32 MiB was sent")
	}
	if c.Err() != nil {
		t.Error(c.Err())
	}
}

func TestMessageLength(t *testing.T) {
	whole := args().str("x").finish(header{procedure: 7})
	if h, payload, err := readMessage(bytes.NewReader(whole)); err != nil || h.procedure != 7 || len(payload) != 8 {
		t.Fatalf("%+v %x %v", h, payload, err)
	}
	for n := range whole {
		_, _, err := readMessage(bytes.NewReader(whole[:n]))
		if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[n == 0]; err != want {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
	for _, n := range []byte{0, 4, 24, 27} {
		_, _, err := readMessage(bytes.NewReader([]byte{0, 0, 0, n, 28: 0}))
		wantErr(t, err, ErrProtocol)
	}
	_, _, err := readMessage(bytes.NewReader([]byte{2, 0, 0, 5, 28: 0}))
	wantErr(t, err, ErrProtocol)
	// The largest there may be, of which nothing comes, takes no memory.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err = readMessage(bytes.NewReader([]byte{2, 0, 0, 4, 27: 0}))
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; err != io.ErrUnexpectedEOF || n > 1<<20 {
		t.Errorf("%v; %d bytes allocated", err, n)
	}
}

func TestUUID(t *testing.T) {
	const s = "11223344-5566-7788-99aa-bbccddeeff00"
	for _, in := range []string{s, strings.ReplaceAll(s, "-", ""), strings.ToUpper(s)} {
		if u, err := ParseUUID(in); err != nil || u != golden.UUID || u.String() != s {
			t.Errorf("%s: %v, %v", in, u, err)
		}
	}
	for _, in := range []string{"", s[1:], s + "00", "x" + s[1:]} {
		if _, err := ParseUUID(in); err == nil {
			t.Errorf("%q was taken for a UUID", in)
		}
	}
}

// Whatever a daemon sends, nothing panics, and errors are of the right kind.
func FuzzPayload(f *testing.F) {
	f.Add(uint32(0), everyParam)
	for _, x := range recorded(f) {
		var h header
		h.parse(x.answer[4:])
		f.Add(h.procedure, x.answer[headerSize:])
	}
	f.Fuzz(func(t *testing.T, procedure uint32, payload []byte) {
		for name, read := range replies {
			d := &decoder{b: payload}
			read(d)
			if err := d.end(); err != nil && !errors.Is(err, ErrProtocol) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, p := range []uint32{procedure, msgLifecycle, msgAgent, msgBlockJob, msgDeviceAdded, msgDeviceRemoved, msgJobCompleted} {
			if _, _, err := decodeEvent(p, payload); err != nil && !errors.Is(err, ErrProtocol) {
				t.Errorf("event %d: %v", p, err)
			}
		}
	})
}

// A stream of messages is read to its end or its first error.
func FuzzStream(f *testing.F) {
	for _, x := range recorded(f) {
		f.Add(append(x.answer, x.call...))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		c := &Conn{pings: make(chan struct{}, 1), slots: make(chan struct{}, 1), pending: map[uint32]*call{}}
		for r := bytes.NewReader(stream); ; {
			h, payload, err := readMessage(r)
			if err == nil {
				err = c.dispatch(h, payload)
			}
			switch {
			case err == nil:
				continue
			case err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrProtocol):
				t.Error(err)
			}
			return
		}
	})
}
