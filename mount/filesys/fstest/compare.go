package fstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

// Ignore says what Compare must not expect to be equal. The zero value
// compares everything.
type Ignore struct {
	Inodes  bool // inode numbers
	Links   bool // link counts of directories
	DirSize bool // sizes of directories
	Blocks  bool // space taken
	Holes   bool // where data is and where not
	Owners  bool
	Times   bool // all times
	Nanos   bool // the part of a time below one second
	Atime   bool
	// CtimeBtime are the times that cannot be set, so that a copy differs.
	CtimeBtime bool
	Xattrs     bool
	// Names are not looked at where they stand, at any depth.
	Names []string
}

// wholeFile is the size up to which files are read whole; of larger ones only
// the data, and samples of the holes.
const wholeFile = 4 << 20

// comparer walks two trees in step.
type comparer struct {
	t      testing.TB
	fs     filesys.FS
	dir    string
	ignore Ignore
	rand   *rand.Rand
	linked map[uint64]bool // inodes compared already
	// got and want are buffers for contents.
	got, want, stale []byte
	errs             int
}

// Compare fails t wherever what fs tells differs from what the kernel tells
// about dir.
func Compare(t testing.TB, fs filesys.FS, dir string, ignore Ignore) {
	t.Helper()
	seed := rand.Uint64()
	c := &comparer{t: t, fs: fs, dir: dir, ignore: ignore, linked: map[uint64]bool{},
		rand: rand.New(rand.NewPCG(seed, 0)),
		got:  make([]byte, 1<<20), want: make([]byte, 1<<20), stale: bytes.Repeat([]byte{0xA5}, 1<<20)}
	c.inode("", fs.Root())
	c.directory("", fs.Root(), fs.Root())
	if c.errs > 0 {
		t.Logf("seed %d", seed)
	}
}

func (c *comparer) errorf(path, format string, args ...any) {
	c.t.Helper()
	if c.errs++; c.errs == 40 {
		c.t.Fatal("too many differences")
	}
	if len(path) > 120 {
		path = path[:100] + "…"
	}
	c.t.Errorf("%q: %s", path, fmt.Sprintf(format, args...))
}

func (c *comparer) directory(path string, ino, parent uint64) {
	entries, ok := c.readDir(path, ino)
	if !ok {
		return
	}
	if p, err := c.fs.Parent(ino); err != nil || p != parent {
		c.errorf(path, "parent is %d, %v, want %d", p, err, parent)
	}
	d, err := os.Open(filepath.Join(c.dir, path))
	if err != nil {
		c.t.Fatal(err)
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, name := range names {
		e, ok := entries[name]
		if !ok {
			c.errorf(filepath.Join(path, name), "missing")
			continue
		}
		delete(entries, name)
		if slices.Contains(c.ignore.Names, name) {
			continue
		}
		c.entry(path+"/"+name, name, ino, e)
	}
	for name := range entries {
		c.errorf(path+"/"+name, "should not be there")
	}
	if _, err := c.fs.Lookup(ino, "no such name"); !errors.Is(err, filesys.ErrNotExist) {
		c.errorf(path, "lookup of an absent name: %v", err)
	}
}

func (c *comparer) entry(path, name string, dir uint64, e filesys.DirEntry) {
	ino, err := c.fs.Lookup(dir, name)
	if err != nil || ino != e.Ino {
		c.errorf(path, "lookup gives inode %d, %v; the directory %d", ino, err, e.Ino)
		return
	}
	mode := c.inode(path, ino)
	if e.Type != 0 && mode != 0 && e.Type != mode&filesys.TypeMask {
		c.errorf(path, "entry has type %o, inode %o", e.Type, mode)
	}
	if mode&filesys.TypeMask == filesys.TypeDir {
		c.directory(path, ino, dir)
	}
}

// readDir reads a directory whole, and again from some of its cookies.
func (c *comparer) readDir(path string, ino uint64) (map[string]filesys.DirEntry, bool) {
	var list []filesys.DirEntry
	read := func(cookie uint64, n int) (part []filesys.DirEntry) {
		err := c.fs.ReadDir(ino, cookie, func(e filesys.DirEntry) bool {
			part = append(part, e)
			return len(part) != n
		})
		if err != nil {
			c.errorf(path, "read directory from %d: %v", cookie, err)
		}
		return part
	}
	errs := c.errs
	list = read(0, -1)
	if c.errs > errs {
		return nil, false
	}
	entries := map[string]filesys.DirEntry{}
	for _, e := range list {
		if _, ok := entries[e.Name]; ok || e.Next == 0 {
			c.errorf(path, "entry %q comes twice, or has no cookie", e.Name)
		}
		entries[e.Name] = e
	}
	for i := 0; i < len(list); i += 1 + len(list)/20 {
		n := min(3, len(list)-i-1)
		if n > 0 && !slices.Equal(read(list[i].Next, n), list[i+1:i+1+n]) {
			c.errorf(path, "goes on differently behind entry %d", i)
		}
	}
	if n := len(list); n > 0 && len(read(list[n-1].Next, -1)) > 0 {
		c.errorf(path, "goes on behind its last entry")
	}
	return entries, true
}

// inode compares everything that does not depend on the name, and gives the
// mode.
func (c *comparer) inode(path string, ino uint64) uint32 {
	full := c.dir + path
	a, err := c.fs.Attr(ino)
	if err != nil {
		c.errorf(path, "attributes: %v", err)
		return 0
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, full, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_SYNC_AS_STAT, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		c.t.Fatalf("statx %s: %v", full, err)
	}
	isDir := a.Mode&filesys.TypeMask == filesys.TypeDir
	check := func(what string, got, want any, ignored bool) {
		if !ignored && got != want {
			c.errorf(path, "%s is %v, want %v", what, got, want)
		}
	}
	ig := c.ignore
	check("inode", a.Ino, st.Ino, ig.Inodes)
	check("number", a.Ino, ino, false)
	check("mode", a.Mode, uint32(st.Mode), false)
	check("link count", a.Nlink, st.Nlink, isDir && ig.Links)
	check("uid", a.UID, st.Uid, ig.Owners)
	check("gid", a.GID, st.Gid, ig.Owners)
	check("size", a.Size, int64(st.Size), isDir && ig.DirSize)
	check("blocks", a.Blocks, int64(st.Blocks), ig.Blocks)
	check("device", a.Rdev, unix.Mkdev(st.Rdev_major, st.Rdev_minor), false)
	c.time(path, "mtime", a.Mtime, st.Mtime, ig.Times)
	c.time(path, "atime", a.Atime, st.Atime, ig.Times || ig.Atime)
	c.time(path, "ctime", a.Ctime, st.Ctime, ig.Times || ig.CtimeBtime)
	if st.Mask&unix.STATX_BTIME != 0 {
		c.time(path, "btime", a.Btime, st.Btime, ig.Times || ig.CtimeBtime)
	} else if !a.Btime.IsZero() && !ig.CtimeBtime {
		c.errorf(path, "btime is %v, want none", a.Btime)
	}
	if c.linked[ino] {
		return a.Mode // another name for what was compared before
	}
	c.linked[ino] = true
	if !ig.Xattrs {
		c.xattrs(path, ino)
	}
	switch a.Mode & filesys.TypeMask {
	case filesys.TypeSymlink:
		want, err := os.Readlink(full)
		if err != nil {
			c.t.Fatal(err)
		}
		if got, err := c.fs.Readlink(ino); err != nil || got != want {
			c.errorf(path, "target is %q, %v, want %q", got, err, want)
		}
	case filesys.TypeRegular:
		c.content(path, ino)
	}
	return a.Mode
}

func (c *comparer) time(path, what string, got time.Time, want unix.StatxTimestamp, ignored bool) {
	w := time.Unix(want.Sec, int64(want.Nsec))
	if c.ignore.Nanos {
		got, w = got.Truncate(time.Second), w.Truncate(time.Second)
	}
	if !ignored && !got.Equal(w) {
		c.errorf(path, "%s is %v, want %v", what, got.UTC(), w.UTC())
	}
}

func (c *comparer) xattrs(path string, ino uint64) {
	full := c.dir + path
	buf := c.want[:1<<12]
	n, err := unix.Llistxattr(full, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = c.want[:1<<16]
		n, err = unix.Llistxattr(full, buf)
	}
	if err != nil {
		c.t.Fatalf("list attributes of %s: %v", full, err)
	}
	want := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	if n == 0 {
		want = nil
	}
	got, err := c.fs.Xattrs(ino)
	if err != nil {
		c.errorf(path, "attributes: %v", err)
		return
	}
	got = slices.Sorted(slices.Values(got))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		c.errorf(path, "attributes are %q, want %q", got, want)
		return
	}
	for _, name := range want {
		buf := c.want[:1<<16]
		n, err := unix.Lgetxattr(full, name, buf)
		if err != nil {
			c.t.Fatalf("attribute %s of %s: %v", name, full, err)
		}
		v, err := c.fs.Xattr(ino, name)
		if err != nil || !bytes.Equal(v, buf[:n]) {
			c.errorf(path, "attribute %s is %q, %v, want %q", name, v, err, buf[:n])
		}
	}
	if _, err := c.fs.Xattr(ino, "user.no such attribute"); !errors.Is(err, filesys.ErrNoXattr) {
		c.errorf(path, "absent attribute: %v", err)
	}
}

// span is a range of bytes that holds data.
type span struct{ start, end int64 }

// content compares holes first: reading a file may make the kernel forget where
// they are.
func (c *comparer) content(path string, ino uint64) {
	k, err := os.Open(c.dir + path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer k.Close()
	f, err := c.fs.Open(ino)
	if err != nil {
		c.errorf(path, "open: %v", err)
		return
	}
	size, err := k.Seek(0, io.SeekEnd)
	if err != nil || f.Size() != size {
		c.errorf(path, "content of %d bytes, want %d, %v", f.Size(), size, err)
		return
	}
	want := kernelSpans(c.t, k, size)
	got, err := readerSpans(f)
	if err != nil {
		c.errorf(path, "extents: %v", err)
		return
	}
	if !c.ignore.Holes && !slices.Equal(got, want) {
		c.errorf(path, "data at %v, want %v", got, want)
	}
	if size <= wholeFile {
		c.bytes(path, f, k, 0, size)
	} else {
		for _, s := range want {
			c.bytes(path, f, k, max(0, s.start-5000), min(size, s.end+5000))
		}
		for range 20 {
			off := c.rand.Int64N(size)
			c.bytes(path, f, k, off, min(size, off+10000))
		}
	}
	for range 5 {
		off := c.rand.Int64N(size + 1)
		c.bytes(path, f, k, off, min(size, off+c.rand.Int64N(1+min(size, 100000))))
	}
	if n, err := f.ReadAt(make([]byte, 10), size); n != 0 || err != io.EOF {
		c.errorf(path, "read behind the end: %d, %v", n, err)
	}
	if p := make([]byte, 10); size >= 3 {
		if n, err := f.ReadAt(p, size-3); n != 3 || err != io.EOF {
			c.errorf(path, "read across the end: %d, %v", n, err)
		}
	}
}

// bytes compares the bytes from off to end.
func (c *comparer) bytes(path string, f filesys.File, k *os.File, off, end int64) {
	got, want := c.got, c.want
	for off < end {
		n := min(int64(len(got)), end-off)
		copy(got[:n], c.stale) // nothing may be left of it
		if m, err := f.ReadAt(got[:n], off); int64(m) != n || err != nil && err != io.EOF {
			c.errorf(path, "read %d bytes at %d: %d, %v", n, off, m, err)
			return
		}
		if _, err := k.ReadAt(want[:n], off); err != nil {
			c.t.Fatalf("read %s at %d: %v", k.Name(), off, err)
		}
		if !bytes.Equal(got[:n], want[:n]) {
			i := 0
			for got[i] == want[i] {
				i++
			}
			c.errorf(path, "byte %d is %02x, want %02x", off+int64(i), got[i], want[i])
			return
		}
		off += n
	}
}

// kernelSpans asks SEEK_DATA and SEEK_HOLE where a file has data.
func kernelSpans(t testing.TB, f *os.File, size int64) (list []span) {
	for off := int64(0); off < size; {
		start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			t.Fatalf("SEEK_DATA in %s: %v", f.Name(), err)
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			t.Fatalf("SEEK_HOLE in %s: %v", f.Name(), err)
		}
		list = append(list, span{start, end})
		off = end
	}
	return list
}

// readerSpans asks Extent the same.
func readerSpans(f filesys.File) (list []span, err error) {
	size := f.Size()
	for off := int64(0); off < size; {
		data, n, err := f.Extent(off)
		if err != nil {
			return nil, err
		}
		if n < 1 || n > size-off {
			return nil, fmt.Errorf("extent at %d of %d has length %d", off, size, n)
		}
		if last := len(list) - 1; data && last >= 0 && list[last].end == off {
			list[last].end += n
		} else if data {
			list = append(list, span{off, off + n})
		}
		off += n
	}
	return list, nil
}

// CompareStatfs compares sizes and free space with what statfs tells about the
// mount at dir.
func CompareStatfs(t testing.TB, fs filesys.FS, dir string) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	info := fs.Info()
	for _, c := range []struct {
		what      string
		got, want int64
	}{
		{"block size", int64(info.BlockSize), st.Bsize},
		{"size", info.Size, int64(st.Blocks) * st.Bsize},
		{"free", info.Free, int64(st.Bfree) * st.Bsize},
		{"available", info.Available, int64(st.Bavail) * st.Bsize},
		{"inodes", int64(info.Files), int64(st.Files)},
		{"free inodes", int64(info.FilesFree), int64(st.Ffree)},
		{"longest name", int64(info.NameMax), st.Namelen},
	} {
		if c.got != c.want {
			t.Errorf("statfs: %s is %d, want %d (off by %d)", c.what, c.got, c.want, c.got-c.want)
		}
	}
}
