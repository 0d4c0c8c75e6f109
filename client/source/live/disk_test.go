package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/client/source"
	"cairn/client/source/nbd"
)

const diskSize = 64 << 20

// tool runs a program of qemu-utils, which has to succeed.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is needed for this test: install the package qemu-utils", name)
	} else if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// image is a qcow2 with a bitmap of what was written after it had been filled.
type image struct {
	path    string
	before  []byte // when the bitmap was made
	now     []byte
	changed []bool // by 64 KiB
}

// newImage fills an image at random, makes the bitmap "b", and changes parts.
func newImage(t *testing.T) *image {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	im := &image{path: filepath.Join(t.TempDir(), "a.qcow2"), now: make([]byte, diskSize), changed: make([]bool, diskSize>>16)}
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", im.path, fmt.Sprint(diskSize))
	write := func(n, most int) {
		args := []string{"-f", "qcow2", "-t", "unsafe"}
		for range n {
			length := 1 + rnd.IntN(most)
			off := rnd.IntN(diskSize - length)
			pattern := rnd.IntN(256)
			if rnd.IntN(3) == 0 {
				// Whole clusters of zeros become holes.
				off, length, pattern = off&^0xffff, (length+0xffff)&^0xffff, 0
				length = min(length, diskSize-off)
				args = append(args, "-c", fmt.Sprintf("write -z %d %d", off, length))
			} else {
				args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", pattern, off, length))
			}
			copy(im.now[off:], bytes.Repeat([]byte{byte(pattern)}, length))
			for c := off >> 16; c <= (off+length-1)>>16; c++ {
				im.changed[c] = true
			}
		}
		tool(t, "qemu-io", append(args, im.path)...)
	}
	write(40, 1<<20)
	clear(im.changed)
	im.before = bytes.Clone(im.now)
	tool(t, "qemu-img", "bitmap", "--add", im.path, "b")
	write(60, 300<<10)
	return im
}

func (im *image) dirty() (n int64) {
	for _, c := range im.changed {
		if c {
			n += 64 << 10
		}
	}
	return n
}

// server is a qemu-nbd behind a proxy that can be cut.
type server struct {
	t       *testing.T
	path    string // the proxy's socket
	backend string
	cmd     *exec.Cmd
	l       net.Listener
	wg      sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	refuse bool
}

func serve(t *testing.T, image string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "live")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, path: filepath.Join(dir, "p"), backend: filepath.Join(dir, "b")}
	s.start(image)
	if s.l, err = net.Listen("unix", s.path); err != nil {
		t.Fatal(err)
	}
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		s.l.Close()
		s.cut(true)
		s.stop()
		s.wg.Wait()
		os.RemoveAll(dir)
	})
	return s
}

func (s *server) start(image string) {
	s.t.Helper()
	s.cmd = exec.Command("qemu-nbd", "--persistent", "--read-only", "--format=qcow2", "--shared=8", "--bitmap=b", "--socket="+s.backend, image)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("qemu-nbd is needed for this test: install the package qemu-utils (%v)", err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // until its socket is there
		if nc, err := net.Dial("unix", s.backend); err == nil {
			nc.Close()
			return
		} else if time.Now().After(end) {
			s.t.Fatal(err)
		}
	}
}

func (s *server) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func (s *server) accept() {
	for {
		front, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		back, err := net.Dial("unix", s.backend)
		if err != nil || s.refuse {
			front.Close()
			if err == nil {
				back.Close()
			}
			s.mu.Unlock()
			continue
		}
		s.conns = append(s.conns, front, back)
		s.mu.Unlock()
		pipe := func(a, b net.Conn) {
			io.Copy(a, b)
			a.Close()
			b.Close()
		}
		s.wg.Go(func() { pipe(front, back) })
		s.wg.Go(func() { pipe(back, front) })
	}
}

// cut breaks all connections, and new ones, too, if refuse says so.
func (s *server) cut(refuse bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *server) export(bitmap bool) Export {
	e := Export{Network: "unix", Address: s.path}
	if bitmap {
		e.Bitmap = nbd.DirtyBitmap + "b"
	}
	return e
}

func fine(context.Context) error { return nil }

func open(t *testing.T, s *server, bitmap bool, alive func(context.Context) error) *Disk {
	t.Helper()
	d, err := OpenDisk(t.Context(), source.Disk{Target: "vda"}, s.export(bitmap), alive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// apply puts a disk together as a backup does, and checks the extents' rules.
func apply(t *testing.T, d *Disk, base []byte) (now []byte, told int64) {
	t.Helper()
	now = make([]byte, d.Info().Size)
	if d.Incremental() {
		copy(now, base)
	}
	end := int64(0)
	err := d.Extents(t.Context(), func(e source.Extent) error {
		if e.Length <= 0 || e.Offset < end || e.Offset+e.Length > d.Info().Size || e.Zero && !d.Incremental() {
			t.Errorf("extent %+v after byte %d", e, end)
		}
		end = e.Offset + e.Length
		told += e.Length
		part := now[e.Offset:end]
		if e.Zero {
			clear(part)
			return nil
		}
		if n, err := d.ReadAt(part, e.Offset); n != len(part) || err != nil && err != io.EOF {
			return fmt.Errorf("%d of %d bytes: %w", n, len(part), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return now, told
}

func TestDiskContents(t *testing.T) {
	im := newImage(t)
	s := serve(t, im.path)
	d := open(t, s, false, fine)
	if d.Incremental() || d.DirtyBytes() != 0 || d.Info().Size != diskSize {
		t.Errorf("incremental %v, %d dirty, %+v", d.Incremental(), d.DirtyBytes(), d.Info())
	}
	got, told := apply(t, d, nil)
	if !bytes.Equal(got, im.now) || told >= diskSize {
		t.Errorf("full: not what was written, or %d bytes", told)
	}
	d = open(t, s, true, fine)
	if !d.Incremental() || d.DirtyBytes() != im.dirty() {
		t.Errorf("incremental %v, %d dirty of %d", d.Incremental(), d.DirtyBytes(), im.dirty())
	}
	got, told = apply(t, d, im.before)
	if !bytes.Equal(got, im.now) || told != im.dirty() {
		t.Errorf("incremental: not what was written, or %d of %d bytes", told, im.dirty())
	}
	d.Distrust()
	got, _ = apply(t, d, nil)
	if d.Incremental() || !bytes.Equal(got, im.now) {
		t.Error("distrusted: not what was written")
	}
	if n, err := d.ReadAt(make([]byte, 10), diskSize-4); n != 4 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	stop := errors.New("stop")
	if err := d.Extents(t.Context(), func(source.Extent) error { return stop }); err != stop {
		t.Errorf("an error of fn: %v", err)
	}
}

func TestDiskConnectionCut(t *testing.T) {
	im := newImage(t)
	s := serve(t, im.path)
	d := open(t, s, true, fine)
	p := make([]byte, 64<<10)
	for _, refuse := range []bool{true, false} {
		s.cut(refuse)
		if _, err := d.ReadAt(p, 0); !errors.Is(err, source.ErrDisconnected) {
			t.Errorf("cut: %v", err)
		}
		if refuse {
			if err := d.Extents(t.Context(), func(source.Extent) error { return nil }); !errors.Is(err, source.ErrDisconnected) {
				t.Errorf("no connection: %v", err)
			}
			s.cut(false)
		}
		if got, _ := apply(t, d, im.before); !bytes.Equal(got, im.now) {
			t.Error("connected anew: not what was written")
		}
	}
	// In the middle of a walk, by the walk's own caller.
	err := d.Extents(t.Context(), func(e source.Extent) error {
		s.cut(false)
		_, err := d.ReadAt(p[:1], e.Offset)
		return err
	})
	if !errors.Is(err, source.ErrDisconnected) {
		t.Errorf("in a walk: %v", err)
	}
	// Many at once.
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p := make([]byte, 1<<20)
			for n := range 20 {
				if i == 0 && n%5 == 0 {
					s.cut(false)
				}
				off := int64((i*20 + n) % 60 << 20)
				_, err := d.ReadAt(p, off)
				if err == nil && !bytes.Equal(p, im.now[off:off+1<<20]) {
					t.Error("wrong bytes")
				} else if err != nil && !errors.Is(err, source.ErrDisconnected) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDiskSnapshotLost(t *testing.T) {
	im := newImage(t)
	s := serve(t, im.path)
	lost := fmt.Errorf("%w: gone", source.ErrSnapshotLost)
	d := open(t, s, false, func(context.Context) error { return lost })
	s.cut(true)
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, source.ErrSnapshotLost) || errors.Is(err, source.ErrDisconnected) {
		t.Errorf("%v", err)
	}
	if _, err := OpenDisk(t.Context(), source.Disk{}, s.export(false), func(context.Context) error { return lost }); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("open: %v", err)
	}
	// Another disk is there when it connects anew.
	d = nil
	s.cut(false)
	d = open(t, s, false, fine)
	s.cut(false)
	s.stop()
	tool(t, "qemu-img", "resize", "-q", im.path, "80M")
	s.start(im.path)
	d.ReadAt(make([]byte, 1), 0)
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("resized: %v", err)
	}
}

func TestDiskEnds(t *testing.T) {
	s := serve(t, newImage(t).path)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	d, err := OpenDisk(ctx, source.Disk{}, s.export(false), fine)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	walk, stop := context.WithCancelCause(t.Context())
	stop(enough)
	if err := d.Extents(walk, func(source.Extent) error { return nil }); !errors.Is(err, enough) {
		t.Errorf("walk: %v", err)
	}
	cancel(enough)
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, enough) {
		t.Errorf("read: %v", err)
	}
	if err := d.Extents(t.Context(), func(source.Extent) error { return nil }); !errors.Is(err, enough) {
		t.Errorf("extents: %v", err)
	}
	d = open(t, s, false, fine)
	d.Close()
	d.Close()
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	_, err = OpenDisk(t.Context(), source.Disk{}, Export{Network: "unix", Address: s.path, Bitmap: nbd.DirtyBitmap + "none"}, fine)
	if !errors.Is(err, nbd.ErrNoContext) {
		t.Errorf("no bitmap: %v", err)
	}
}
