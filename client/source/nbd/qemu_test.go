package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tool runs a program of the package named pkg, which has to succeed.
func tool(tb testing.TB, pkg, name string, args ...string) string {
	tb.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		tb.Fatalf("%s is needed for this test: install the package %s", name, pkg)
	} else if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// qemuNBD starts a server that listens already: the socket is made here and
// handed down. It returns the socket's address.
func qemuNBD(tb testing.TB, network string, args ...string) string {
	tb.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "nbd") // t.TempDir can be too long for a socket
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec qemu-nbd "$@"`, "sh", "--persistent", "--shared=16"}, args...)...)
	var stderr bytes.Buffer
	cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, &stderr
	if _, err := exec.LookPath("qemu-nbd"); err != nil {
		tb.Fatal("qemu-nbd is needed for this test: install the package qemu-utils")
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if tb.Failed() {
			tb.Logf("qemu-nbd: %s", stderr.String())
		}
	})
	return l.Addr().String()
}

// testImage makes a raw image of size bytes with data in the given ranges.
func testImage(tb testing.TB, rnd *rand.ChaCha8, size int64, ranges ...[2]int64) (path string, want []byte) {
	tb.Helper()
	want = make([]byte, size)
	path = filepath.Join(tb.TempDir(), "image.raw")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	for _, r := range ranges {
		rnd.Read(want[r[0]:r[1]])
		if _, err := f.WriteAt(want[r[0]:r[1]], r[0]); err != nil {
			tb.Fatal(err)
		}
	}
	return path, want
}

func seeded(tb testing.TB) *rand.ChaCha8 {
	seed := uint64(time.Now().UnixNano())
	tb.Logf("seed %d", seed)
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	return rand.NewChaCha8(key)
}

func dial(tb testing.TB, network, address string, o Options) *Client {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := Dial(ctx, network, address, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// TestQEMURead: many readers over several connections read what is there.
func TestQEMURead(t *testing.T) {
	src := seeded(t)
	const size = 48<<20 + 512*3
	path, want := testImage(t, src, size, [2]int64{0, 5 << 20}, [2]int64{20<<20 + 4096, 21 << 20}, [2]int64{size - 512, size})
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			addr := qemuNBD(t, network, "--read-only", "--format=raw", "--export-name=disk", "--description=a test", path)
			c := dial(t, network, addr, Options{Export: "disk", Contexts: []string{BaseAllocation, "no:such"}, Connections: 4})
			info := c.Info()
			if info.Size != size || !info.ReadOnly || !info.Structured || !info.MultiConn || info.Connections != 4 ||
				info.Description != "a test" || !slices.Equal(info.Contexts, []string{BaseAllocation}) {
				t.Errorf("info %+v", info)
			}
			got := make([]byte, size) // more than one request may carry
			if n, err := c.ReadAt(got, 0); n != size || err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read all: %d, %v", n, err)
			}
			var wg sync.WaitGroup
			for range 8 {
				rnd := rand.New(rand.NewPCG(src.Uint64(), 0))
				wg.Go(func() {
					for range 50 {
						off := rnd.Int64N(size)
						got := make([]byte, 1+rnd.Int64N(min(300_000, size-off)))
						if _, err := c.ReadAt(got, off); err != nil || !bytes.Equal(got, want[off:][:len(got)]) {
							t.Errorf("read of %d at %d: %v", len(got), off, err)
							return
						}
					}
				})
			}
			wg.Wait()
			if _, err := c.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "NBD_EINVAL") {
				t.Errorf("write to a read-only export: %v", err)
			}
			if _, err := Dial(t.Context(), network, addr, Options{Export: "other"}); err == nil || !strings.Contains(err.Error(), "NBD_REP_ERR_UNKNOWN") {
				t.Errorf("unknown export: %v", err)
			}
		})
	}
}

// TestQEMUWalk: our extents are those that nbdinfo finds.
func TestQEMUWalk(t *testing.T) {
	src := seeded(t)
	var ranges [][2]int64
	for at := int64(0); at < 30<<20; at += 3 << 20 {
		ranges = append(ranges, [2]int64{at, at + 4096*(1+int64(src.Uint64()%300))})
	}
	path, _ := testImage(t, src, 40<<20, ranges...)
	addr := qemuNBD(t, "unix", "--read-only", "--format=raw", path)
	c := dial(t, "unix", addr, Options{Contexts: []string{BaseAllocation}})
	var got []Status
	err := c.Walk(t.Context(), BaseAllocation, 0, c.Info().Size, func(s Status) error {
		got = append(got, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var peer []struct {
		Offset, Length int64
		Type           uint32
	}
	out := tool(t, "libnbd-bin", "nbdinfo", "--map", "--json", "nbd+unix:///?socket="+addr)
	if err := json.Unmarshal([]byte(out), &peer); err != nil {
		t.Fatal(err)
	}
	var want []Status
	for _, p := range peer {
		want = append(want, Status{p.Offset, p.Length, p.Type})
	}
	if !slices.Equal(got, want) {
		t.Errorf("extents\n got %v\nwant %v", got, want)
	}
}

// TestQEMUWrite: what is written, zeroed and trimmed is what nbdcopy reads.
func TestQEMUWrite(t *testing.T) {
	src := seeded(t)
	const size = 64 << 20
	dir := t.TempDir()
	image := filepath.Join(dir, "a.qcow2")
	tool(t, "qemu-utils", "qemu-img", "create", "-q", "-f", "qcow2", image, fmt.Sprint(size))
	addr := qemuNBD(t, "unix", "--format=qcow2", "--discard=unmap", image)
	c := dial(t, "unix", addr, Options{Connections: 2})
	if info := c.Info(); info.ReadOnly || !info.CanFlush || !info.CanTrim || !info.CanWriteZeroes {
		t.Fatalf("info %+v", info)
	}
	want := make([]byte, size)
	src.Read(want[:40<<20])
	var wg sync.WaitGroup
	for k := range int64(4) { // the ends of each write lie inside clusters
		wg.Go(func() {
			part := want[k*10<<20 : (k+1)*10<<20]
			for at := 0; at < len(part); at += 777_777 {
				if _, err := c.WriteAt(part[at:min(at+777_777, len(part))], k*10<<20+int64(at)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	big := want[1<<20 : 39<<20] // more than one request may carry
	if n, err := c.WriteAt(big, 1<<20); n != len(big) || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	clear(want[5<<20 : 7<<20])
	clear(want[12345 : 12345+77777])
	if err := errors.Join(
		c.WriteZeroes(t.Context(), 5<<20, 2<<20, true),
		c.WriteZeroes(t.Context(), 12345, 77777, false),
		c.Trim(t.Context(), 50<<20, 1<<20),
		c.Flush(t.Context()),
	); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{-1, size, size - 1, 1 << 62} {
		if n, err := c.WriteAt(make([]byte, 2), off); n != 0 || err == nil {
			t.Errorf("write at %d: %d, %v", off, n, err)
		}
	}
	copied := filepath.Join(dir, "copy.raw")
	tool(t, "libnbd-bin", "nbdcopy", "nbd+unix:///?socket="+addr, copied)
	got, err := os.ReadFile(copied)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("nbdcopy read something else (%v)", err)
	}
}

// TestQEMUBitmap: a dirty bitmap is listed and walked.
func TestQEMUBitmap(t *testing.T) {
	image := filepath.Join(t.TempDir(), "a.qcow2")
	tool(t, "qemu-utils", "qemu-img", "create", "-q", "-f", "qcow2", image, "16M")
	tool(t, "qemu-utils", "qemu-img", "bitmap", "--add", image, "since")
	tool(t, "qemu-utils", "qemu-io", "-f", "qcow2", "-c", "write 1M 64k", "-c", "write 5M 128k", image)
	addr := qemuNBD(t, "unix", "--read-only", "--format=qcow2", "--bitmap=since", image)
	name := DirtyBitmap + "since"
	names, err := ListContexts(t.Context(), "unix", addr, "")
	if err != nil || !slices.Contains(names, name) || !slices.Contains(names, BaseAllocation) {
		t.Errorf("contexts %q, %v", names, err)
	}
	if names, err = ListContexts(t.Context(), "unix", addr, "", "qemu:"); err != nil || !slices.Equal(names, []string{name}) {
		t.Errorf("contexts of QEMU %q, %v", names, err)
	}
	if _, err = ListContexts(t.Context(), "unix", addr, "other"); err == nil || !strings.Contains(err.Error(), "NBD_REP_ERR_UNKNOWN") {
		t.Errorf("contexts of no export: %v", err)
	}
	c := dial(t, "unix", addr, Options{Contexts: []string{name, BaseAllocation}})
	var dirty []Status
	err = c.Walk(t.Context(), name, 0, c.Info().Size, func(s Status) error {
		if s.Flags&StateDirty != 0 {
			dirty = append(dirty, s)
		}
		return nil
	})
	want := []Status{{1 << 20, 64 << 10, StateDirty}, {5 << 20, 128 << 10, StateDirty}}
	if err != nil || !slices.Equal(dirty, want) {
		t.Errorf("dirty %v, %v, want %v", dirty, err, want)
	}
}

// BenchmarkRead reads from qemu-nbd by four readers.
func BenchmarkRead(b *testing.B) {
	const size, block = 256 << 20, 256 << 10
	path, _ := testImage(b, seeded(b), size, [2]int64{0, size})
	addr := qemuNBD(b, "unix", "--read-only", "--format=raw", path)
	for _, conns := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("connections=%d", conns), func(b *testing.B) {
			c := dial(b, "unix", addr, Options{Connections: conns})
			b.SetBytes(size)
			for b.Loop() {
				var wg sync.WaitGroup
				for k := range int64(4) {
					wg.Go(func() {
						buf := make([]byte, block)
						for off := k * block; off < size; off += 4 * block {
							if _, err := c.ReadAt(buf, off); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			}
		})
	}
}
