package ntfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/ntfs"
)

// states gives for every inode all that ChangedInodes is about.
func states(t *testing.T, fs filesys.FS) map[uint64]string {
	t.Helper()
	all := map[uint64]string{}
	var visit func(ino uint64)
	visit = func(ino uint64) {
		if all[ino] != "" {
			return
		}
		a, err := fs.Attr(ino)
		must(t, err)
		s := fmt.Sprint(a)
		names, err := fs.Xattrs(ino)
		must(t, err)
		for _, name := range names {
			v, err := fs.Xattr(ino, name)
			must(t, err)
			s += fmt.Sprintf(" %s=%x", name, v)
		}
		if target, err := fs.Readlink(ino); err == nil {
			s += " " + target
		}
		all[ino] = s
		if a.Mode&filesys.TypeMask != filesys.TypeDir {
			return
		}
		var children []uint64
		must(t, fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
			s += fmt.Sprintf(" %q:%d", e.Name, e.Ino)
			children = append(children, e.Ino)
			return true
		}))
		all[ino] = s
		for _, c := range children {
			visit(c)
		}
	}
	visit(fs.Root())
	return all
}

// TestChangedInodes: nothing that differs between two states is left out.
func TestChangedInodes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, cluster := range []string{"512", "4096"} {
		image := mkntfs(t, 24<<20, "-c", cluster)
		dir, unmount := mount(t, image, "")
		for i := range 40 {
			d := fmt.Sprintf("%s/dir %d", dir, i)
			must(t, os.Mkdir(d, 0o755))
			for j := range 40 {
				must(t, os.WriteFile(fmt.Sprintf("%s/file %d", d, j), noise[:random.IntN(5000)], 0o644))
			}
			must(t, os.Symlink("somewhere", d+"/link"))
			must(t, os.Mkdir(d+"/junction", 0o755))
			setReparse(t, d+"/junction", 0xA0000003, junctionData(fmt.Sprintf(`\??\C:\dir %d`, (i+1)%40)))
			must(t, unix.Setxattr(d, "user.note", noise[:2000], 0))
		}
		unmount()
		before, err := os.ReadFile(image)
		must(t, err)
		for range 4 {
			dir, unmount := mount(t, image, "")
			for range 1 + random.IntN(4) {
				d := fmt.Sprintf("%s/dir %d", dir, random.IntN(40))
				f := fmt.Sprintf("%s/file %d", d, random.IntN(40))
				switch random.IntN(7) {
				case 0:
					_ = os.WriteFile(f, noise[:random.IntN(9000)], 0o644)
				case 1:
					_ = os.Remove(f)
				case 2:
					_ = os.Rename(f, fmt.Sprintf("%s/renamed %d", d, random.IntN(1000)))
				case 3:
					_ = unix.Setxattr(d, "user.note", noise[5000+random.IntN(1000):][:2000], 0)
				case 4:
					_ = os.Rename(d, fmt.Sprintf("%s/dir %d/moved", dir, random.IntN(40)))
				case 5:
					for i := range 200 {
						_ = os.WriteFile(fmt.Sprintf("%s/new %d", d, i), nil, 0o644)
					}
				case 6:
					_ = os.Link(f, fmt.Sprintf("%s/hard %d", dir, random.IntN(1000)))
				}
			}
			unmount()
			after, err := os.ReadFile(image)
			must(t, err)
			checkChanged(t, before, after)
			before = after
		}
	}
}

func checkChanged(t *testing.T, before, after []byte) {
	t.Helper()
	var changed []filesys.Range
	for off := int64(0); off < int64(len(after)); off += 512 {
		if bytes.Equal(before[off:off+512], after[off:off+512]) {
			continue
		}
		if n := len(changed); n > 0 && changed[n-1].Off+changed[n-1].Len == off {
			changed[n-1].Len += 512
		} else {
			changed = append(changed, filesys.Range{Off: off, Len: 512})
		}
	}
	open := func(b []byte) *ntfs.FS {
		fs, err := ntfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
		must(t, err)
		return fs
	}
	a, b := open(before), open(after)
	was, is := states(t, a), states(t, b)
	named := map[uint64]bool{}
	must(t, b.ChangedInodes(a, changed, func(ino uint64) bool {
		named[ino] = true
		return true
	}))
	differ := 0
	for ino, s := range is {
		if was[ino] != s {
			differ++
			if !named[ino] {
				t.Errorf("inode %d is %.300q, was %.300q", ino, s, was[ino])
			}
		}
	}
	for ino := range was {
		if is[ino] == "" && !named[ino] {
			t.Errorf("inode %d is gone", ino)
		}
	}
	// Forty junctions, the first records and the system's own are always named.
	if len(named) > differ+150 {
		t.Errorf("%d inodes are named, %d differ", len(named), differ)
	}
	calls := 0
	must(t, b.ChangedInodes(a, changed, func(uint64) bool { calls++; return false }))
	if calls != 1 {
		t.Errorf("%d calls after it was enough", calls)
	}
	other := bytes.Clone(before)
	other[0x48] ^= 1
	if err := b.ChangedInodes(open(other), nil, nil); !errors.Is(err, filesys.ErrUnsupported) {
		t.Errorf("another volume: %v", err)
	}
}
