package jbd2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/jbd2"
	"cairn/mount/jbd2/dirtytest"
)

func seeded(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestKernelLogs: what a kernel logged on a mounted file system. Every block of
// the overlay is what e2fsprogs makes of it on disk.
func TestKernelLogs(t *testing.T) {
	for _, c := range dirtytest.Configs {
		t.Run(c.Name, func(t *testing.T) {
			image := dirtytest.Make(t, c, seeded(t))
			r := compareWithDebugfs(t, image)
			if r.Clean || r.Transactions < 1 || r.Blocks < 3 {
				t.Errorf("not much of a log: %+v", r)
			}
			if c.Sequence != 0 && int32(r.Last) < 0 {
				t.Errorf("the sequence did not wrap: %+v", r)
			}
		})
	}
}

// TestDebugfsLogs: logs written by e2fsprogs, which has a writer of its own and
// the only one of checksum version 2.
func TestDebugfsLogs(t *testing.T) {
	rng := seeded(t)
	for _, sum := range []string{"", "-c -v 1", "-c -v 2", "-c -v 3"} {
		for features, bs := range map[string]int{"64bit": 1024, "^64bit": 4096} {
			name := fmt.Sprintf("%s,%s,%d", sum, features, bs)
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				image := filepath.Join(dir, "image")
				data := make([]byte, 64*bs)
				rand.NewChaCha8([32]byte{1}).Read(data)
				for i := 0; i < len(data); i += 3 * bs {
					copy(data[i:], "\xC0\x3B\x39\x98")
				}
				if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o600); err != nil {
					t.Fatal(err)
				}
				fstest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", fmt.Sprint(bs),
					"-O", features, "-J", fmt.Sprintf("size=%d", bs/1024), image, fmt.Sprint(8<<20/bs*bs/1024))
				// Blocks that the file system does not use, at its end.
				some := func() string {
					var list []string
					for range 1 + rng.IntN(20) {
						list = append(list, fmt.Sprint(8<<20/bs-1-rng.IntN(30)))
					}
					return strings.Join(list, ",")
				}
				script := "jo " + sum + "\n"
				for range 12 {
					if rng.IntN(3) == 0 {
						script += fmt.Sprintf("jw -r %s\n", some())
					} else {
						script += fmt.Sprintf("jw -b %s %s/data\n", some(), dir)
					}
				}
				script += fmt.Sprintf("jw -c -b %s %s/data\njc\n", some(), dir)
				if err := os.WriteFile(filepath.Join(dir, "script"), []byte(script), 0o600); err != nil {
					t.Fatal(err)
				}
				fstest.Run(t, "debugfs", "-w", "-f", filepath.Join(dir, "script"), image)
				if r := compareWithDebugfs(t, image); r.Transactions != 12 {
					t.Errorf("%+v\n%s", r, script)
				}
			})
		}
	}
}

// TestFastCommitLog: a kernel's fast commits are refused by name.
func TestFastCommitLog(t *testing.T) {
	image := dirtytest.Make(t, dirtytest.Config{
		SizeMiB: 16, Type: "ext4", Mkfs: []string{"-b", "1024", "-O", "fast_commit", "-J", "size=4,fast_commit_size=256"}, Steps: 50, FastCommit: true,
	}, seeded(t))
	journal, size := open(t, dirtytest.Journal(t, image))
	_, err := jbd2.Load(journal, size)
	if !errors.Is(err, filesys.ErrUnsupported) || !strings.Contains(err.Error(), "fast_commit log records") {
		t.Errorf("Load: %v", err)
	}
}

func open(t testing.TB, path string) (io.ReaderAt, int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return f, info.Size()
}

// compareWithDebugfs compares image under the overlay of its log with a copy on
// which debugfs replayed the log, block by block.
func compareWithDebugfs(t *testing.T, image string) jbd2.Report {
	t.Helper()
	journal, size := open(t, dirtytest.Journal(t, image))
	l, err := jbd2.Load(journal, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(l.Report())
	replayed := fstest.Copy(t, image)
	// e2fsck would also delete what the log leaves as orphans. -n: checksums do
	// not hold yet.
	fstest.Run(t, "debugfs", "-w", "-n", "-R", "jr", replayed)

	base, size := open(t, image)
	got := make([]byte, size)
	if _, err := l.Overlay(base).ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(replayed)
	if err != nil {
		t.Fatal(err)
	}
	// debugfs writes both superblocks to say that the log is now empty.
	mask := func(off, n int) { copy(got[off:off+n], want[off:off+n]) }
	// Time of write, of check, incompatible features, kibibytes written, checksum.
	for _, field := range [][2]int{{0x30, 4}, {0x40, 4}, {0x60, 4}, {0x178, 8}, {0x3FC, 4}} {
		mask(1024+field[0], field[1])
	}
	head := make([]byte, 1024)
	if _, err := journal.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if at := bytes.Index(got, head); at >= 0 {
		mask(at, len(head))
	}
	if !bytes.Equal(got, want) {
		bs := l.Report().BlockSize
		for i := 0; i < len(want); i += bs {
			if !bytes.Equal(got[i:i+bs], want[i:i+bs]) {
				t.Errorf("block %d is not as replayed by e2fsprogs", i/bs)
			}
		}
	}
	return l.Report()
}
