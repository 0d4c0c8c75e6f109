package xfs_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
)

// noise is what test files hold.
var noise = func() []byte {
	b := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openImage opens an image by the reader under test.
func openImage(t testing.TB, image string) *xfs.FS {
	t.Helper()
	f, err := os.Open(image)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	must(t, err)
	fs, err := xfs.Open(f, st.Size(), filesys.Options{})
	must(t, err)
	return fs
}

// openBytes opens an image that is in memory.
func openBytes(t testing.TB, b []byte) *xfs.FS {
	t.Helper()
	fs, err := xfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
	must(t, err)
	return fs
}

// openAny is Open in the form that the test kit asks for.
func openAny(r io.ReaderAt, size int64) (filesys.FS, error) {
	fs, err := xfs.Open(r, size, filesys.Options{})
	if err != nil {
		return nil, err
	}
	return fs, nil
}

// Volumes of less than 300 MiB are made for tests only, which say so.
func init() {
	for _, name := range []string{"TEST_DIR", "TEST_DEV", "QA_CHECK_FS"} {
		os.Setenv(name, "1")
	}
}

// mkfs makes a file system on an image of random bytes.
func mkfs(t testing.TB, mib int64, args string) string {
	t.Helper()
	image := fstest.Image(t, mib<<20, uint64(len(args))) // any seed would do
	fstest.Run(t, "mkfs.xfs", append(strings.Fields("-q -f -K "+args), image)...)
	return image
}

// made makes a file system with what fill puts into it, and gives its image.
func made(t testing.TB, mib int64, args string, fill func(dir string)) string {
	t.Helper()
	image := mkfs(t, mib, args)
	dir, unmount := fstest.Mount(t, image, "xfs", false, "")
	fill(dir)
	unmount()
	return image
}

// walk finds a file by its path.
func walk(t testing.TB, fs filesys.FS, path string) uint64 {
	t.Helper()
	ino := fs.Root()
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if ino, err = fs.Lookup(ino, name); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return ino
}

// open finds a regular file by its path.
func open(t testing.TB, fs filesys.FS, path string) filesys.File {
	t.Helper()
	f, err := fs.Open(walk(t, fs, path))
	must(t, err)
	return f
}

// content reads a file whole.
func content(t testing.TB, fs filesys.FS, path string) []byte {
	t.Helper()
	f := open(t, fs, path)
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	must(t, err)
	return b
}

// write makes a file.
func write(t testing.TB, b []byte, path ...string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(path...), b, 0o644))
}

// countingReader counts the bytes that are read.
type countingReader struct {
	r io.ReaderAt
	n atomic.Int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n.Add(int64(n))
	return n, err
}
