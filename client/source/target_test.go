package source

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// eachCreator runs a test for both kinds of target, in a directory in which
// nothing but what it lists may be at the end.
func eachCreator(t *testing.T, f func(t *testing.T, dir string, create func(path string, size, allocated int64) (DiskWriter, error)), left ...string) {
	for name, create := range creators {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			dir := t.TempDir()
			f(t, dir, func(path string, size, allocated int64) (DiskWriter, error) {
				return create(t.Context(), path, size, allocated)
			})
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != len(left) {
				t.Errorf("left in the directory: %v, %v", entries, err)
			}
			if entries, _ := os.ReadDir(tmp); len(entries) > 0 {
				t.Errorf("left in the temporary directory: %v", entries)
			}
			if left := children(t); len(left) > 0 {
				t.Errorf("processes left: %v", left)
			}
		})
	}
}

type createFunc = func(path string, size, allocated int64) (DiskWriter, error)

// TestTarget: what is written is there after Commit and nothing before.
func TestTarget(t *testing.T) {
	const size = 20 << 20
	eachCreator(t, func(t *testing.T, dir string, create createFunc) {
		rnd := newRand(t)
		path := filepath.Join(dir, "new disk")
		w, err := create(path, size, size)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		want := make([]byte, size)
		var wg sync.WaitGroup
		for k := range int64(4) {
			off := k*5<<20 + 12345
			data := want[off : off+2<<20+77]
			rnd.Read(data)
			wg.Go(func() {
				for at := 0; at < len(data); at += 100_001 {
					part := data[at:min(at+100_001, len(data))]
					if n, err := w.WriteAt(part, off+int64(at)); n != len(part) || err != nil {
						t.Errorf("write: %d, %v", n, err)
					}
				}
			})
		}
		wg.Wait()
		rnd.Read(want[size-10:])
		if _, err := w.WriteAt(want[size-10:], size-10); err != nil {
			t.Error(err)
		}
		for _, off := range []int64{-1, size - 9, size, 1 << 62} {
			if n, err := w.WriteAt(make([]byte, 10), off); n != 0 || err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("write at %d: %d, %v", off, n, err)
			}
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("before the commit: %v", err)
		}
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Abort(); err != nil {
			t.Errorf("abort after commit: %v", err)
		}
		if err := w.Commit(t.Context()); err == nil {
			t.Error("a second commit was accepted")
		}
		format := filepath.Base(t.Name())
		if format == "qcow2" {
			qemuImg(t, "check", "-q", "-f", "qcow2", path)
		}
		raw := filepath.Join(t.TempDir(), "raw")
		qemuImg(t, "convert", "-f", format, "-O", "raw", path, raw)
		same(t, "restored", readFile(t, raw), want)
		if st, err := os.Stat(path); err != nil || allocated(st) > 14<<20 || st.Mode() != 0o600 {
			t.Errorf("not sparse, or not private: %d bytes, %v, %v", allocated(st), st.Mode(), err)
		}
	}, "new disk")
}

// TestTargetExists: nothing is ever overwritten, whenever it comes.
func TestTargetExists(t *testing.T) {
	eachCreator(t, func(t *testing.T, dir string, create createFunc) {
		path := filepath.Join(dir, "x")
		for _, make := range []func() error{
			func() error { return os.WriteFile(path, []byte("keep"), 0o600) },
			func() error { return os.Mkdir(path, 0o700) },
			func() error { return os.Symlink("nowhere", path) },
		} {
			w, err := create(path, 1<<20, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			if err := make(); err != nil {
				t.Fatal(err)
			}
			if _, err := create(path, 1<<20, 0); !errors.Is(err, ErrTargetExists) || !strings.Contains(err.Error(), path) {
				t.Errorf("create: %v", err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context()); !errors.Is(err, ErrTargetExists) {
				t.Errorf("commit: %v", err)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) || after.Size() != before.Size() {
				t.Errorf("what was there is there no more: %v", err)
			}
			if err := errors.Join(w.Abort(), w.Abort()); err != nil {
				t.Errorf("abort: %v", err)
			}
			os.Remove(path)
		}
	})
}

func TestTargetRefused(t *testing.T) {
	eachCreator(t, func(t *testing.T, dir string, create createFunc) {
		file := filepath.Join(dir, "file")
		put(t, file, "x")
		for name, test := range map[string]struct {
			path            string
			size, allocated int64
			want            error
		}{
			"no space":     {filepath.Join(dir, "a"), 1 << 50, 1 << 50, ErrNoSpace},
			"no directory": {filepath.Join(dir, "none", "a"), 1 << 20, 0, os.ErrNotExist},
			"in a file":    {filepath.Join(file, "a"), 1 << 20, 0, syscall.ENOTDIR},
			"no size":      {filepath.Join(dir, "a"), 0, 0, nil},
			"less":         {filepath.Join(dir, "a"), -1, 0, nil},
			"too large":    {filepath.Join(dir, "a"), 1<<63 - 1, 0, nil},
		} {
			w, err := create(test.path, test.size, test.allocated)
			if err == nil {
				w.Abort()
			}
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.path) {
				t.Errorf("%s: %v, want %v", name, err, test.want)
			}
		}
	}, "file")
	p := &part{final: "/x"}
	for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		if err := p.failed(errno); !errors.Is(err, ErrNoSpace) || !errors.Is(err, errno) {
			t.Errorf("%v becomes %v", errno, err)
		}
	}
}

// TestTargetAbandoned: cancelled, aborted, or both, nothing stays.
func TestTargetAbandoned(t *testing.T) {
	for name, create := range creators {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			w, err := create(ctx, filepath.Join(dir, "x"), 1<<20, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.WriteAt(bytes.Repeat([]byte{1}, 1000), 0); err != nil {
				t.Error(err)
			}
			cancel()
			if _, err := w.WriteAt([]byte{1}, 0); !errors.Is(err, context.Canceled) {
				t.Errorf("write: %v", err)
			}
			// Also a commit with a context of its own: a piece is missing.
			for _, ctx := range []context.Context{ctx, t.Context()} {
				if err := w.Commit(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("commit: %v", err)
				}
			}
			if err := errors.Join(w.Abort(), w.Abort()); err != nil {
				t.Errorf("abort: %v", err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("left: %v, %v", entries, err)
			}
			if left := children(t); len(left) > 0 {
				t.Errorf("processes left: %v", left)
			}
			ctx, cancel = context.WithCancel(t.Context())
			cancel()
			if w, err := create(ctx, filepath.Join(dir, "x"), 1<<20, 0); err == nil {
				w.Abort()
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("create: %v", err)
			}
		})
	}
}

// TestRoundTrip: any raw image, read by its extents and restored as raw and as
// qcow2, comes out the same, and again from what was restored.
func TestRoundTrip(t *testing.T) {
	rnd := newRand(t)
	for range 3 {
		dir := t.TempDir()
		size := 512 * (1 + rnd.Int64N(20_000)) // qcow2 knows whole sectors only
		var data []span
		for range rnd.IntN(20) {
			off := rnd.Int64N(size)
			data = append(data, span{off, 1 + rnd.Int64N(min(300_000, size-off))})
		}
		first := filepath.Join(dir, "a.raw")
		writeFile(t, first, rnd, size, data...)
		want := readFile(t, first)
		s := images(t, dir)
		restore := func(from, to string, create func(context.Context, string, int64, int64) (DiskWriter, error)) {
			t.Helper()
			d := snapshot(t, s, from).Disks()[0]
			w, err := create(t.Context(), filepath.Join(dir, to), d.Info().Size, d.Info().Allocated)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			for _, e := range extents(t, d) {
				buf := make([]byte, e.length)
				if _, err := d.ReadAt(buf, e.off); err != nil {
					t.Fatal(err)
				}
				if _, err := w.WriteAt(buf, e.off); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		restore("a", "b.qcow2", CreateQCOW2)
		restore("b", "c.raw", CreateRaw)
		restore("c", "d.qcow2", CreateQCOW2)
		same(t, "c.raw", readFile(t, filepath.Join(dir, "c.raw")), want)
		qemuImg(t, "compare", "-q", "-f", "raw", "-F", "qcow2", first, filepath.Join(dir, "d.qcow2"))
	}
}
