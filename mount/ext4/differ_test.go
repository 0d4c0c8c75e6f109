package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/jbd2/dirtytest"
)

// changedRanges compares two images in the granule of backups.
func changedRanges(t testing.TB, a, b string) (list []filesys.Range) {
	t.Helper()
	x, y := must1(os.ReadFile(a)), must1(os.ReadFile(b))
	const block = 64 << 10
	for off := 0; off < len(x); off += block {
		end := min(off+block, len(x))
		if !bytes.Equal(x[off:end], y[off:end]) {
			list = append(list, filesys.Range{Off: int64(off), Len: int64(end - off)})
		}
	}
	return list
}

// shown is all that ChangedInodes answers for.
func shown(fs *ext4.FS, ino uint64) string {
	a, err := fs.Attr(ino)
	if err != nil {
		if errors.Is(err, filesys.ErrNotExist) {
			return "none"
		}
		return "unreadable" // the one and the other message may differ
	}
	s := fmt.Sprintf("%+v", a)
	names, _ := fs.Xattrs(ino)
	for _, n := range names {
		v, err := fs.Xattr(ino, n)
		s += fmt.Sprintf("\n%s=%x %v", n, v, err != nil)
	}
	switch a.Mode & filesys.TypeMask {
	case filesys.TypeSymlink:
		target, _ := fs.Readlink(ino)
		s += "\n" + target
	case filesys.TypeDir:
		var list []string
		_ = fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
			list = append(list, fmt.Sprintf("%q %d", e.Name, e.Ino))
			return true
		})
		slices.Sort(list) // the order of names may change with the blocks
		s += "\n" + strings.Join(list, "\n")
	}
	return s
}

// compareInodes holds the answer of ChangedInodes against every inode there is.
func compareInodes(t *testing.T, imageA, imageB string) (named int) {
	t.Helper()
	a, b := openImage(t, imageA), openImage(t, imageB)
	changed := changedRanges(t, imageA, imageB)
	got := map[uint64]bool{}
	must(t, b.ChangedInodes(a, changed, func(ino uint64) bool {
		got[ino] = true
		return true
	}))
	back := map[uint64]bool{}
	must(t, a.ChangedInodes(b, changed, func(ino uint64) bool {
		back[ino] = true
		return true
	}))
	if !reflect.DeepEqual(got, back) {
		t.Errorf("%d inodes one way, %d the other", len(got), len(back))
	}
	differing := 0
	for ino := uint64(1); ino <= b.Info().Files; ino++ {
		x, y := shown(a, ino), shown(b, ino)
		if x != y {
			differing++
			if !got[ino] {
				t.Errorf("inode %d is not named: was\n%s\nis\n%s", ino, x, y)
			}
		}
	}
	if differing == 0 {
		t.Error("nothing was changed, which tests nothing")
	}
	t.Logf("%d inodes differ, %d are named", differing, len(got))
	return len(got)
}

var differConfigs = []string{
	"-t ext2 -b 1024", "-t ext3 -b 4096 -I 128", "-t ext4 -b 1024", "-t ext4 -b 4096",
	"-t ext4 -b 1024 -O ^metadata_csum,uninit_bg", "-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg",
	"-t ext4 -b 1024 -O bigalloc -C 8192", "-t ext4 -b 1024 -O inline_data,ea_inode -I 512",
}

// TestChangedInodes: of two states of a volume every inode that shows a
// difference is named.
func TestChangedInodes(t *testing.T) {
	for _, args := range differConfigs {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			image := mke2fs(t, 24<<20, strings.Fields(args)...)
			dir, unmount := fstest.Mount(t, image, "ext4", false, "")
			p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{9}), XattrMax: 700}
			p.Names()
			p.Sizes()
			p.Links()
			p.Special()
			p.Xattrs()
			for i := range 600 {
				p.File(p.Dir(fmt.Sprintf("many/%d", i%7))+fmt.Sprintf("/%d", i), 10)
			}
			unmount()
			before := fstest.Copy(t, image)

			dir, unmount = fstest.Mount(t, image, "ext4", false, "")
			p.Root = dir
			must(t, os.Chmod(p.Path("many/3/3"), 0o600))
			must(t, os.Rename(p.Path("many/4"), p.Path("moved")))
			must(t, os.Remove(p.Path("many/5/5")))
			must(t, os.RemoveAll(p.Path("many/6")))
			must(t, unix.Setxattr(p.Path("many/1/1"), "user.note", []byte("new"), 0))
			must(t, unix.Setxattr(p.Path("many/1/8"), "user.long", bytes.Repeat([]byte("x"), 600), 0))
			must(t, os.Symlink("target", p.Path("many/link")))
			must(t, os.Link(p.Path("many/1/1"), p.Path("many/hard")))
			for i := range 100 {
				p.File(p.Dir("new")+fmt.Sprintf("/%d", i), 10)
			}
			unmount()
			if n := compareInodes(t, before, image); n > 300 {
				t.Errorf("%d inodes are named", n)
			}
		})
	}
}

// TestChangedInodesLive: the same between two moments of a guest at work, when
// half of everything is in the log.
func TestChangedInodesLive(t *testing.T) {
	rng := dirtyRand(t)
	for _, c := range dirtytest.Configs {
		switch c.Name {
		case "ext4", "ext4, small log that wraps", "ext3", "inline data, bigalloc", "orphan file, checksum seed":
			t.Run(c.Name, func(t *testing.T) {
				images := dirtytest.Live(t, c, 2, rng)
				compareInodes(t, images[0], images[1])
				for _, image := range images {
					compareStored(t, image)
				}
			})
		}
	}
}

// A volume that was formatted anew is no state of the old one.
func TestChangedInodesRefused(t *testing.T) {
	a, b := openImage(t, mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024")), openImage(t, mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024"))
	never := func(uint64) bool { t.Error("an inode is named"); return true }
	if err := a.ChangedInodes(b, nil, never); !errors.Is(err, filesys.ErrUnsupported) {
		t.Errorf("another file system: %v", err)
	}
}

// A file system that was made larger has more inodes, and the same ones.
func TestChangedInodesGrown(t *testing.T) {
	image := mke2fs(t, 32<<20, "-t", "ext4", "-b", "1024", "-N", "2000")
	must(t, os.Truncate(image, 64<<20))
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	must(t, os.WriteFile(filepath.Join(dir, "a"), nil, 0o644))
	unmount()
	before := fstest.Copy(t, image)
	fstest.Run(t, "e2fsck", "-fp", image)
	fstest.Run(t, "resize2fs", image)
	dir, unmount = fstest.Mount(t, image, "ext4", false, "")
	for i := range 3000 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644))
	}
	unmount()
	compareInodes(t, before, image)
}

// compareStored reads every file where Stored says that its content is.
func compareStored(t *testing.T, image string) {
	t.Helper()
	fs := openImage(t, image)
	volume := must1(os.ReadFile(image))
	files, records, holes := 0, 0, 0
	for ino := uint64(1); ino <= fs.Info().Files; ino++ {
		f, err := fs.Open(ino)
		if err != nil {
			continue
		}
		files++
		st := f.(filesys.Stored)
		for off := int64(0); off < f.Size(); {
			at, n, err := st.Stored(off)
			if err != nil || n <= 0 || n > f.Size()-off {
				t.Fatalf("inode %d, byte %d of %d: %v, %d bytes, %v", ino, off, f.Size(), at, n, err)
			}
			m := min(n, 1<<20)
			got := make([]byte, m)
			if k, err := f.ReadAt(got, off); k < len(got) && err != io.EOF {
				t.Fatal(err)
			}
			switch {
			case at.Off < 0: // an escaped block
			case at.Len == 0:
				holes++
				if !bytes.Equal(got, make([]byte, m)) {
					t.Errorf("inode %d, byte %d: a hole is not zeros", ino, off)
				}
			case at.Len != n:
				records++
				if head := min(m, 60); !bytes.Contains(volume[at.Off:at.Off+at.Len], got[:head]) {
					t.Errorf("inode %d, byte %d: not in its record", ino, off)
				}
			case !bytes.Equal(got, volume[at.Off:at.Off+m]):
				t.Errorf("inode %d, byte %d: other bytes at %d", ino, off, at.Off)
			}
			off += n
		}
	}
	if files == 0 { // a guest at work may just have deleted most of them
		t.Error("no files")
	}
	t.Logf("%d files, %d pieces in records, %d holes", files, records, holes)
}

// TestStored: content is where it is said to be, in the log of a dirty volume as well.
func TestStored(t *testing.T) {
	for _, args := range differConfigs {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			image := mke2fs(t, 24<<20, strings.Fields(args)...)
			dir, unmount := fstest.Mount(t, image, "ext4", false, "")
			p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{9}), XattrMax: 700}
			p.Sizes()
			p.Sparse()
			unmount()
			compareStored(t, image)
		})
	}
	rng := dirtyRand(t)
	for _, c := range dirtytest.Configs {
		if strings.Contains(c.Name, "data in the log") {
			t.Run(c.Name, func(t *testing.T) { compareStored(t, dirtytest.Make(t, c, rng)) })
		}
	}
}

// TestSearchNames: names are found, those of the neighbourhood first.
func TestSearchNames(t *testing.T) {
	image := mke2fs(t, 48<<20, "-t", "ext4", "-b", "1024", "-O", "^flex_bg", "-N", "6000")
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	for i := range 40 {
		d := filepath.Join(dir, fmt.Sprint(i))
		must(t, os.Mkdir(d, 0o755))
		for k := range 20 {
			must(t, os.WriteFile(filepath.Join(d, fmt.Sprint(k)), nil, 0o644))
		}
	}
	must(t, os.Link(filepath.Join(dir, "7/7"), filepath.Join(dir, "31/linked")))
	unmount()
	fs := openImage(t, image)
	ino := walk(t, fs, "7/7")
	var found []string
	must(t, fs.SearchNames([]uint64{ino}, func(i uint64, n filesys.Name) bool {
		if i != ino {
			t.Errorf("inode %d", i)
		}
		up := must1(fs.Names(n.Parent))
		found = append(found, up[0].Name+"/"+n.Name)
		return len(found) < 2
	}))
	slices.Sort(found)
	if !slices.Equal(found, []string{"31/linked", "7/7"}) {
		t.Errorf("found %q", found)
	}
	if _, err := fs.Names(ino); !errors.Is(err, filesys.ErrUnsupported) {
		t.Errorf("names of a file: %v", err)
	}
	none := 0
	must(t, fs.SearchNames([]uint64{5999}, func(uint64, filesys.Name) bool { none++; return true }))
	if none != 0 {
		t.Errorf("%d names of an unused inode", none)
	}
}
