package fstest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"cairn/mount/filesys"
)

// Snapshot is what a walk through a volume shows: a digest for every path, or
// the error that stands in its way.
type Snapshot struct {
	Digests map[string]string
	Errs    map[string]error
}

// TakeSnapshot walks fs. Without contents, nothing but metadata is read: no
// symlink and no file.
func TakeSnapshot(fs filesys.FS, contents bool) Snapshot {
	s := Snapshot{map[string]string{}, map[string]error{}}
	var visit func(path string, ino uint64)
	visit = func(path string, ino uint64) {
		a, err := fs.Attr(ino)
		if err != nil {
			s.Errs[path] = err
			return
		}
		h := sha256.New()
		fmt.Fprint(h, a)
		names, err := fs.Xattrs(ino)
		for _, name := range names {
			var v []byte
			if v, err = fs.Xattr(ino, name); err != nil {
				break
			}
			fmt.Fprintf(h, "%s=%q", name, v)
		}
		switch {
		case err != nil:
		case a.Mode&filesys.TypeMask == filesys.TypeDir:
			type entry struct {
				name string
				ino  uint64
			}
			var entries []entry
			err = fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
				entries = append(entries, entry{e.Name, e.Ino})
				return true
			})
			for _, e := range entries {
				found, lookupErr := fs.Lookup(ino, e.name)
				if lookupErr == nil && found != e.ino {
					lookupErr = fmt.Errorf("lookup gives %d, directory %d", found, e.ino)
				}
				if lookupErr != nil {
					s.Errs[path+"/"+e.name] = lookupErr
				}
				visit(path+"/"+e.name, e.ino)
			}
		case a.Mode&filesys.TypeMask == filesys.TypeSymlink && contents:
			var target string
			target, err = fs.Readlink(ino)
			fmt.Fprint(h, target)
		case a.Mode&filesys.TypeMask == filesys.TypeRegular:
			var f filesys.File
			if f, err = fs.Open(ino); err != nil {
				break
			}
			for off := int64(0); off < f.Size() && err == nil; {
				var n int64
				_, n, err = f.Extent(off)
				off += n
			}
			if contents && err == nil {
				_, err = io.Copy(h, io.NewSectionReader(f, 0, min(f.Size(), 1<<17)))
			}
		}
		if err != nil {
			s.Errs[path] = err
			return
		}
		s.Digests[path] = fmt.Sprintf("%x", h.Sum(nil))
	}
	visit("", fs.Root())
	return s
}

// Excused says whether an error was reported on the way to path.
func (s Snapshot) Excused(path string) bool {
	for {
		if s.Errs[path] != nil {
			return true
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return false
		}
		path = path[:i]
	}
}

// FlipBits flips, one after the other, n random bits of image, in what is read
// of its metadata or, with contents, of anything, and fails t where an answer
// then differs from that of the sound volume without an error: it is for formats
// that have checksums over all of that. An error may only say ErrCorrupt.
func FlipBits(t *testing.T, image []byte, open func(r io.ReaderAt, size int64) (filesys.FS, error), contents bool, n int, seed uint64) {
	t.Helper()
	size := int64(len(image))
	random := rand.New(rand.NewPCG(seed, 0))
	fs, err := open(bytes.NewReader(image), size)
	if err != nil {
		t.Fatal(err)
	}
	want := TakeSnapshot(fs, true)
	if len(want.Errs) > 0 {
		t.Fatalf("the sound volume has errors: %v", want.Errs)
	}
	rec := NewRecorder(bytes.NewReader(image))
	if fs, err = open(rec, size); err != nil {
		t.Fatal(err)
	}
	TakeSnapshot(fs, contents)
	read := rec.Offsets()
	found := 0
	for range n {
		off := read[random.IntN(len(read))] + random.Int64N(1024)
		if off >= size {
			continue
		}
		bit := byte(1) << random.IntN(8)
		flipped := fmt.Sprintf("bit %#x of byte %d flipped (seed %d)", bit, off, seed)
		image[off] ^= bit
		fs, err := open(bytes.NewReader(image), size)
		if err == nil {
			got := TakeSnapshot(fs, true)
			for path, digest := range want.Digests {
				if got.Digests[path] != digest && !got.Excused(path) {
					t.Errorf("%s: %.200q differs in silence", flipped, path)
					break
				}
			}
			for path := range got.Digests {
				if _, ok := want.Digests[path]; !ok {
					t.Errorf("%s: %.200q appears", flipped, path)
				}
			}
			for path, err := range got.Errs {
				if found++; !errors.Is(err, filesys.ErrCorrupt) {
					t.Errorf("%s: %.200q: %v", flipped, path, err)
				}
			}
		} else if found++; !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%s: %v", flipped, err)
		}
		image[off] ^= bit
	}
	if found == 0 {
		t.Error("no flipped bit was found")
	}
}

// Recorder notes which bytes of a volume are read.
type Recorder struct {
	r    io.ReaderAt
	mu   sync.Mutex
	read map[int64]int // offset to length
}

// NewRecorder makes a Recorder over r.
func NewRecorder(r io.ReaderAt) *Recorder { return &Recorder{r: r, read: map[int64]int{}} }

// ReadAt implements io.ReaderAt.
func (r *Recorder) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	r.read[off] = max(r.read[off], len(p))
	r.mu.Unlock()
	return r.r.ReadAt(p, off)
}

// Offsets are those of every KiB that was read, in order.
func (r *Recorder) Offsets() (list []int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, off := range slices.Sorted(maps.Keys(r.read)) {
		for n := r.read[off]; n > 0; n, off = n-1024, off+1024 {
			list = append(list, off)
		}
	}
	return slices.Compact(list)
}

// Bytes is how many bytes were read, those read again counted once.
func (r *Recorder) Bytes() (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.read {
		n += int64(l)
	}
	return n
}

// SeedImage reads the volume testdata/NAME.img.gz.
func SeedImage(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".img.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// WriteSeedImage makes testdata/NAME.img.gz.
func WriteSeedImage(t testing.TB, name string, image []byte) {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(image); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name+".img.gz"), out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
