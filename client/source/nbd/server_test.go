package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// holes is data that knows its holes: aligned runs of 4 KiB that are zeros.
type holes struct {
	b     []byte
	reads atomic.Int64
	bad   int64 // reads that touch this offset fail, unless it is 0
}

func (h *holes) Size() int64 { return int64(len(h.b)) }

func (h *holes) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	h.reads.Add(1)
	if h.bad != 0 && off <= h.bad && h.bad < off+int64(len(p)) {
		return 0, errors.New("this block is damaged")
	}
	return bytes.NewReader(h.b).ReadAt(p, off)
}

func (h *holes) ReadAt(p []byte, off int64) (int, error) {
	return h.ReadAtContext(context.Background(), p, off)
}

func (h *holes) Extent(_ context.Context, off int64) (data bool, length int64, err error) {
	const grain = 4096
	kind := func(at int64) bool { return bytes.Count(h.b[at:min(at+grain, h.Size())], zero[:]) == 0 }
	at := off &^ (grain - 1)
	data = kind(at)
	for at < h.Size() && kind(at) == data {
		at += grain
	}
	return data, min(at, h.Size()) - off, nil
}

// zero is what no 4 KiB of random bytes hold.
var zero [64]byte

// plain hides what more an export's data can do.
type plain struct{ h *holes }

func (p plain) Size() int64                             { return p.h.Size() }
func (p plain) ReadAt(b []byte, off int64) (int, error) { return p.h.ReadAt(b, off) }

func newHoles(t *testing.T) *holes {
	rnd := seeded(t)
	h := &holes{b: make([]byte, 5<<20+1536)}
	for _, r := range [][2]int{{0, 8192}, {1 << 20, 3<<20 + 4096}, {len(h.b) - 1536, len(h.b)}} {
		rnd.Read(h.b[r[0]:r[1]])
	}
	return h
}

// serveExports runs a Server until the test ends and returns its socket.
func serveExports(t *testing.T, exports map[string]Export) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewServer(exports).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return socket
}

// TestServerWithOurClient: what the client reads, by structured and by simple
// replies, is what there is; its map is right; it can write nothing.
func TestServerWithOurClient(t *testing.T) {
	h := newHoles(t)
	socket := serveExports(t, map[string]Export{"map": {Data: h, Description: "a disk"}, "plain": {Data: plain{h}}})
	src := seeded(t)
	for _, name := range []string{"map", "plain"} {
		c := dial(t, "unix", socket, Options{Export: name, Contexts: []string{BaseAllocation}, Connections: 4})
		info := c.Info()
		if info.Size != h.Size() || !info.ReadOnly || !info.MultiConn || !info.Structured || !info.CanFlush || info.Connections != 4 {
			t.Errorf("%s: info %+v", name, info)
		}
		got := make([]byte, h.Size())
		if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, h.b) {
			t.Errorf("%s: read all: %v", name, err)
		}
		var wg sync.WaitGroup
		for range 8 {
			rnd := rand.New(rand.NewPCG(src.Uint64(), 0))
			wg.Go(func() {
				for range 15 {
					off := rnd.Int64N(h.Size())
					got := make([]byte, 1+rnd.Int64N(min(1_500_000, h.Size()-off)))
					if _, err := c.ReadAt(got, off); err != nil || !bytes.Equal(got, h.b[off:][:len(got)]) {
						t.Errorf("%s: read of %d at %d: %v", name, len(got), off, err)
					}
				}
			})
		}
		wg.Wait()
		if _, err := c.WriteAt([]byte("x"), 5); !errors.Is(err, syscall.EPERM) {
			t.Errorf("write: %v", err)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("flush: %v", err)
		}
		if name == "plain" {
			continue
		}
		at := int64(0)
		err := c.Walk(t.Context(), BaseAllocation, 0, h.Size(), func(s Status) error {
			zero := len(bytes.Trim(h.b[s.Offset:s.Offset+s.Length], "\x00")) == 0
			if s.Offset != at || zero != (s.Flags == StateHole|StateZero) {
				t.Errorf("status %+v after %d, zeros: %t", s, at, zero)
			}
			at += s.Length
			return nil
		})
		if err != nil || at != h.Size() {
			t.Errorf("walk: %v, up to %d", err, at)
		}
	}
	if names, err := ListContexts(t.Context(), "unix", socket, "map", "base:"); err != nil || len(names) != 1 {
		t.Errorf("contexts %q, %v", names, err)
	}
	if _, err := Dial(t.Context(), "unix", socket, Options{Export: "other"}); err == nil {
		t.Error("an export that is not there was opened")
	}
	if _, err := Dial(t.Context(), "unix", socket, Options{}); err == nil {
		t.Error("the default of two exports was opened")
	}
}

// TestServerWithPrograms: QEMU's and libnbd's programs read the same bytes.
func TestServerWithPrograms(t *testing.T) {
	h := newHoles(t)
	socket := serveExports(t, map[string]Export{"vda": {Data: h, Description: "a disk"}, "vdb": {Data: plain{h}}})
	dir := t.TempDir()
	uri := "nbd+unix:///vda?socket=" + socket
	same := func(what, path string) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || len(got) < len(h.b) || !bytes.Equal(got[:len(h.b)], h.b) {
			t.Errorf("%s read something else: %v, %d bytes", what, err, len(got))
		}
	}
	for _, name := range []string{"vda", "vdb"} {
		uri := "nbd+unix:///" + name + "?socket=" + socket
		tool(t, "qemu-utils", "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, filepath.Join(dir, name+".qemu"))
		same("qemu-img of "+name, filepath.Join(dir, name+".qemu"))
		tool(t, "libnbd-bin", "nbdcopy", uri, filepath.Join(dir, name+".nbdcopy"))
		same("nbdcopy of "+name, filepath.Join(dir, name+".nbdcopy"))
	}
	if out := tool(t, "qemu-utils", "qemu-img", "map", "--output=json", "-f", "raw", uri); strings.Count(out, `"zero": true`) != 2 {
		t.Errorf("map: %s", out)
	}
	var list struct {
		Exports []struct {
			Name        string   `json:"export-name"`
			Description string   `json:"description"`
			Contexts    []string `json:"contexts"`
			Size        int64    `json:"export-size"`
			ReadOnly    bool     `json:"is_read_only"`
			MultiConn   bool     `json:"can_multi_conn"`
		} `json:"exports"`
	}
	if err := json.Unmarshal([]byte(tool(t, "libnbd-bin", "nbdinfo", "--list", "--json", "nbd+unix:///?socket="+socket)), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Exports) != 2 || list.Exports[0].Name != "vda" || list.Exports[0].Description != "a disk" || len(list.Exports[0].Contexts) != 1 ||
		list.Exports[0].Size != h.Size() || !list.Exports[0].ReadOnly || !list.Exports[0].MultiConn {
		t.Errorf("nbdinfo --list: %+v", list)
	}
	// A guest's disk over it: an overlay that a qemu-nbd writes to.
	overlay := filepath.Join(dir, "overlay.qcow2")
	tool(t, "qemu-utils", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", uri, overlay)
	tool(t, "qemu-utils", "qemu-io", "-f", "qcow2", "-c", "write -P 7 4096 4096", "-c", "read -P 7 4096 4096", overlay)
	if out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write -P 7 0 4096", uri).CombinedOutput(); err == nil {
		t.Errorf("qemu-io wrote to the export: %s", out)
	}
}

// TestServerTellsErrors: what cannot be read is an error, whether in the first
// piece of a read or a later one, and the connection lives on when it can.
func TestServerTellsErrors(t *testing.T) {
	h := newHoles(t)
	h.bad = 2<<20 + 100
	c := dial(t, "unix", serveExports(t, map[string]Export{"": {Data: h}}), Options{})
	got := make([]byte, h.Size())
	for _, r := range [][2]int64{{h.bad - 5, h.bad + 5}, {0, h.Size()}} {
		if _, err := c.ReadAt(got[r[0]:r[1]], r[0]); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("read %v: %v", r, err)
		}
	}
	if _, err := c.ReadAt(got[:1<<20], 0); err != nil || !bytes.Equal(got[:1<<20], h.b[:1<<20]) {
		t.Errorf("afterwards: %v", err)
	}
}

// rawClient speaks to the server byte by byte.
func rawClient(t *testing.T, socket string) *peer {
	t.Helper()
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(time.Minute)) // a hang is a failure
	p := &peer{nc, t}
	if p.take(18) == nil {
		t.Fatal("no greeting")
	}
	return p
}

// hungUp waits for the end of the connection.
func (p *peer) hungUp(what string) {
	p.t.Helper()
	if _, err := io.Copy(io.Discard, p); errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Errorf("%s: the server goes on", what)
	}
}

// TestServerHostileClients: nothing that a client sends ends in more than the
// end of its connection.
func TestServerHostileClients(t *testing.T) {
	h := newHoles(t)
	socket := serveExports(t, map[string]Export{"vda": {Data: h}})
	option := func(p *peer, opt uint32, data []byte) {
		p.put(uint64(magicOption), opt, uint32(len(data)), data)
	}
	request := func(p *peer, flags, cmd uint16, off uint64, n uint32) {
		p.put(uint32(magicRequest), flags, cmd, uint64(42), off, n)
	}
	const both = uint32(hsFixedNewstyle | hsNoZeroes)
	for what, f := range map[string]func(p *peer){
		"unknown flags":  func(p *peer) { p.put(uint32(1 << 9)) },
		"no magic":       func(p *peer) { p.put(both, make([]byte, 16)) },
		"endless option": func(p *peer) { p.put(both, uint64(magicOption), uint32(optGo), uint32(1<<31)) },
		"unknown export": func(p *peer) { p.put(both); option(p, optExportName, []byte("none")) },
		"long name":      func(p *peer) { p.put(both); option(p, optExportName, make([]byte, maxOption+1)) },
		"options without end": func(p *peer) {
			p.put(both)
			for range maxOptions {
				option(p, 77, nil)
				p.take(20)
			}
		},
		"no request": func(p *peer) {
			p.put(both)
			option(p, optExportName, []byte("vda"))
			p.take(10)
			p.put(make([]byte, 28))
		},
		"endless write": func(p *peer) {
			p.put(both)
			option(p, optExportName, []byte("vda"))
			p.take(10)
			request(p, 0, cmdWrite, 0, maxRequest+1)
		},
		"goodbye": func(p *peer) {
			p.put(both)
			option(p, optExportName, []byte("vda"))
			p.take(10)
			request(p, 0, cmdDisc, 0, 0)
		},
	} {
		p := rawClient(t, socket)
		f(p)
		p.hungUp(what)
	}

	// What has an answer gets it, and the connection goes on.
	p := rawClient(t, socket)
	p.put(both)
	for _, o := range []struct {
		opt  uint32
		data []byte
		want uint32
	}{
		{99, nil, repErrUnsup},
		{optList, []byte("x"), repErrInvalid},
		{optStructuredReply, []byte("x"), repErrInvalid},
		{optGo, []byte{0, 0}, repErrInvalid},
		{optGo, []byte{0xff, 0xff, 0xff, 0xff, 0, 0}, repErrInvalid},
		{optGo, append(appendString(nil, "vda"), 0, 9), repErrInvalid},
		{optGo, append(appendString(nil, "none"), 0, 0), repErrUnknown},
		{optSetMeta, append(appendString(nil, "vda"), 0, 0, 0, 0), repErrInvalid}, // no structured replies
		{optSetMeta, append(appendString(nil, "vda"), 0xff, 0xff, 0xff, 0xff), repErrInvalid},
		{optGo, make([]byte, maxOption+1), repErrTooBig},
	} {
		option(p, o.opt, o.data)
		head := p.take(20)
		if head == nil {
			t.Fatalf("option %d: the server hung up", o.opt)
		}
		if got := be.Uint32(head[12:]); got != o.want {
			t.Errorf("option %d with %d bytes: reply %#x, want %#x", o.opt, len(o.data), got, o.want)
		}
		p.take(int(be.Uint32(head[16:])))
	}
	option(p, optExportName, []byte("vda"))
	p.take(10)
	size := uint64(h.Size())
	for _, r := range []struct {
		flags, cmd uint16
		off        uint64
		n, errno   uint32
	}{
		{0, cmdRead, 0, 0, errnoInvalid}, {0, cmdRead, size, 1, errnoInvalid}, {0, cmdRead, 1<<64 - 1, 2, errnoInvalid},
		{0, cmdRead, 0, 1<<32 - 1, errnoInvalid}, {1 << 12, cmdRead, 0, 1, errnoInvalid},
		{0, cmdTrim, 0, 1, errnoPerm}, {0, cmdWriteZeroes, 0, 1, errnoPerm}, {0, 99, 0, 0, errnoInvalid},
		{0, cmdBlockStatus, 0, 100, errnoInvalid}, {0, cmdFlush, 0, 0, 0},
	} {
		request(p, r.flags, r.cmd, r.off, r.n)
		head := p.take(16)
		if head == nil {
			t.Fatalf("request %+v: the server hung up", r)
		}
		if be.Uint32(head) != magicSimple || be.Uint32(head[4:]) != r.errno || be.Uint64(head[8:]) != 42 {
			t.Errorf("request %+v: reply %x", r, head)
		}
	}
	request(p, 0, cmdWrite, 0, 5)
	p.put("hello")
	if head := p.take(16); head == nil || be.Uint32(head[4:]) != errnoPerm {
		t.Errorf("write: reply %x", head)
	}
	// A simple reply of several pieces.
	request(p, 0, cmdRead, 1<<20-7, 3<<20)
	if head, got := p.take(16), p.take(3<<20); head == nil || !bytes.Equal(got, h.b[1<<20-7:][:3<<20]) {
		t.Errorf("simple read: head %x, %d bytes", head, len(got))
	}
}

// TestServerEnds: Serve returns while clients hang on and a read is under way.
func TestServerEnds(t *testing.T) {
	b := &stuck{started: make(chan struct{}, 1)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewServer(map[string]Export{"": {Data: b}}).Serve(ctx, l) }()
	c, err := Dial(ctx, "tcp", l.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := c.Read(context.Background(), make([]byte, 10), 0)
		failed <- err
	}()
	<-b.started
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("the read succeeded")
	}
}

// stuck never answers a read.
type stuck struct{ started chan struct{} }

func (*stuck) Size() int64                       { return 1 << 20 }
func (*stuck) ReadAt([]byte, int64) (int, error) { panic("not this way") }
func (s *stuck) ReadAtContext(ctx context.Context, _ []byte, _ int64) (int, error) {
	s.started <- struct{}{}
	<-ctx.Done()
	return 0, context.Cause(ctx)
}

// FuzzServer: whatever a client sends, the server survives and lets go of it when
// it hangs up.
func FuzzServer(f *testing.F) {
	hello := be.AppendUint32(nil, hsFixedNewstyle|hsNoZeroes)
	option := func(b []byte, opt uint32, data []byte) []byte {
		b = be.AppendUint64(b, magicOption)
		b = be.AppendUint32(b, opt)
		b = be.AppendUint32(b, uint32(len(data)))
		return append(b, data...)
	}
	request := func(b []byte, flags, cmd uint16, off uint64, n uint32) []byte {
		b = be.AppendUint32(b, magicRequest)
		b = be.AppendUint16(b, flags)
		b = be.AppendUint16(b, cmd)
		b = be.AppendUint64(b, 1)
		b = be.AppendUint64(b, off)
		return be.AppendUint32(b, n)
	}
	b := option(hello, optStructuredReply, nil)
	b = option(b, optSetMeta, append(appendString([]byte(nil), "vda"), append([]byte{0, 0, 0, 1}, appendString(nil, BaseAllocation)...)...))
	b = option(b, optInfo, append(appendString(nil, "vda"), 0, 3, 0, 1, 0, 2, 0, 3))
	b = option(b, optGo, append(appendString(nil, "vda"), 0, 0))
	b = request(b, 0, cmdRead, 100, 5000)
	b = request(b, cmdFlagReqOne, cmdBlockStatus, 0, 1<<16)
	f.Add(request(b, 0, cmdDisc, 0, 0))
	b = option(hello, optList, nil)
	b = option(b, optExportName, []byte("vda"))
	b = append(request(b, 0, cmdWrite, 0, 3), "abc"...)
	f.Add(request(b, 0, cmdRead, 65000, 536))
	h := &holes{b: make([]byte, 1<<16)}
	copy(h.b[20000:], bytes.Repeat([]byte("data"), 5000))
	s := NewServer(map[string]Export{"vda": {Data: h}})
	f.Fuzz(func(t *testing.T, b []byte) {
		mine, its := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); s.serve(t.Context(), its) }()
		go io.Copy(io.Discard, mine)
		mine.Write(b)
		mine.Close()
		<-done
	})
}
