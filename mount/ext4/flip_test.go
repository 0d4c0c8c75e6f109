package ext4_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// snapshot is what a walk through a volume shows: a digest for every path, or
// the error that stands in its way.
type snapshot struct {
	digests map[string]string
	errs    map[string]error
}

// take walks fs. Without contents, nothing but metadata is read.
func take(fs filesys.FS, contents bool) snapshot {
	s := snapshot{map[string]string{}, map[string]error{}}
	var visit func(path string, ino uint64)
	visit = func(path string, ino uint64) {
		a, err := fs.Attr(ino)
		if err != nil {
			s.errs[path] = err
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
					s.errs[path+"/"+e.name] = lookupErr
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
			s.errs[path] = err
			return
		}
		s.digests[path] = fmt.Sprintf("%x", h.Sum(nil))
	}
	visit("", fs.Root())
	return s
}

// excused says whether an error was reported on the way to path.
func (s snapshot) excused(path string) bool {
	for {
		if s.errs[path] != nil {
			return true
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return false
		}
		path = path[:i]
	}
}

// TestFlippedBits: with metadata_csum, no flipped bit in what a reader reads of
// the metadata changes an answer in silence. An answer may turn into an error,
// and only into one that says so.
func TestFlippedBits(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, args := range []string{
		"-t ext4 -b 1024 -N 2000 -O ea_inode,inline_data", "-t ext4 -b 4096 -N 2000 -O ^has_journal,metadata_csum_seed",
	} {
		image := mke2fs(t, 12<<20, strings.Fields(args)...)
		dir, unmount := fstest.Mount(t, image, "ext4", false, "")
		p := &tree{TB: t, root: dir, block: 1024, rand: rand.NewChaCha8([32]byte{3}), prealloc: true, xattrMax: 800}
		p.names()
		p.sizes()
		p.preallocated()
		p.links()
		p.xattrs()
		d := p.dir("indexed")
		for i := range 150 {
			p.check(os.Link(p.path("names/plain"), p.path(fmt.Sprintf("%s/%d with a name", d, i))))
		}
		unmount()
		b, err := os.ReadFile(image)
		must(t, err)

		rec := &recorder{r: bytes.NewReader(b), read: map[int64]int{}}
		fs, err := ext4.Open(rec, int64(len(b)))
		must(t, err)
		take(fs, false)
		want := take(fs, true)
		if len(want.errs) > 0 {
			t.Fatalf("the sound volume has errors: %v", want.errs)
		}
		// What was read before contents were read is metadata.
		rec.read = map[int64]int{}
		fs, err = ext4.Open(rec, int64(len(b)))
		must(t, err)
		take(fs, false)
		metadata := rec.offsets()
		found := 0
		for range 40 {
			off := metadata[random.IntN(len(metadata))] + random.Int64N(1024)
			bit := byte(1) << random.IntN(8)
			b[off] ^= bit
			fs, err := ext4.Open(bytes.NewReader(b), int64(len(b)))
			if err == nil {
				got := take(fs, true)
				for path, digest := range want.digests {
					if got.digests[path] != digest && !got.excused(path) {
						t.Errorf("%s: bit %#x of byte %d flipped: %.200q differs in silence (seed %d)", args, bit, off, path, seed)
						break
					}
				}
				for path := range got.digests {
					if _, ok := want.digests[path]; !ok {
						t.Errorf("%s: bit %#x of byte %d flipped: %.200q appears", args, bit, off, path)
					}
				}
				for path, err := range got.errs {
					if found++; !errors.Is(err, filesys.ErrCorrupt) {
						t.Errorf("%s: bit %#x of byte %d flipped: %.200q: %v", args, bit, off, path, err)
					}
				}
			} else if found++; !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("%s: bit %#x of byte %d flipped: %v", args, bit, off, err)
			}
			b[off] ^= bit
		}
		if found == 0 {
			t.Error("no flipped bit was found")
		}
	}
}
