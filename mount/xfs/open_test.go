package xfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
)

// small makes a volume of 16 MiB with a few files and gives its bytes.
func small(t testing.TB, args string, fill func(dir string)) []byte {
	t.Helper()
	b, err := os.ReadFile(made(t, 16, "-d agcount=1 "+args, fill))
	must(t, err)
	return b
}

func put16(off int, v uint16) func(b []byte) { return func(b []byte) { be.PutUint16(b[off:], v) } }
func put32(off int, v uint32) func(b []byte) { return func(b []byte) { be.PutUint32(b[off:], v) } }
func put64(off int, v uint64) func(b []byte) { return func(b []byte) { be.PutUint64(b[off:], v) } }
func put8(off int, v byte) func(b []byte)    { return func(b []byte) { b[off] = v } }
func or32(off int, v uint32) func(b []byte) {
	return func(b []byte) { be.PutUint32(b[off:], be.Uint32(b[off:])|v) }
}

// sealSuper gives the superblock its checksum.
func sealSuper(b []byte) { le.PutUint32(b[224:], crc(b[:be.Uint16(b[102:])], 224)) }

// TestOpenErrors: what cannot be opened is refused with the right sentinel and
// the reason by name.
func TestOpenErrors(t *testing.T) {
	good := small(t, "", func(string) {})
	v4, err := os.ReadFile(mkfs(t, 16, "-d agcount=1 -m crc=0"))
	must(t, err)
	for _, c := range []struct {
		name  string
		image []byte // good if nil
		edit  func(b []byte)
		raw   bool // no new checksum
		cut   int
		err   error
		match string
	}{
		{name: "empty volume", cut: -1, err: filesys.ErrWrongType},
		{name: "shorter than a superblock", cut: 300, err: filesys.ErrWrongType},
		{name: "no magic number", edit: put32(0, 0), err: filesys.ErrWrongType, match: "no XFS superblock"},
		{name: "truncated", cut: 1 << 20, err: filesys.ErrCorrupt, match: "truncated"},
		{name: "checksum", edit: put8(110, 'x'), raw: true, err: filesys.ErrCorrupt, match: "checksum"},
		{name: "unknown features", edit: or32(216, 0x80008000), err: filesys.ErrUnsupported,
			match: "incompatible feature 0x8000, incompatible feature 0x80000000"},
		{name: "needs repair", edit: or32(216, 0x10), err: filesys.ErrUnsupported, match: "needsrepair"},
		{name: "log elsewhere", edit: put64(48, 0), err: filesys.ErrUnsupported, match: "on another device"},
		{name: "log behind the end", edit: put32(96, 1<<24), err: filesys.ErrCorrupt, match: "log of"},
		{name: "version 3", image: v4, edit: put16(100, 3), err: filesys.ErrUnsupported, match: "version 3"},
		{name: "version 6", edit: put16(100, 6), err: filesys.ErrCorrupt},
		{name: "directories of version 1", image: v4, edit: put16(100, 0x9484), err: filesys.ErrUnsupported, match: "directories of version 1"},
		{name: "shared", image: v4, edit: put16(100, 0xB684), err: filesys.ErrUnsupported, match: "shared"},
		{name: "parent pointers of IRIX", image: v4, edit: or32(200, 0x10), err: filesys.ErrUnsupported, match: "IRIX"},
		{name: "unknown features of version 4", image: v4, edit: or32(200, 0x4000), err: filesys.ErrUnsupported, match: "version 4 extra feature 0x4000"},
		{name: "block size", edit: put32(4, 4000), err: filesys.ErrCorrupt},
		{name: "block bits", edit: put8(120, 200), err: filesys.ErrCorrupt},
		{name: "sector size", edit: put16(102, 0), raw: true, err: filesys.ErrCorrupt},
		{name: "inode size", edit: put16(104, 100), err: filesys.ErrCorrupt},
		{name: "inodes of 256 bytes", edit: func(b []byte) { put16(104, 256)(b); put8(122, 8)(b); put16(106, 16)(b); put8(123, 4)(b) }, err: filesys.ErrCorrupt},
		{name: "inodes in a block", edit: put16(106, 3), err: filesys.ErrCorrupt},
		{name: "directory blocks", edit: put8(192, 5), err: filesys.ErrCorrupt},
		{name: "directory blocks of 255 bits", edit: put8(192, 255), err: filesys.ErrCorrupt},
		{name: "no groups", edit: put32(88, 0), err: filesys.ErrCorrupt},
		{name: "many groups", edit: put32(88, 1<<32-1), err: filesys.ErrCorrupt},
		{name: "no blocks in a group", edit: put32(84, 0), err: filesys.ErrCorrupt},
		{name: "group bits", edit: put8(124, 31), err: filesys.ErrCorrupt},
		{name: "no blocks", edit: put64(8, 0), err: filesys.ErrCorrupt},
		{name: "too many blocks", edit: put64(8, 1<<60), err: filesys.ErrCorrupt},
		{name: "not finished", edit: put8(126, 1), err: filesys.ErrCorrupt, match: "never finished"},
		{name: "no root directory", edit: put64(56, 1<<64-1), err: filesys.ErrCorrupt},
		{name: "another root directory", edit: put64(56, 135), err: filesys.ErrCorrupt},
		{name: "another volume's metadata", edit: put32(32, 7), err: filesys.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			if c.image != nil {
				b = bytes.Clone(c.image)
			}
			if c.edit != nil {
				c.edit(b)
			}
			if !c.raw && be.Uint16(b[102:]) == 512 {
				sealSuper(b)
			}
			if c.cut != 0 {
				b = b[:max(0, c.cut)]
			}
			_, err := xfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
			if !errors.Is(err, c.err) || !strings.Contains(fmt.Sprint(err), c.match) {
				t.Errorf("error %v, want %v with %q", err, c.err, c.match)
			}
		})
	}
}

// TestIgnored: what IgnoreLog opens is not opened in silence.
func TestIgnored(t *testing.T) {
	good := small(t, "", func(dir string) { write(t, noise[:5000], dir, "file") })
	for match, edit := range map[string]func(b []byte){
		"The log is ignored": put64(48, 0),
		"needsrepair":        or32(216, 0x10),
	} {
		b := bytes.Clone(good)
		edit(b)
		sealSuper(b)
		if _, err := xfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{}); !strings.Contains(fmt.Sprint(err), "--ignore-log") {
			t.Errorf("%s: %v", match, err)
		}
		fs, err := xfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{IgnoreLog: true})
		must(t, err)
		if !bytes.Equal(content(t, fs, "file"), noise[:5000]) {
			t.Errorf("%s: wrong content", match)
		}
		if w := fs.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], match) {
			t.Errorf("%s: warnings: %q", match, w)
		}
	}
}

// TestUnreadableLog: a log that cannot be read does not keep a volume shut from
// whoever can do without.
func TestUnreadableLog(t *testing.T) {
	b := small(t, "", func(dir string) { write(t, noise[:5000], dir, "file") })
	start := int64(be.Uint64(b[48:])) << b[120]
	r := &unreadable{bytes.NewReader(b), start, start + int64(be.Uint32(b[96:]))<<b[120]}
	if _, err := xfs.Open(r, int64(len(b)), filesys.Options{}); !errors.Is(err, errUnreadable) || !strings.Contains(err.Error(), "--ignore-log") {
		t.Errorf("%v", err)
	}
	fs, err := xfs.Open(r, int64(len(b)), filesys.Options{IgnoreLog: true})
	must(t, err)
	if !bytes.Equal(content(t, fs, "file"), noise[:5000]) {
		t.Error("wrong content")
	}
	if w := fs.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], "log is ignored") || !strings.Contains(w[0], errUnreadable.Error()) {
		t.Errorf("warnings: %q", w)
	}
}

// TestUnreadableGroup: counters that could not be read for a while are read again.
func TestUnreadableGroup(t *testing.T) {
	b, err := os.ReadFile(made(t, 64, "-d agcount=2", func(dir string) { write(t, noise[:5000], dir, "file") }))
	must(t, err)
	second := int64(be.Uint32(b[84:])) << b[120]
	r := &unreadable{bytes.NewReader(b), second, second + 4096}
	fs, err := xfs.Open(r, int64(len(b)), filesys.Options{})
	must(t, err)
	info := fs.Info()
	if len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], errUnreadable.Error()) {
		t.Errorf("warnings: %q", info.Warnings)
	}
	r.end = 0
	want := openBytes(t, b).Info()
	if info = fs.Info(); info.Free != want.Free || len(info.Warnings) > 0 {
		t.Errorf("%+v, want %+v", info, want)
	}
}

var errUnreadable = errors.New("unreadable block")

// unreadable is a volume of which a part cannot be read.
type unreadable struct {
	r          io.ReaderAt
	start, end int64
}

func (u *unreadable) ReadAt(p []byte, off int64) (int, error) {
	if off < u.end && off+int64(len(p)) > u.start {
		return 0, errUnreadable
	}
	return u.r.ReadAt(p, off)
}

// TestUnknownReadOnlyFeature: features that only matter for writing do not keep
// a volume from being read.
func TestUnknownReadOnlyFeature(t *testing.T) {
	b := small(t, "", func(string) {})
	or32(212, 0x4000)(b)
	sealSuper(b)
	if w := strings.Join(openBytes(t, b).Info().Warnings, " "); !strings.Contains(w, "feature 0x4000") {
		t.Errorf("warnings: %s", w)
	}
}

// TestCopyOfSuperblock: a damaged superblock is replaced by its copy, with a
// warning; but not one that is not there at all.
func TestCopyOfSuperblock(t *testing.T) {
	for _, args := range []string{"", "-b size=1024 -d agcount=3", "-s size=4096"} {
		image := made(t, 64, args, func(dir string) { write(t, noise[:100000], dir, "file") })
		dir, unmount := fstest.Mount(t, image, "xfs", true, "")
		defer unmount()
		b, err := os.ReadFile(image)
		must(t, err)
		b[84] ^= 0x40
		fs := openBytes(t, b)
		if !bytes.Equal(content(t, fs, "file"), noise[:100000]) {
			t.Errorf("%s: wrong content", args)
		}
		if w := strings.Join(fs.Info().Warnings, " "); !strings.Contains(w, "superblock is damaged") {
			t.Errorf("%s: warnings: %s", args, w)
		}
		fstest.Compare(t, fs, dir, fstest.Ignore{})
		fstest.CompareStatfs(t, fs, dir)
		put32(0, 0)(b) // the magic number
		if _, err := xfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{}); !errors.Is(err, filesys.ErrWrongType) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestInfo: names in the superblock.
func TestInfo(t *testing.T) {
	fs := openBytes(t, small(t, "-L a-label -m uuid=01234567-89ab-cdef-0123-456789abcdef", func(string) {}))
	info := fs.Info()
	if info.Label != "a-label" || info.UUID != "01234567-89ab-cdef-0123-456789abcdef" || info.Type != "xfs" ||
		info.BlockSize != 4096 || info.NameMax != 255 || len(info.Warnings) != 0 {
		t.Errorf("%+v", info)
	}
}

// TestTypes: operations on inodes of the wrong type, and on none.
func TestTypes(t *testing.T) {
	fs := openBytes(t, small(t, "", func(dir string) {
		write(t, nil, dir, "file")
		must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
		must(t, os.Symlink("file", filepath.Join(dir, "link")))
		must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	}))
	file, link, fifo, root := walk(t, fs, "file"), walk(t, fs, "link"), walk(t, fs, "fifo"), fs.Root()
	for what, c := range map[string]struct{ got, want error }{
		"open a directory":         {second(fs.Open(root)), filesys.ErrIsDir},
		"open a symlink":           {second(fs.Open(link)), filesys.ErrInvalid},
		"open a fifo":              {second(fs.Open(fifo)), filesys.ErrInvalid},
		"readlink of a file":       {second(fs.Readlink(file)), filesys.ErrInvalid},
		"lookup in a file":         {second(fs.Lookup(file, "x")), filesys.ErrNotDir},
		"readdir of a symlink":     {fs.ReadDir(link, 0, nil), filesys.ErrNotDir},
		"parent of a file":         {second(fs.Parent(file)), filesys.ErrNotDir},
		"lookup of dot":            {second(fs.Lookup(root, ".")), filesys.ErrNotExist},
		"lookup of nothing":        {second(fs.Lookup(root, "")), filesys.ErrNotExist},
		"lookup of a path":         {second(fs.Lookup(root, "dir/x")), filesys.ErrNotExist},
		"lookup of a long name":    {second(fs.Lookup(root, strings.Repeat("x", 256))), filesys.ErrNotExist},
		"no such inode":            {second(fs.Attr(1 << 40)), filesys.ErrNotExist},
		"inode 0":                  {second(fs.Attr(0)), filesys.ErrNotExist},
		"the last inode":           {second(fs.Attr(1<<64 - 1)), filesys.ErrNotExist},
		"the real-time bitmap":     {second(fs.Attr(root + 1)), filesys.ErrNotExist},
		"an unused inode":          {second(fs.Attr(root + 50)), filesys.ErrNotExist},
		"an attribute it has not":  {second(fs.Xattr(file, "user.x")), filesys.ErrNoXattr},
		"an attribute of no name":  {second(fs.Xattr(file, "user.")), filesys.ErrNoXattr},
		"a namespace it has not":   {second(fs.Xattr(file, "system.x")), filesys.ErrNoXattr},
		"attributes of no inode":   {second(fs.Xattrs(1000)), filesys.ErrNotExist},
		"names without record":     {second(fs.Names(file)), filesys.ErrUnsupported},
		"extent behind the end":    {third(must1(fs.Open(file)).Extent(0)), filesys.ErrInvalid},
		"read at a negative place": {second(must1(fs.Open(file)).ReadAt(nil, -1)), filesys.ErrInvalid},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
}

func second[T any](_ T, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }
func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
