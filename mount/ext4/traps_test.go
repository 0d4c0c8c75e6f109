package ext4_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// These are the mistakes that were found in other readers, one test each. What
// is expected is written down here; the comparison with the kernel is another
// matter.

// made makes a file system with what fill puts into it, and opens it.
func made(t testing.TB, mib int64, args string, fill func(dir string)) *ext4.FS {
	t.Helper()
	image := mke2fs(t, mib<<20, strings.Fields(args)...)
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	fill(dir)
	unmount()
	return openImage(t, image)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// walk finds a file by its path.
func walk(t testing.TB, fs filesys.FS, path string) uint64 {
	t.Helper()
	ino := fs.Root()
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if ino, err = fs.Lookup(ino, name); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return ino
}

// open finds a regular file by its path.
func open(t testing.TB, fs filesys.FS, path string) filesys.File {
	t.Helper()
	f, err := fs.Open(walk(t, fs, path))
	must(t, err)
	return f
}

// content reads a file whole.
func content(t testing.TB, fs filesys.FS, path string) []byte {
	t.Helper()
	f := open(t, fs, path)
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	must(t, err)
	return b
}

var noise = func() []byte {
	b := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

func TestTrapNamesOf248BytesAndMore(t *testing.T) {
	var names []string
	for n := 240; n <= 255; n++ {
		names = append(names, strings.Repeat(string(rune('a'+n%26)), n))
	}
	fs := made(t, 8, "-t ext4 -b 1024", func(dir string) {
		for _, name := range names {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644))
		}
	})
	for _, name := range names {
		if got := content(t, fs, name); string(got) != name {
			t.Errorf("%d bytes: content %q", len(name), got)
		}
	}
	if _, err := fs.Lookup(fs.Root(), strings.Repeat("a", 256)); err == nil {
		t.Error("a name of 256 bytes was found")
	}
}

func TestTrapHolesShowStaleBytes(t *testing.T) {
	fs := made(t, 16, "-t ext4 -b 4096", func(dir string) {
		f, err := os.Create(filepath.Join(dir, "sparse"))
		must(t, err)
		for _, block := range []int64{3, 7, 400} {
			_, err := f.WriteAt(noise[:4096], block*4096)
			must(t, err)
		}
		must(t, f.Close())
	})
	got := content(t, fs, "sparse")
	want := make([]byte, 401*4096)
	for _, block := range []int{3, 7, 400} {
		copy(want[block*4096:], noise[:4096])
	}
	if !bytes.Equal(got, want) {
		t.Error("wrong content")
	}
}

func TestTrapUnwrittenExtentsShowStaleBytes(t *testing.T) {
	fs := made(t, 16, "-t ext4 -b 4096", func(dir string) {
		f, err := os.Create(filepath.Join(dir, "preallocated"))
		must(t, err)
		must(t, unix.Fallocate(int(f.Fd()), 0, 0, 1<<20))
		_, err = f.WriteAt(noise[:100], 500000)
		must(t, err)
		must(t, f.Close())
	})
	want := make([]byte, 1<<20)
	copy(want[500000:], noise[:100])
	if !bytes.Equal(content(t, fs, "preallocated"), want) {
		t.Error("wrong content")
	}
	data, n, err := open(t, fs, "preallocated").Extent(0)
	if data || n != 500000&^4095 || err != nil {
		t.Errorf("extent at 0: %v, %d, %v", data, n, err)
	}
}

func TestTrapTailBehindTheEndShowsStaleBytes(t *testing.T) {
	fs := made(t, 16, "-t ext4 -b 4096", func(dir string) {
		path := filepath.Join(dir, "short")
		must(t, os.WriteFile(path, noise[:4096], 0o644))
		must(t, os.Truncate(path, 10))
	})
	p := bytes.Repeat([]byte{0xFF}, 100)
	n, err := open(t, fs, "short").ReadAt(p, 5)
	if n != 5 || err != io.EOF || !bytes.Equal(p[:5], noise[5:10]) || p[5] != 0xFF {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

func TestTrapHoleAtTheEndNeverEnds(t *testing.T) {
	for _, kind := range []string{"ext2", "ext4"} {
		fs := made(t, 16, "-t "+kind+" -b 1024", func(dir string) {
			path := filepath.Join(dir, "hole")
			must(t, os.WriteFile(path, noise[:100], 0o644))
			must(t, os.Truncate(path, 5<<30+1))
		})
		f := open(t, fs, "hole")
		spans := 0
		for off := int64(0); off < f.Size(); spans++ {
			data, n, err := f.Extent(off)
			if err != nil || data != (off == 0) || n <= 0 {
				t.Fatalf("%s: extent at %d: %v, %d, %v", kind, off, data, n, err)
			}
			off += n
		}
		if spans > 1000 {
			t.Errorf("%s: the hole takes %d calls", kind, spans)
		}
		p := []byte{1, 2, 3}
		if n, err := f.ReadAt(p, 5<<30-1); n != 2 || err != io.EOF || p[0] != 0 {
			t.Errorf("%s: read %d, %v", kind, n, err)
		}
	}
}

func TestTrapExtentOf32768Blocks(t *testing.T) {
	const start, blocks = 20000, 32768
	image := mke2fs(t, 64<<20, strings.Fields("-t ext4 -b 1024 -O sparse_super2,^resize_inode,^has_journal -E num_backup_sb=0")...)
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, nil, 0o644))
	script := ""
	// One written extent of the greatest length; one more block would make an
	// unwritten extent of one block.
	for i, length := range []int{blocks, blocks + 1, blocks + 3000} {
		script += fmt.Sprintf("write %s f%d\n", empty, i)
		for j, word := range []int{0x0001F30A, 4, 0, 0, length, start} {
			script += fmt.Sprintf("set_inode_field f%d block[%d] %#x\n", i, j, word)
		}
		size := blocks * 1024
		if i > 0 {
			size /= 8
		}
		script += fmt.Sprintf("set_inode_field f%d size %d\n", i, size)
	}
	debugfs(t, image, script)

	fs := openImage(t, image)
	kernel, _ := fstest.Mount(t, image, "ext4", true, "")
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
	f, err := os.Open(image)
	must(t, err)
	defer f.Close()
	want := make([]byte, blocks*1024)
	_, err = f.ReadAt(want, start*1024)
	must(t, err)
	if !bytes.Equal(content(t, fs, "f0"), want) {
		t.Error("the extent of 32768 blocks reads wrong")
	}
	if !bytes.Equal(content(t, fs, "f1"), make([]byte, len(want)/8)) {
		t.Error("the unwritten extent does not read as zeros")
	}
}

// debugfs runs a script of its commands on an image.
func debugfs(t testing.TB, image, script string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(file, []byte(script), 0o644))
	out := fstest.Run(t, "debugfs", "-w", "-f", file, image)
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "debugfs") && !strings.HasPrefix(line, "Allocated inode") && strings.TrimSpace(line) != "" {
			t.Fatalf("debugfs: %s", line)
		}
	}
}

func TestTrapInlineData(t *testing.T) {
	sizes := []int{0, 1, 59, 60, 61, 100, 150}
	fs := made(t, 16, "-t ext4 -b 1024 -O inline_data", func(dir string) {
		for _, n := range sizes {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), noise[:n], 0o644))
		}
		must(t, os.MkdirAll(filepath.Join(dir, "d/sub"), 0o755))
		for _, name := range []string{"one", "two", "three", "a somewhat longer name"} {
			must(t, os.WriteFile(filepath.Join(dir, "d", name), []byte(name), 0o644))
		}
	})
	for _, n := range sizes {
		if !bytes.Equal(content(t, fs, fmt.Sprint(n)), noise[:n]) {
			t.Errorf("%d bytes: wrong content", n)
		}
	}
	for _, name := range []string{"one", "two", "three", "a somewhat longer name"} {
		if got := content(t, fs, "d/"+name); string(got) != name {
			t.Errorf("%s: %q", name, got)
		}
	}
	if p, err := fs.Parent(walk(t, fs, "d/sub")); err != nil || p != walk(t, fs, "d") {
		t.Errorf("parent: %d, %v", p, err)
	}
}

func TestTrapExt2AndExt3(t *testing.T) {
	for _, kind := range []string{"ext2", "ext3"} {
		fs := made(t, 32, "-t "+kind+" -b 1024", func(dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "file"), noise, 0o644))
		})
		if !bytes.Equal(content(t, fs, "file"), noise) {
			t.Errorf("%s: wrong content", kind)
		}
		if got := fs.Info().Type; got != kind {
			t.Errorf("type is %s, want %s", got, kind)
		}
	}
}

func TestTrapTimes(t *testing.T) {
	times := []time.Time{
		time.Date(1901, 12, 13, 20, 45, 53, 1, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 999999999, time.UTC),
		time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2038, 1, 19, 3, 14, 8, 5, time.UTC),
		time.Date(2106, 2, 7, 6, 28, 16, 123456789, time.UTC),
		time.Date(2446, 5, 10, 22, 38, 54, 999999999, time.UTC),
	}
	before := time.Now().Add(-time.Minute)
	fs := made(t, 8, "-t ext4 -b 1024 -I 256", func(dir string) {
		for i, when := range times {
			path := filepath.Join(dir, fmt.Sprint(i))
			must(t, os.WriteFile(path, nil, 0o644))
			// os.Chtimes loses dates that do not fit 64 bits of nanoseconds.
			ts := unix.Timespec{Sec: when.Unix(), Nsec: int64(when.Nanosecond())}
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, 0))
		}
	})
	for i, when := range times {
		a, err := fs.Attr(walk(t, fs, fmt.Sprint(i)))
		if err != nil || !a.Mtime.Equal(when) || !a.Atime.Equal(when) {
			t.Errorf("times are %v and %v, %v, want %v", a.Mtime, a.Atime, err, when)
		}
		if a.Btime.Before(before) || a.Btime.After(time.Now().Add(time.Minute)) || a.Btime.Nanosecond() == 0 && a.Ctime.Nanosecond() == 0 {
			t.Errorf("created %v, changed %v", a.Btime, a.Ctime)
		}
	}
}

func TestTrapSharedCursor(t *testing.T) {
	fs := made(t, 32, "-t ext4 -b 1024", func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "file"), noise, 0o644))
		for i := range 300 {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file %d", i)), []byte{byte(i)}, 0o644))
		}
	})
	f := open(t, fs, "file")
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 0))
			p := make([]byte, 5000)
			for range 200 {
				off := r.Int64N(int64(len(noise)))
				n, err := f.ReadAt(p[:1+r.IntN(len(p)-1)], off)
				if err != nil && err != io.EOF || !bytes.Equal(p[:n], noise[off:off+int64(n)]) {
					t.Errorf("read at %d: %d, %v", off, n, err)
				}
			}
			count := 0
			err := fs.ReadDir(fs.Root(), 0, func(e filesys.DirEntry) bool {
				if ino, err := fs.Lookup(fs.Root(), e.Name); err != nil || ino != e.Ino {
					t.Errorf("%q: %d, %v", e.Name, ino, err)
				}
				count++
				return true
			})
			if err != nil || count != 302 {
				t.Errorf("%d entries, %v", count, err)
			}
		})
	}
	wg.Wait()
}

// TestTrapDirectoryOf20000 also counts what a lookup costs.
func TestTrapDirectoryOf20000(t *testing.T) {
	image := mke2fs(t, 32<<20, strings.Fields("-t ext4 -b 1024 -N 1000 -O dir_index,large_dir")...)
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	must(t, os.WriteFile(filepath.Join(dir, "target"), nil, 0o644))
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	for i := range 20000 {
		target := "target"
		if i > 0 {
			target = "d/0"
		}
		must(t, os.Link(filepath.Join(dir, target), filepath.Join(dir, fmt.Sprintf("d/%d", i))))
	}
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	r := &countingReader{r: bytes.NewReader(b)}
	fs, err := ext4.Open(r, int64(len(b)), filesys.Options{})
	must(t, err)
	d := walk(t, fs, "d")
	r.n.Store(0)
	if _, err := fs.Lookup(d, "19999"); err != nil {
		t.Fatal(err)
	}
	if n := r.n.Load(); n > 20<<10 {
		t.Errorf("a lookup reads %d bytes", n)
	}
	count := 0
	must(t, fs.ReadDir(d, 0, func(e filesys.DirEntry) bool { count++; return true }))
	if count != 20000 {
		t.Errorf("%d entries", count)
	}
}

// TestHashCollisions: names of one hash are too many for one leaf of the index,
// so that a lookup has to go on to the next.
func TestHashCollisions(t *testing.T) {
	image := mke2fs(t, 16<<20, strings.Fields("-t ext4 -b 1024")...)
	fstest.Run(t, "tune2fs", "-E", "hash_alg=legacy", image)
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	for i := range 300 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("d/another name %d", i)), nil, 0o644))
	}
	// Found by trying 150 million.
	for _, end := range []string{"nrovnxcq", "n4k0k3dq", "dsd3l0eq", "iveymvfq", "d4g2auhq", "aufrk2iq"} {
		must(t, os.WriteFile(filepath.Join(dir, "d", strings.Repeat("z", 240)+end), []byte(end), 0o644))
	}
	unmount()
	kernel, _ := fstest.Mount(t, image, "ext4", true, "")
	fstest.Compare(t, openImage(t, image), kernel, fstest.Ignore{})
}

// TestHugeVolume has block numbers of more than 32 bits.
func TestHugeVolume(t *testing.T) {
	image := filepath.Join(fstest.TempDir(t), "image")
	f, err := os.Create(image)
	must(t, err)
	if err := f.Truncate(20 << 40); err != nil {
		t.Fatalf("this test needs room in /dev/shm, or another file system there that takes sparse files of 20 TiB: %v", err)
	}
	must(t, f.Close())
	fstest.Run(t, "mke2fs", append(strings.Fields("-q -F -t ext4 -b 4096 -i 1048576 -O meta_bg,^resize_inode,^has_journal -E nodiscard,lazy_itable_init=1"), image)...)
	dir, unmount := fstest.Mount(t, image, "ext4", false, "init_itable=0")
	for i := range 40 { // which Linux spreads over the volume
		d := filepath.Join(dir, fmt.Sprintf("directory %d", i))
		must(t, os.Mkdir(d, 0o755))
		must(t, os.WriteFile(filepath.Join(d, "file"), noise[:20000+i], 0o644))
		must(t, unix.Setxattr(filepath.Join(d, "file"), "user.large", noise[:2000], 0))
	}
	unmount()
	fs := openImage(t, image)
	kernel, _ := fstest.Mount(t, image, "ext4", true, "")
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
	fstest.CompareStatfs(t, fs, kernel)
}
