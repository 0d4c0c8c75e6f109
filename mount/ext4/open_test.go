package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// imageBytes makes a small file system and gives its bytes.
func imageBytes(t testing.TB, kib int64, args string) []byte {
	t.Helper()
	b, err := os.ReadFile(mke2fs(t, kib<<10, strings.Fields(args)...))
	must(t, err)
	return b
}

// seal gives a superblock with metadata_csum the checksum that it needs.
func seal(b []byte) {
	sum := ^crc32.Checksum(b[1024:1024+0x3FC], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[1024+0x3FC:], sum)
}

func put32(off int, v uint32) func(b []byte) {
	return func(b []byte) { binary.LittleEndian.PutUint32(b[1024+off:], v) }
}

func or32(off int, v uint32) func(b []byte) {
	return func(b []byte) {
		p := b[1024+off:]
		binary.LittleEndian.PutUint32(p, binary.LittleEndian.Uint32(p)|v)
	}
}

// TestOpenErrors: what cannot be opened is refused with the right sentinel and
// the reason by name.
func TestOpenErrors(t *testing.T) {
	good := imageBytes(t, 2048, "-t ext4 -b 1024 -O ^metadata_csum -N 64")
	for _, c := range []struct {
		name  string
		edit  func(b []byte)
		cut   int
		err   error
		match string
	}{
		{name: "empty volume", cut: -1, err: filesys.ErrWrongType},
		{name: "shorter than a superblock", cut: 2000, err: filesys.ErrWrongType},
		{name: "no magic number", edit: put32(0x38, 0), err: filesys.ErrWrongType, match: "no ext2/3/4 superblock"},
		{name: "truncated", cut: 1 << 20, err: filesys.ErrCorrupt, match: "truncated"},
		{name: "compression", edit: or32(0x60, 0x1), err: filesys.ErrUnsupported, match: "compression"},
		{name: "another file system's journal", edit: or32(0x60, 0x8), err: filesys.ErrUnsupported, match: "journal_dev"},
		{name: "all unknown features", edit: or32(0x60, 0xC0001001), err: filesys.ErrUnsupported, match: "compression, dirdata, FEATURE_I30, FEATURE_I31"},
		{name: "external journal", edit: func(b []byte) {
			or32(0x60, 0x4)(b)
			put32(0xE0, 0)(b)
			put32(0xE4, 0x801)(b)
		}, err: filesys.ErrUnsupported, match: "external journal (device 0x801)"},
		{name: "block size", edit: put32(0x18, 7), err: filesys.ErrCorrupt},
		{name: "huge block size", edit: put32(0x18, 1<<31), err: filesys.ErrCorrupt},
		{name: "no blocks", edit: put32(0x04, 0), err: filesys.ErrCorrupt},
		{name: "no blocks per group", edit: put32(0x20, 0), err: filesys.ErrCorrupt},
		{name: "too many blocks per group", edit: put32(0x20, 8193), err: filesys.ErrCorrupt},
		{name: "no inodes per group", edit: put32(0x28, 0), err: filesys.ErrCorrupt},
		{name: "too many inodes", edit: put32(0x00, 1<<31), err: filesys.ErrCorrupt},
		{name: "inode size 0", edit: put32(0x58, 0), err: filesys.ErrCorrupt},
		{name: "inode size 100", edit: put32(0x58, 100), err: filesys.ErrCorrupt},
		{name: "inode size 32 KiB", edit: put32(0x58, 1<<15), err: filesys.ErrCorrupt},
		{name: "first data block", edit: put32(0x14, 1<<31), err: filesys.ErrCorrupt},
		{name: "first inode", edit: put32(0x54, 0), err: filesys.ErrCorrupt},
		{name: "group descriptors of 1 byte", edit: func(b []byte) { or32(0x60, 0x80)(b); put32(0xFC, 0x00010000)(b) }, err: filesys.ErrCorrupt},
		{name: "no root directory", edit: func(b []byte) { clear(b[2048 : 1<<20]) }, err: filesys.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			if c.edit != nil {
				c.edit(b)
			}
			if c.cut != 0 {
				b = b[:max(0, c.cut)]
			}
			_, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
			if !errors.Is(err, c.err) || !strings.Contains(fmt.Sprint(err), c.match) {
				t.Errorf("error %v, want %v with %q", err, c.err, c.match)
			}
		})
	}
}

// TestUnknownReadOnlyFeature: features that only matter for writing do not keep
// a volume from being read.
func TestUnknownReadOnlyFeature(t *testing.T) {
	b := imageBytes(t, 2048, "-t ext4 -b 1024 -O ^metadata_csum -N 64")
	or32(0x64, 0x40004000)(b)
	fs, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
	must(t, err)
	if w := strings.Join(fs.Info().Warnings, " "); !strings.Contains(w, "shared_blocks, FEATURE_R30") {
		t.Errorf("warnings: %s", w)
	}
}

// TestBackupSuperblock: a damaged primary is replaced by its backup, with a
// warning; but not one that is not there at all.
func TestBackupSuperblock(t *testing.T) {
	for _, args := range []string{"-b 1024", "-b 2048 -g 16384", "-b 4096 -g 2048 -O ^metadata_csum", "-b 1024 -O ^metadata_csum"} {
		kib := int64(20 << 10)
		if strings.Contains(args, "2048 -g 16384") {
			kib = 40 << 10
		}
		image := mke2fs(t, kib<<10, append([]string{"-t", "ext4"}, strings.Fields(args)...)...)
		dir, unmount := fstest.Mount(t, image, "ext4", false, "")
		must(t, os.WriteFile(filepath.Join(dir, "file"), noise[:100000], 0o644))
		unmount()
		b, err := os.ReadFile(image)
		must(t, err)
		if strings.Contains(args, "-g 2048") {
			// The backup is not where groups of the usual size have it.
			put32(0x20, 0)(b)
			if _, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{}); !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("%s: %v", args, err)
			}
			continue
		}
		put32(0x20, 0)(b) // blocks per group
		fs, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
		if err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		if !bytes.Equal(content(t, fs, "file"), noise[:100000]) {
			t.Errorf("%s: wrong content", args)
		}
		if w := strings.Join(fs.Info().Warnings, " "); !strings.Contains(w, "superblock is damaged") {
			t.Errorf("%s: warnings: %s", args, w)
		}
		put32(0x38, 0)(b) // the magic number
		if _, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{}); !errors.Is(err, filesys.ErrWrongType) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestInfo: names and states of the superblock.
func TestInfo(t *testing.T) {
	b := imageBytes(t, 2048, "-t ext4 -b 1024 -N 64 -L a-label -U 01234567-89ab-cdef-0123-456789abcdef")
	or32(0x3A, 0x2)(b)
	seal(b)
	fs, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
	must(t, err)
	info := fs.Info()
	if info.Label != "a-label" || info.UUID != "01234567-89ab-cdef-0123-456789abcdef" || info.Type != "ext4" ||
		info.Written.IsZero() || info.BlockSize != 1024 || info.NameMax != 255 {
		t.Errorf("%+v", info)
	}
	if len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], "had found errors") {
		t.Errorf("warnings: %q", info.Warnings)
	}
}

// TestInfoMinixdf: a volume may ask statfs to leave its own structures in.
func TestInfoMinixdf(t *testing.T) {
	image := mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024")
	fstest.Run(t, "tune2fs", "-E", "mount_opts=minixdf", image)
	dir, _ := fstest.Mount(t, image, "ext4", true, "")
	fstest.CompareStatfs(t, openImage(t, image), dir)
}

// TestInfoBigalloc: old versions of mke2fs did not note what their structures
// take of a volume with clusters.
func TestInfoBigalloc(t *testing.T) {
	for _, args := range []string{
		"-b 1024 -C 8192", "-b 4096 -C 65536", "-b 1024 -C 4096 -O ^flex_bg", "-b 1024 -C 16384 -O ^has_journal",
		"-b 2048 -C 4096 -O meta_bg,^resize_inode", "-b 1024 -C 2048 -g 4096 -O ^64bit",
	} {
		t.Run(args, func(t *testing.T) {
			image := mke2fs(t, 48<<20, append(strings.Fields("-t ext4 -O bigalloc"), strings.Fields(args)...)...)
			fstest.Run(t, "debugfs", "-w", "-R", "set_super_value overhead_clusters 0", image)
			dir, _ := fstest.Mount(t, image, "ext4", true, "")
			fstest.CompareStatfs(t, openImage(t, image), dir)
		})
	}
}

// TestTypes: operations on inodes of the wrong type, and on none.
func TestTypes(t *testing.T) {
	fs := made(t, 8, "-t ext4 -b 1024", func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
		must(t, os.Symlink("file", filepath.Join(dir, "link")))
	})
	file, link, root := walk(t, fs, "file"), walk(t, fs, "link"), fs.Root()
	for what, c := range map[string]struct{ got, want error }{
		"open a directory":         {second(fs.Open(root)), filesys.ErrIsDir},
		"open a symlink":           {second(fs.Open(link)), filesys.ErrInvalid},
		"readlink of a file":       {second(fs.Readlink(file)), filesys.ErrInvalid},
		"lookup in a file":         {second(fs.Lookup(file, "x")), filesys.ErrNotDir},
		"readdir of a symlink":     {fs.ReadDir(link, 0, nil), filesys.ErrNotDir},
		"parent of a file":         {second(fs.Parent(file)), filesys.ErrNotDir},
		"lookup of dot":            {second(fs.Lookup(root, ".")), filesys.ErrNotExist},
		"lookup of nothing":        {second(fs.Lookup(root, "")), filesys.ErrNotExist},
		"lookup of a path":         {second(fs.Lookup(root, "lost+found/x")), filesys.ErrNotExist},
		"no such inode":            {second(fs.Attr(1 << 40)), filesys.ErrNotExist},
		"inode 0":                  {second(fs.Attr(0)), filesys.ErrNotExist},
		"the journal":              {second(fs.Attr(8)), filesys.ErrNotExist},
		"an unused inode":          {second(fs.Attr(100)), filesys.ErrNotExist},
		"an attribute it has not":  {second(fs.Xattr(file, "user.x")), filesys.ErrNoXattr},
		"an attribute of no name":  {second(fs.Xattr(file, "")), filesys.ErrNoXattr},
		"attributes of no inode":   {second(fs.Xattrs(100)), filesys.ErrNotExist},
		"open of an unused inode":  {second(fs.Open(100)), filesys.ErrNotExist},
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
