package exfat_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/exfat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestMain: the driver thinks in the machine's time zone.
func TestMain(m *testing.M) {
	os.Setenv("TZ", "UTC")
	os.Exit(m.Run())
}

// mount mounts an image by exfat-fuse, until the test ends or the function that
// it gives is called.
func mount(t testing.TB, image, options string) (dir string, unmount func()) {
	t.Helper()
	dev := strings.TrimSpace(fstest.Run(t, "losetup", "--find", "--show", image))
	dir = t.TempDir()
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		err := unix.Unmount(dir, 0)
		for i := 0; err == unix.EBUSY && i < 50; i++ {
			time.Sleep(20 * time.Millisecond) // some other process's quick look
			err = unix.Unmount(dir, 0)
		}
		if err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
		fstest.Run(t, "losetup", "--detach", dev)
	}
	fstest.Run(t, "mount.exfat-fuse", "-o", "noatime,fmask=0133,dmask=0022"+options, dev, dir)
	t.Cleanup(unmount)
	return dir, unmount
}

// TestDriver fills file systems of many kinds by exfat-fuse and compares.
func TestDriver(t *testing.T) {
	for _, c := range []struct {
		args string
		mib  int64
	}{
		{"-c 512", 30}, {"-c 4096 -L label", 40}, {"-c 32768 -L 이름표", 60}, {"-c 131072", 200}, {"-c 524288", 70}, {"-c 33554432", 250},
		{"-c 4096 -b 16K", 40}, {"-c 4096 --pack-bitmap", 40},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			image := mkfs(t, c.mib<<20, strings.Fields(c.args)...)
			dir, unmount := mount(t, image, "")
			var block int64
			fmt.Sscanf(c.args, "-c %d", &block)
			huge := block > 1<<20
			fill(t, dir, block, huge)
			unmount()
			dir, _ = mount(t, image, ",ro")
			fs := openImage(t, image)
			// Directories' sizes are those of their clusters at both.
			fstest.Compare(t, rootTimes{fs}, dir, fstest.Ignore{Inodes: true, Links: true, Owners: true, CtimeBtime: true, Xattrs: true, Nanos: true, Atime: true})
			compareStatfs(t, fs, dir)
			fstest.Exercise(t, fs, 1<<20)
			info := fs.Info()
			if _, label, ok := strings.Cut(c.args, "-L "); len(info.Warnings) > 0 || ok && info.Label != label {
				t.Errorf("%+v", info)
			}
		})
	}
}

// fill makes the files that go into an image with clusters of the given size.
func fill(t testing.TB, dir string, block int64, huge bool) {
	t.Helper()
	p := &fstest.Tree{TB: t, Root: dir, Block: block, Rand: rand.NewChaCha8([32]byte{3})}
	if huge {
		p.File("a file", 3000)
		p.File(p.Dir("directory")+"/a long name.txt", 0)
		return
	}
	p.Dir("names")
	for _, name := range []string{"UPPER.TXT", "lower.txt", "Mixed.Txt", "no extension at all", "two.dots.in it",
		"+,;=[]", "한국어 이름.txt", "Привет", "ünïcödé", "日本語のとても長い名前のファイル.文書", strings.Repeat("x", 255), strings.Repeat("ü", 127),
		"exactly15 chars", "exactly 30 characters are here", "a", ".hidden", "😀 surrogates 𝒳", strings.Repeat("😀", 63)} {
		p.File("names/"+name, int64(len(name)))
	}
	for _, n := range []int64{0, 1, 511, 512, 513, block - 1, block, block + 1, 3*block + 7} {
		p.File(p.Dir("sizes")+fmt.Sprintf("/%d", n), n)
	}
	p.Dir("empty")
	p.File(p.Dir("deep/"+strings.Repeat("d/", 20))+"/bottom", 100)
	for i := range 3 << 20 / int(block) {
		if i < 400 {
			p.File(p.Dir("many")+fmt.Sprintf("/a rather long name of entry number %d", i), int64(i))
		}
	}
	// Files that grow in turns are fragmented, and files that are extended but
	// not written to the end are zeros there.
	for range 12 {
		for i := range 3 {
			p.Open(fmt.Sprintf("%s/%d", p.Dir("grown"), i), func(f *os.File) {
				st, err := f.Stat()
				p.Check(err)
				p.Write(f, st.Size(), block/2+1)
			})
		}
	}
	p.Open("extended", func(f *os.File) {
		p.Write(f, 0, 100)
		p.Check(f.Truncate(5*block + 10))
	})
	p.Open("cut", func(f *os.File) {
		p.Write(f, 0, 5*block)
		p.Check(f.Truncate(block + 1))
	})
	at := time.Date(1987, 5, 17, 3, 4, 6, 0, time.UTC)
	for i, name := range []string{"extended", "cut", "names/a"} {
		at = at.AddDate(18*i, i, i)
		p.Check(os.Chtimes(filepath.Join(dir, name), at, at))
	}
}

// rootTimes: the root has no times, the driver invents some.
type rootTimes struct{ *exfat.FS }

func (r rootTimes) Attr(ino uint64) (filesys.Attr, error) {
	a, err := r.FS.Attr(ino)
	if ino == r.Root() {
		a.Mtime = time.Unix(0, 0)
	}
	return a, err
}

// compareStatfs compares what the driver fills in.
func compareStatfs(t testing.TB, fs filesys.FS, dir string) {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if info := fs.Info(); info.Free != int64(st.Bfree)*st.Bsize || info.Size > int64(st.Blocks)*st.Bsize {
		t.Errorf("%+v, driver %+v", info, st)
	}
}

func openImage(t testing.TB, image string) *exfat.FS {
	t.Helper()
	f, err := os.Open(image)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	must(t, err)
	fs, err := exfat.Open(f, st.Size(), filesys.Options{})
	must(t, err)
	return fs
}
