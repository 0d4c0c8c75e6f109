package xfs_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
)

// These are the mistakes that were found in other readers, and what only XFS
// has. What is expected is written down here; TestKernel compares with the
// kernel.

// TestTrapDirectoryOf20000 also counts what a lookup costs.
func TestTrapDirectoryOf20000(t *testing.T) {
	image := made(t, 64, "-b size=1024", func(dir string) {
		write(t, nil, dir, "target")
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		for i := range 20000 {
			must(t, os.Link(filepath.Join(dir, "target"), filepath.Join(dir, fmt.Sprintf("d/%d", i))))
		}
	})
	b, err := os.ReadFile(image)
	must(t, err)
	r := &countingReader{r: bytes.NewReader(b)}
	fs, err := xfs.Open(r, int64(len(b)), filesys.Options{})
	must(t, err)
	d := walk(t, fs, "d")
	r.n.Store(0)
	if _, err := fs.Lookup(d, "19999"); err != nil {
		t.Fatal(err)
	}
	if n := r.n.Load(); n > 30<<10 {
		t.Errorf("a lookup reads %d bytes", n)
	}
	seen := map[string]bool{}
	must(t, fs.ReadDir(d, 0, func(e filesys.DirEntry) bool { seen[e.Name] = true; return true }))
	if len(seen) != 20000 {
		t.Errorf("%d entries", len(seen))
	}
	for i := range 20000 {
		if _, err := fs.Lookup(d, fmt.Sprint(i)); err != nil || !seen[fmt.Sprint(i)] {
			t.Fatalf("%d: %v", i, err)
		}
	}
}

// sameHash gives n names of one hash: a bit more in one letter is made up for
// five letters later, when the hash has turned by 35 bits.
func sameHash(n int) (names []string) {
	for i := range n {
		name := []byte(strings.Repeat("abcdefghij", 4))
		for bit := range 20 {
			if i>>bit&1 != 0 {
				at := bit/5*10 + bit%5
				name[at] ^= 1
				name[at+5] ^= 8
			}
		}
		names = append(names, string(name))
	}
	return names
}

// TestTrapHashCollisions: names of one hash fill several leaves of the index,
// of directories and of attributes.
func TestTrapHashCollisions(t *testing.T) {
	names := sameHash(1500)
	image := made(t, 64, "-b size=1024", func(dir string) {
		write(t, nil, dir, "target")
		must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		for i, name := range names {
			must(t, os.Link(filepath.Join(dir, "target"), filepath.Join(dir, "d", name)))
			must(t, os.Link(filepath.Join(dir, "target"), filepath.Join(dir, "d", fmt.Sprint(i))))
			if i < 300 {
				must(t, unix.Setxattr(filepath.Join(dir, "target"), "user."+name, []byte(name[:i%40]), 0))
			}
		}
	})
	fs := openImage(t, image)
	d, target := walk(t, fs, "d"), walk(t, fs, "target")
	for i, name := range names {
		if ino, err := fs.Lookup(d, name); err != nil || ino != target {
			t.Fatalf("%s: %d, %v", name, ino, err)
		}
		if i < 300 {
			if v, err := fs.Xattr(target, "user."+name); err != nil || string(v) != name[:i%40] {
				t.Fatalf("%s: %q, %v", name, v, err)
			}
		}
	}
	if list, err := fs.Xattrs(target); err != nil || len(list) != 300 {
		t.Errorf("%d attributes, %v", len(list), err)
	}
	kernel, _ := fstest.Mount(t, image, "xfs", true, "")
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
}

// TestTrapManyExtents has a btree of two levels in a file, in a directory and
// in an attribute fork.
func TestTrapManyExtents(t *testing.T) {
	image := made(t, 128, "-b size=1024 -d agcount=1", func(dir string) {
		f, err := os.Create(filepath.Join(dir, "file"))
		must(t, err)
		g, err := os.Create(filepath.Join(dir, "other"))
		must(t, err)
		for i := range int64(9000) {
			_, err := f.WriteAt(noise[i*7:][:700], i*2048)
			must(t, err)
			if i%1000 == 999 {
				must(t, f.Sync())
			}
		}
		for i := range 30 {
			must(t, unix.Fsetxattr(int(g.Fd()), fmt.Sprintf("user.large %d", i), noise[i:i+65536], 0))
			must(t, unix.Fsetxattr(int(f.Fd()), fmt.Sprintf("user.large %d", i), noise[i:i+9000], 0))
		}
		for i := range 30 {
			if i%2 == 1 {
				must(t, unix.Fremovexattr(int(g.Fd()), fmt.Sprintf("user.large %d", i)))
			}
		}
		must(t, f.Close())
		must(t, g.Close())
	})
	fs := openImage(t, image)
	kernel, _ := fstest.Mount(t, image, "xfs", true, "")
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
	if a, err := fs.Attr(walk(t, fs, "file")); err != nil || a.Size != 8999*2048+700 {
		t.Errorf("%+v, %v", a, err)
	}
	for i := range int64(9000) {
		p := make([]byte, 800)
		if n, err := open(t, fs, "file").ReadAt(p, i*2048); n < 700 || err != nil && err != io.EOF ||
			!bytes.Equal(p[:700], noise[i*7:][:700]) || !bytes.Equal(p[700:n], make([]byte, n-700)) {
			t.Fatalf("piece %d: %d, %v", i, n, err)
		}
	}
}

func TestTrapHoleAtTheEnd(t *testing.T) {
	const size = 1<<63 - 1 // as large as Linux makes files
	image := made(t, 32, "", func(dir string) {
		write(t, noise[:100], dir, "hole")
		must(t, os.Truncate(filepath.Join(dir, "hole"), size))
		f, err := os.OpenFile(filepath.Join(dir, "last"), os.O_CREATE|os.O_WRONLY, 0o644)
		must(t, err)
		_, err = f.WriteAt([]byte("end"), size-3)
		must(t, err)
		must(t, f.Close())
	})
	fs := openImage(t, image)
	f := open(t, fs, "hole")
	spans := 0
	for off := int64(0); off < f.Size(); spans++ {
		data, n, err := f.Extent(off)
		if err != nil || data != (off == 0) || n <= 0 {
			t.Fatalf("extent at %d: %v, %d, %v", off, data, n, err)
		}
		off += n
	}
	if f.Size() != size || spans > 10 {
		t.Errorf("%d bytes, the hole takes %d calls", f.Size(), spans)
	}
	p := []byte{1, 2, 3, 4, 5}
	if n, err := f.ReadAt(p, size-3); n != 3 || err != io.EOF || p[0] != 0 || p[3] != 4 {
		t.Errorf("read %d, %v", n, err)
	}
	if n, err := open(t, fs, "last").ReadAt(p, size-4); n != 4 || err != io.EOF || string(p[:4]) != "\x00end" {
		t.Errorf("read %d, %v, %q", n, err, p)
	}
}

func TestTrapTimes(t *testing.T) {
	for _, c := range []struct {
		args        string
		first, last int64
	}{{"-m bigtime=0", -1 << 31, 1<<31 - 1}, {"-m bigtime=1", -1 << 31, 16299260424}} {
		var times []time.Time
		for _, sec := range []int64{-1 << 31, -1, 0, 1<<31 - 1, 1 << 31, 4291747200, 1 << 32, 16299260424} {
			if sec >= c.first && sec <= c.last {
				times = append(times, time.Unix(sec, 0), time.Unix(sec, 123456789))
			}
		}
		image := made(t, 32, c.args, func(dir string) {
			for i, when := range times {
				path := filepath.Join(dir, fmt.Sprint(i))
				write(t, nil, path)
				ts := unix.Timespec{Sec: when.Unix(), Nsec: int64(when.Nanosecond())}
				must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, 0))
			}
		})
		fs := openImage(t, image)
		for i, when := range times {
			a, err := fs.Attr(walk(t, fs, fmt.Sprint(i)))
			want := when
			if when.Nanosecond() > 0 && (when.Unix() == c.first || when.Unix() == c.last) {
				want = time.Unix(when.Unix(), 0) // Linux has no fractions there
			}
			if err != nil || !a.Mtime.Equal(want) || !a.Atime.Equal(want) {
				t.Errorf("%s: times are %v and %v, %v, want %v", c.args, a.Mtime, a.Atime, err, when)
			}
			if a.Btime.IsZero() || a.Btime.After(a.Ctime) || a.Btime.Nanosecond() == 0 && a.Ctime.Nanosecond() == 0 {
				t.Errorf("created %v, changed %v", a.Btime, a.Ctime)
			}
		}
	}
}

// TestTrapSharedBlocks: two files share blocks, one of which then changed some.
func TestTrapSharedBlocks(t *testing.T) {
	image := made(t, 64, "-m reflink=1", func(dir string) {
		write(t, noise[:500000], dir, "first")
		f, err := os.Open(filepath.Join(dir, "first"))
		must(t, err)
		g, err := os.Create(filepath.Join(dir, "second"))
		must(t, err)
		must(t, unix.IoctlFileClone(int(g.Fd()), int(f.Fd())))
		_, err = g.WriteAt([]byte("changed"), 100000)
		must(t, err)
		must(t, g.Close())
		// More than the volume has room for.
		g, err = os.Create(filepath.Join(dir, "many"))
		must(t, err)
		for i := range uint64(200) {
			must(t, unix.IoctlFileCloneRange(int(g.Fd()), &unix.FileCloneRange{Src_fd: int64(f.Fd()), Src_length: 120 * 4096, Dest_offset: i * 120 * 4096}))
		}
		must(t, f.Close())
		must(t, g.Close())
	})
	fs := openImage(t, image)
	want := bytes.Clone(noise[:500000])
	if got := content(t, fs, "many"); !bytes.Equal(got, bytes.Repeat(want[:120*4096], 200)) {
		t.Error("the file with the same blocks in many places is wrong")
	}
	if !bytes.Equal(content(t, fs, "first"), want) {
		t.Error("the first file is wrong")
	}
	copy(want[100000:], "changed")
	if !bytes.Equal(content(t, fs, "second"), want) {
		t.Error("the second file is wrong")
	}
}

// TestTrapSymlinks: targets within the inode and in blocks of their own, of
// which Linux writes two under one header.
func TestTrapSymlinks(t *testing.T) {
	for _, args := range []string{"-b size=1024", "-b size=4096", "-i size=2048"} {
		image := made(t, 32, args, func(dir string) {
			for n := 1; n < 1024; n++ {
				must(t, os.Symlink(string(bytes.Repeat([]byte{byte('a' + n%26)}, n)), filepath.Join(dir, fmt.Sprint(n))))
			}
		})
		fs := openImage(t, image)
		for n := 1; n < 1024; n++ {
			want := strings.Repeat(string(rune('a'+n%26)), n)
			if got, err := fs.Readlink(walk(t, fs, fmt.Sprint(n))); err != nil || got != want {
				t.Errorf("%s: target of %d bytes: %q, %v", args, n, got, err)
			}
		}
	}
}

// TestTrapFreedInodes: what a directory no longer names is gone, though its
// inode may still stand on the volume.
func TestTrapFreedInodes(t *testing.T) {
	var gone []uint64
	image := made(t, 32, "", func(dir string) {
		for i := range 1000 {
			write(t, noise[:10], dir, fmt.Sprint(i))
		}
		d, err := os.Open(dir)
		must(t, err)
		must(t, unix.Syncfs(int(d.Fd())))
		must(t, d.Close())
		for i := range 900 {
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(dir, fmt.Sprint(i)), &st))
			gone = append(gone, st.Ino)
			must(t, os.Remove(filepath.Join(dir, fmt.Sprint(i))))
		}
	})
	fs := openImage(t, image)
	for _, ino := range gone {
		if a, err := fs.Attr(ino); err == nil {
			t.Fatalf("inode %d is still there: %+v", ino, a)
		}
	}
	for i := 900; i < 1000; i++ {
		walk(t, fs, fmt.Sprint(i))
	}
}
