package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// TestTruncated: a file that becomes shorter is never read as zeros.
func TestTruncated(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(dir, "a.raw")
	const size = 8 << 20
	for name, data := range map[string][]span{"full": {{0, size}}, "sparse": {{0, 1 << 20}, {7 << 20, 1 << 20}}, "hole": nil} {
		for _, left := range []int64{0, 1 << 20, 1<<20 + 1000, 5 << 20, size - 1} {
			t.Run(fmt.Sprintf("%s to %d", name, left), func(t *testing.T) {
				writeFile(t, raw, newRand(t), size, data...)
				snap := snapshot(t, images(t, dir), "a")
				d := snap.Disks()[0]
				if err := os.Truncate(raw, left); err != nil {
					t.Fatal(err)
				}
				n, err := d.ReadAt(make([]byte, size), 0)
				text := fmt.Sprintf("%s: image was truncated while it was read: %d bytes expected, %d are left", raw, size, left)
				if int64(n) != left || !errors.Is(err, ErrTruncated) || err.Error() != text {
					t.Errorf("read: %d, %v", n, err)
				}
				if n, err := d.ReadAt(make([]byte, 10), size-5); n != 0 && left < size-1 || !errors.Is(err, ErrTruncated) {
					t.Errorf("read at the end: %d, %v", n, err)
				}
				if err := d.Extents(t.Context(), func(Extent) error { return nil }); !errors.Is(err, ErrTruncated) {
					t.Errorf("extents: %v", err)
				}
				if err := snap.Check(t.Context()); !errors.Is(err, ErrTruncated) {
					t.Errorf("check: %v", err)
				}
			})
		}
	}
	// In the middle of a walk.
	writeFile(t, raw, newRand(t), size, span{0, 4096}, span{4 << 20, 4096})
	d := snapshot(t, images(t, dir), "a").Disks()[0]
	err := d.Extents(t.Context(), func(Extent) error { return os.Truncate(raw, 1<<20) })
	if !errors.Is(err, ErrTruncated) {
		t.Errorf("truncated during the walk: %v", err)
	}
}

// TestRaw: extents of files of any size are their data, byte for byte.
func TestRaw(t *testing.T) {
	dir, rnd := t.TempDir(), newRand(t)
	for name, file := range map[string]struct {
		size int64
		data []span
		want []span
	}{
		"hole":   {1 << 20, nil, nil},
		"byte":   {1, []span{{0, 1}}, []span{{0, 1}}},
		"odd":    {3<<20 + 77, []span{{1 << 20, 4096}, {3 << 20, 77}}, []span{{1 << 20, 4096}, {3 << 20, 77}}},
		"full":   {1<<20 + 1, []span{{0, 1<<20 + 1}}, []span{{0, 1<<20 + 1}}},
		"middle": {2 << 20, []span{{64 << 10, 64 << 10}}, []span{{64 << 10, 64 << 10}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name+".raw")
			writeFile(t, path, rnd, file.size, file.data...)
			d := snapshot(t, images(t, dir), name).Disks()[0]
			if got := extents(t, d); !slices.Equal(got, file.want) {
				t.Errorf("extents %v, want %v", got, file.want)
			}
			want := readFile(t, path)
			same(t, name, content(t, d), want)
			readAnywhere(t, d, want, rnd)
			stop := errors.New("stop")
			if err := d.Extents(t.Context(), func(Extent) error { return stop }); err != stop && len(file.want) > 0 {
				t.Errorf("error of the callback: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := d.Extents(ctx, func(Extent) error { return nil }); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
}

// readAnywhere reads at odd places, from several goroutines.
func readAnywhere(t *testing.T, d SnapshotDisk, want []byte, rnd chacha) {
	t.Helper()
	size := int64(len(want))
	type read struct{ off, n int64 }
	reads := []read{{0, 0}, {0, 1}, {size - 1, 1}, {size - 1, 2}, {size, 1}, {size + 1000, 5}}
	for range 30 {
		reads = append(reads, read{rnd.Int64N(size), rnd.Int64N(200_000)})
	}
	var wg sync.WaitGroup
	for chunk := range slices.Chunk(reads, 10) {
		wg.Go(func() {
			for _, r := range chunk {
				got := make([]byte, r.n)
				n, err := d.ReadAt(got, r.off)
				exp := want[min(r.off, size):min(r.off+r.n, size)]
				if n != len(exp) || string(got[:n]) != string(exp) || (err == io.EOF) != (int64(n) < r.n) || err != nil && err != io.EOF {
					t.Errorf("read of %d at %d: %d, %v", r.n, r.off, n, err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := d.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Errorf("read before the start: %v", err)
	}
}
