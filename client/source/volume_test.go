package source

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// loop makes a block device of a file.
func loop(t *testing.T, file string, args ...string) string {
	t.Helper()
	out, err := exec.Command("losetup", append(args, "--find", "--show", file)...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup %s (it needs root, and the package mount): %v: %s", file, err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

// TestVolume: what is written is there, zeros are elsewhere, and what is behind
// the disk is as it was.
func TestVolume(t *testing.T) {
	for _, kind := range []string{"file", "device", "device of 4 KiB sectors"} {
		t.Run(kind, func(t *testing.T) {
			rnd := newRand(t)
			const have = 8 << 20
			size := int64(5<<20 + 512*rnd.IntN(9))
			old := make([]byte, have)
			rnd.Read(old)
			file := filepath.Join(t.TempDir(), "volume")
			put(t, file, string(old))
			if err := os.Chmod(file, 0o640); err != nil {
				t.Fatal(err)
			}
			path := file
			switch kind {
			case "device":
				path = loop(t, file)
			case "device of 4 KiB sectors":
				path = loop(t, file, "--sector-size", "4096")
			}
			w, err := OpenVolume(t.Context(), path, size)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			if _, err := OpenVolume(t.Context(), path, size); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
				t.Errorf("a second writer: %v", err)
			}
			want := append(make([]byte, size), old[size:]...)
			for _, off := range []int64{0, 1 << 20, size - 1000} {
				rnd.Read(want[off : off+1000])
				if n, err := w.WriteAt(want[off:off+1000], off); n != 1000 || err != nil {
					t.Errorf("write: %d, %v", n, err)
				}
			}
			for _, off := range []int64{-1, size - 9, size, have, 1 << 62} {
				if n, err := w.WriteAt(make([]byte, 10), off); n != 0 || err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("write at %d: %d, %v", off, n, err)
				}
			}
			if err := w.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := w.Abort(); err != nil {
				t.Error(err)
			}
			if err := w.Commit(t.Context()); err == nil {
				t.Error("a second commit was accepted")
			}
			same(t, path, readFile(t, path), want)
			if st, err := os.Stat(file); err != nil || st.Mode() != 0o640 || st.Size() != have {
				t.Errorf("%v, %v", st, err)
			}
		})
	}
}

func TestVolumeRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	put(t, file, strings.Repeat("x", 1<<20))
	dev := loop(t, file)
	mounted := filepath.Join(dir, "mounted")
	put(t, mounted, string(make([]byte, 1<<20)))
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", mounted).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4 (package e2fsprogs): %v: %s", err, out)
	}
	busy := loop(t, mounted)
	at := filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", busy, at).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	defer exec.Command("umount", at).Run()
	for name, test := range map[string]struct {
		path string
		size int64
		want error
		text string
	}{
		"small file":   {file, 1<<20 + 1, ErrNoSpace, "1048577"},
		"small device": {dev, 2 << 20, ErrNoSpace, "2097152"},
		"mounted":      {busy, 1 << 20, ErrInUse, "mounted"},
		"directory":    {dir, 1, nil, "neither"},
		"terminal":     {"/dev/null", 1, nil, "neither"},
		"not there":    {filepath.Join(dir, "none"), 1, os.ErrNotExist, ""},
		"no size":      {file, 0, nil, "size"},
	} {
		w, err := OpenVolume(t.Context(), test.path, test.size)
		if err == nil {
			w.Abort()
		}
		if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.path) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %v with %q", name, err, test.want, test.text)
		}
	}
	if b := readFile(t, file); !bytes.Equal(b, bytes.Repeat([]byte("x"), 1<<20)) {
		t.Error("what was refused was written to")
	}
}

func TestVolumeCancelled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	put(t, file, strings.Repeat("x", 1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	w, err := OpenVolume(ctx, file, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.WriteAt([]byte{1}, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
	if err := w.Commit(t.Context()); !errors.Is(err, context.Canceled) { // a piece is missing
		t.Errorf("commit: %v", err)
	}
	if err := errors.Join(w.Abort(), w.Abort()); err != nil {
		t.Error(err)
	}
	if w, err := OpenVolume(ctx, file, 1<<20); !errors.Is(err, context.Canceled) {
		w.Abort()
		t.Errorf("open: %v", err)
	}
}
