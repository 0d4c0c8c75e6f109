package fstest

import (
	"errors"
	"flag"
	"io"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

// exerciser walks a volume of which nothing is known.
type exerciser struct {
	t     testing.TB
	fs    filesys.FS
	calls int // that may still be made
	buf   []byte
}

// Exercise calls everything fs offers, on everything reachable from its root,
// in at most so many calls. It fails t where an answer breaks a rule of package
// filesys: an error without one of its sentinels, a name that breaks paths, a
// read that is short without an error, an extent without a length. What the
// answers are is not its business: the volume may be damaged in any way. Under
// the fuzzer it fails t as well when fs keeps more than 64 MiB.
func Exercise(t testing.TB, fs filesys.FS, calls int) {
	t.Helper()
	defer checkMemory(t, fs)
	x := &exerciser{t: t, fs: fs, calls: calls, buf: make([]byte, 64<<10)}
	info := x.fs.Info()
	if b, ok := x.fs.(filesys.Briefer); ok {
		brief := b.Brief()
		if brief.Type != info.Type || brief.Label != info.Label || brief.UUID != info.UUID || brief.BlockSize != info.BlockSize || brief.NameMax != info.NameMax {
			t.Errorf("brief description %+v, whole %+v", brief, info)
		}
	}
	todo, seen := []uint64{fs.Root()}, map[uint64]bool{fs.Root(): true}
	for len(todo) > 0 && x.calls > 0 {
		ino := todo[0]
		todo = todo[1:]
		for _, child := range x.inode(ino) {
			if !seen[child] {
				seen[child] = true
				todo = append(todo, child)
			}
		}
	}
	for _, ino := range []uint64{0, 1, 1 << 31, 1 << 32, 1<<64 - 1} {
		if _, err := fs.Attr(ino); err == nil && !seen[ino] && ino != 1 {
			t.Errorf("there is an inode %d", ino)
		}
	}
}

// ok says whether a call succeeded, and checks its error if not.
func (x *exerciser) ok(what string, err error) bool {
	x.t.Helper()
	x.calls--
	if err == nil {
		return true
	}
	for _, sentinel := range []error{filesys.ErrNotExist, filesys.ErrNotDir, filesys.ErrIsDir, filesys.ErrInvalid,
		filesys.ErrNoXattr, filesys.ErrCorrupt, filesys.ErrUnsupported, filesys.ErrWrongType} {
		if errors.Is(err, sentinel) {
			return false
		}
	}
	x.t.Errorf("%s: an error of no known kind: %v", what, err)
	return false
}

// inode calls all that suits the type of an inode, and some that does not. It
// gives the inodes that its entries name.
func (x *exerciser) inode(ino uint64) (children []uint64) {
	a, err := x.fs.Attr(ino)
	if !x.ok("attr", err) {
		return nil
	}
	if a.Ino != ino || a.Size < 0 || a.Blocks < 0 {
		x.t.Errorf("attributes of inode %d: %+v", ino, a)
	}
	names, err := x.fs.Xattrs(ino)
	if x.ok("xattrs", err) {
		for _, name := range names[:min(len(names), 20)] {
			_, err := x.fs.Xattr(ino, name)
			x.ok("xattr", err)
		}
	}
	target, err := x.fs.Readlink(ino)
	if x.ok("readlink", err) && (target == "" || a.Mode&filesys.TypeMask != filesys.TypeSymlink) {
		x.t.Errorf("readlink of inode %d with mode %o: %q", ino, a.Mode, target)
	}
	f, err := x.fs.Open(ino)
	if x.ok("open", err) {
		if f.Size() != a.Size {
			x.t.Errorf("size of inode %d is %d and %d", ino, f.Size(), a.Size)
		}
		x.file(f)
	}
	_, err = x.fs.Parent(ino)
	x.ok("parent", err)
	return x.directory(ino)
}

func (x *exerciser) file(f filesys.File) {
	size := f.Size()
	for off, n := int64(0), 0; off < size && n < 30; n++ {
		_, length, err := f.Extent(off)
		if !x.ok("extent", err) {
			break
		}
		if length < 1 || length > size-off {
			x.t.Fatalf("extent at %d of %d has length %d", off, size, length)
		}
		x.read(f, off)
		off += length
	}
	for _, off := range []int64{0, size / 3, size - 1000, size - 1, size, size + 1, 1 << 62} {
		x.read(f, max(0, off))
	}
}

func (x *exerciser) read(f filesys.File, off int64) {
	n, err := f.ReadAt(x.buf, off)
	if err == io.EOF {
		if want := max(0, min(int64(len(x.buf)), f.Size()-off)); int64(n) != want {
			x.t.Errorf("end of file after %d bytes at %d, want %d", n, off, want)
		}
		x.calls--
		return
	}
	if x.ok("read", err) && n != len(x.buf) {
		x.t.Errorf("read %d bytes at %d without an error", n, off)
	}
}

func (x *exerciser) directory(ino uint64) (children []uint64) {
	var entries []filesys.DirEntry
	err := x.fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
		if e.Name == "" || e.Name == "." || e.Name == ".." || len(e.Name) > 4*unix.PathMax || e.Next == 0 {
			x.t.Errorf("entry %+v", e)
		}
		for _, c := range []byte(e.Name) {
			if c == 0 || c == '/' {
				x.t.Errorf("entry %+v", e)
			}
		}
		entries = append(entries, e)
		return len(entries) < 500
	})
	x.ok("readdir", err)
	for i, e := range entries {
		if x.calls < 0 {
			break
		}
		found, err := x.fs.Lookup(ino, e.Name)
		if x.ok("lookup", err) && found == 0 {
			x.t.Errorf("lookup of %q gives inode 0", e.Name)
		}
		children = append(children, e.Ino)
		if i%50 == 0 {
			x.ok("readdir", x.fs.ReadDir(ino, e.Next, func(filesys.DirEntry) bool { return false }))
		}
	}
	_, err = x.fs.Lookup(ino, "absent")
	x.ok("lookup", err)
	return children
}

// memoryMax is how much a reader may keep, whatever the volume claims.
const memoryMax = 64 << 20

// before is what a fuzzer's worker, which runs one target and no other test,
// kept when the first volume had been looked at.
var before atomic.Int64

// checkMemory measures what is kept while fs still is.
func checkMemory(t testing.TB, fs filesys.FS) {
	t.Helper()
	if f := flag.Lookup("test.fuzzworker"); f == nil || f.Value.String() != "true" {
		return
	}
	kept := heap()
	if before.CompareAndSwap(0, kept) || kept-before.Load() <= memoryMax {
		return
	}
	runtime.GC()
	if kept = heap(); kept-before.Load() > memoryMax {
		t.Errorf("the reader keeps %d MiB", (kept-before.Load())>>20)
	}
	runtime.KeepAlive(fs)
}

func heap() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}
