package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// creators are the two ways to make a target: each test of one runs for both.
var creators = map[string]func(ctx context.Context, path string, size, allocated int64) (DiskWriter, error){
	"raw":   CreateRaw,
	"qcow2": CreateQCOW2,
}

// chacha is a random source that is a Reader too.
type chacha struct {
	*rand.Rand
	*rand.ChaCha8
}

// newRand returns a source of random bytes whose seed the test prints.
func newRand(tb testing.TB) chacha {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("CAIRN_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			tb.Fatal(err)
		}
	}
	tb.Logf("CAIRN_TEST_SEED=%d", seed)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	src := rand.NewChaCha8(key)
	return chacha{rand.New(src), src}
}

// Read is ChaCha8's: the embedded Rand has no Read.
func (c chacha) Read(p []byte) (int, error) { return c.ChaCha8.Read(p) }

// Uint64 settles which of the two it is.
func (c chacha) Uint64() uint64 { return c.ChaCha8.Uint64() }

// span is a range of bytes.
type span struct{ off, length int64 }

// writeFile makes a sparse file of size bytes with random data in spans.
func writeFile(tb testing.TB, path string, rnd io.Reader, size int64, spans ...span) {
	tb.Helper()
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		tb.Fatal(err)
	}
	for _, s := range spans {
		if _, err := io.CopyN(io.NewOffsetWriter(f, s.off), rnd, s.length); err != nil {
			tb.Fatal(err)
		}
	}
}

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

func qemuImg(tb testing.TB, args ...string) string {
	tb.Helper()
	return tool(tb, "qemu-utils", "qemu-img", args...)
}

// images is the source under test. What the test leaves open is found out: no
// socket directory may be left at its end, and TestMain looks for goroutines.
func images(tb testing.TB, dir string) *Images {
	tb.Helper()
	tmp := tb.TempDir()
	tb.Setenv("TMPDIR", tmp)
	tb.Cleanup(func() {
		if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
			tb.Errorf("left behind: %v", left)
		}
	})
	s, err := NewImages(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// snapshot takes a snapshot that is closed when the test ends.
func snapshot(tb testing.TB, s *Images, id string, exclude ...string) Snapshot {
	tb.Helper()
	snap, err := s.Snapshot(tb.Context(), id, SnapshotOptions{Exclude: exclude})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := snap.Close(); err != nil {
			tb.Error(err)
		}
	})
	return snap
}

// extents are all extents of a disk, checked against the interface's rules.
func extents(tb testing.TB, d SnapshotDisk) []span {
	tb.Helper()
	var all []span
	end := int64(0)
	err := d.Extents(tb.Context(), func(e Extent) error {
		if e.Length <= 0 || e.Offset < end || e.Offset+e.Length > d.Info().Size || e.Zero {
			tb.Errorf("extent %+v after byte %d of %d", e, end, d.Info().Size)
		}
		end = e.Offset + e.Length
		all = append(all, span{e.Offset, e.Length})
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// content puts a disk together from its extents, as a backup does.
func content(tb testing.TB, d SnapshotDisk) []byte {
	tb.Helper()
	b := make([]byte, d.Info().Size)
	for _, e := range extents(tb, d) {
		if n, err := d.ReadAt(b[e.off:e.off+e.length], e.off); n != int(e.length) || err != nil && err != io.EOF {
			tb.Fatalf("read of %d bytes at %d: %d, %v", e.length, e.off, n, err)
		}
	}
	return b
}

// same compares without printing megabytes.
func same(tb testing.TB, what string, got, want []byte) {
	tb.Helper()
	if len(got) != len(want) {
		tb.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	if bytes.Equal(got, want) {
		return
	}
	for i := range got {
		if got[i] != want[i] {
			tb.Fatalf("%s: byte %d is %#x, want %#x", what, i, got[i], want[i])
		}
	}
}

func readFile(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// children lists the processes that this one has started and that still are.
func children(tb testing.TB) []string {
	tb.Helper()
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(files) == 0 {
		tb.Fatalf("list children: %v", err)
	}
	var pids []string
	for _, f := range files {
		b, _ := os.ReadFile(f) // a thread that has ended has none
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}
