package fstest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

// mirror shows a directory of this machine as a filesys.FS, except for what a
// test makes it lie about.
type mirror struct {
	filesys.FS // what Compare does not call
	root       string
	paths      map[uint64]string
	lie        string // the path to lie about
	attr       func(*filesys.Attr)
	data       func([]byte)
	hole       bool
	xattr      []byte
	target     string
	hide       bool
	extra      bool
}

func newMirror(root string) *mirror { return &mirror{root: root, paths: map[uint64]string{1: ""}} }

func (m *mirror) Root() uint64 { return m.ino("") }

func (m *mirror) stat(path string) (st unix.Statx_t) {
	_ = unix.Statx(unix.AT_FDCWD, m.root+path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	return st
}

func (m *mirror) ino(path string) uint64 {
	ino := m.stat(path).Ino
	m.paths[ino] = path
	return ino
}

func (m *mirror) Attr(ino uint64) (filesys.Attr, error) {
	st := m.stat(m.paths[ino])
	at := func(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }
	a := filesys.Attr{Ino: ino, Mode: uint32(st.Mode), Nlink: st.Nlink, UID: st.Uid, GID: st.Gid, Size: int64(st.Size),
		Rdev: unix.Mkdev(st.Rdev_major, st.Rdev_minor), Blocks: int64(st.Blocks),
		Atime: at(st.Atime), Mtime: at(st.Mtime), Ctime: at(st.Ctime)}
	if st.Mask&unix.STATX_BTIME != 0 {
		a.Btime = at(st.Btime)
	}
	if m.attr != nil && m.paths[ino] == m.lie {
		m.attr(&a)
	}
	return a, nil
}

func (m *mirror) Lookup(dir uint64, name string) (uint64, error) {
	if _, err := os.Lstat(filepath.Join(m.root, m.paths[dir], name)); err != nil {
		return 0, filesys.ErrNotExist
	}
	return m.ino(m.paths[dir] + "/" + name), nil
}

func (m *mirror) ReadDir(dir, cookie uint64, fn func(filesys.DirEntry) bool) error {
	entries, err := os.ReadDir(m.root + m.paths[dir])
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if path := m.paths[dir] + "/" + e.Name(); path != m.lie || !m.hide {
			names = append(names, e.Name())
		}
	}
	if m.extra && dir == m.Root() {
		names = append(names, "extra")
	}
	for i := int(cookie); i < len(names); i++ {
		if !fn(filesys.DirEntry{Name: names[i], Ino: m.ino(m.paths[dir] + "/" + names[i]), Next: uint64(i + 1)}) {
			break
		}
	}
	return nil
}

func (m *mirror) Parent(dir uint64) (uint64, error) {
	if dir == m.Root() {
		return dir, nil
	}
	return m.ino(strings.TrimSuffix(filepath.Dir(m.paths[dir]), "/")), nil
}

func (m *mirror) Readlink(ino uint64) (string, error) {
	if m.target != "" {
		return m.target, nil
	}
	return os.Readlink(m.root + m.paths[ino])
}

func (m *mirror) Xattrs(ino uint64) ([]string, error) {
	if m.paths[ino] == "/file" {
		return []string{"user.x"}, nil
	}
	return nil, nil
}

func (m *mirror) Xattr(_ uint64, name string) ([]byte, error) {
	if name != "user.x" {
		return nil, filesys.ErrNoXattr
	}
	return m.xattr, nil
}

func (m *mirror) Open(ino uint64) (filesys.File, error) {
	b, err := os.ReadFile(m.root + m.paths[ino])
	if m.data != nil && m.paths[ino] == m.lie {
		m.data(b)
	}
	return &mirrorFile{b, m.hole && m.paths[ino] == m.lie}, err
}

type mirrorFile struct {
	b    []byte
	hole bool
}

func (f *mirrorFile) Size() int64 { return int64(len(f.b)) }
func (f *mirrorFile) Extent(off int64) (bool, int64, error) {
	return !f.hole, int64(len(f.b)) - off, nil
}
func (f *mirrorFile) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, f.b[min(off, int64(len(f.b))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// listener is a testing.TB that only takes notes.
type listener struct {
	testing.TB
	errs []string
}

func (l *listener) Errorf(format string, args ...any) {
	l.errs = append(l.errs, fmt.Sprintf(format, args...))
}
func (l *listener) Logf(string, ...any) {}

// TestCompare: the comparison sees what differs, and nothing else.
func TestCompare(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/d/e", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/file", "/d/inner", "/d/other"} {
		if err := os.WriteFile(dir+name, make([]byte, 20000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("target", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir+"/file", "user.x", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	lies := map[string]func(m *mirror){
		"mode":     func(m *mirror) { m.attr = func(a *filesys.Attr) { a.Mode ^= 1 } },
		"links":    func(m *mirror) { m.attr = func(a *filesys.Attr) { a.Nlink++ } },
		"uid":      func(m *mirror) { m.attr = func(a *filesys.Attr) { a.UID++ } },
		"gid":      func(m *mirror) { m.attr = func(a *filesys.Attr) { a.GID++ } },
		"blocks":   func(m *mirror) { m.attr = func(a *filesys.Attr) { a.Blocks++ } },
		"mtime":    func(m *mirror) { m.attr = func(a *filesys.Attr) { a.Mtime = a.Mtime.Add(1) } },
		"ctime":    func(m *mirror) { m.attr = func(a *filesys.Attr) { a.Ctime = a.Ctime.Add(1) } },
		"btime":    func(m *mirror) { m.attr = func(a *filesys.Attr) { a.Btime = a.Btime.Add(1) } },
		"size":     func(m *mirror) { m.attr = func(a *filesys.Attr) { a.Size++ } },
		"device":   func(m *mirror) { m.attr = func(a *filesys.Attr) { a.Rdev++ } },
		"a byte":   func(m *mirror) { m.data = func(b []byte) { b[len(b)-1] = 1 } },
		"hole":     func(m *mirror) { m.hole = true },
		"xattr":    func(m *mirror) { m.xattr = []byte("other") },
		"link":     func(m *mirror) { m.target = "elsewhere" },
		"missing":  func(m *mirror) { m.hide = true },
		"too many": func(m *mirror) { m.extra = true },
	}
	for name, lie := range lies {
		m := newMirror(dir)
		m.lie, m.xattr = "/d/inner", []byte("value")
		lie(m)
		l := &listener{TB: t}
		Compare(l, m, dir, Ignore{})
		if len(l.errs) == 0 {
			t.Errorf("%s: no difference was found", name)
		}
	}
	m := newMirror(dir)
	m.xattr = []byte("value")
	l := &listener{TB: t}
	Compare(l, m, dir, Ignore{})
	if len(l.errs) > 0 {
		t.Errorf("differences where there are none: %q", slices.Clip(l.errs))
	}
}
