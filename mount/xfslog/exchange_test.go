package xfslog_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
)

// TestExchange: two files whose mappings are trees exchange them, which is logged
// without the blocks of those trees. It is compared with the mount that did it:
// kernels (6.18 among them) crash when they replay such an exchange of a file
// that has changed since.
func TestExchange(t *testing.T) {
	rng := seeded(t)
	for _, args := range []string{"", "-b size=1024"} {
		image := fstest.Image(t, 96<<20, rng.Uint64())
		fstest.Run(t, "mkfs.xfs", append(strings.Fields("-q -f -K -m reflink=0,rmapbt=0 "+args), image)...)
		host := fstest.NewHost(t, 96<<20)
		on := filepath.Join(host.Dir, "guest.img")
		fstest.Run(t, "cp", image, on)
		dir, unmount := fstest.Mount(t, on, "xfs", false, "")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		p := make([]byte, 3000)
		for _, f := range []struct {
			name    string
			extents int64
		}{{"many", 700}, {"fewer", 300}, {"few", 5}} {
			file, err := os.Create(filepath.Join(dir, f.name))
			must(err)
			for i := range f.extents {
				p[0], p[1], p[2] = byte(i), byte(i>>8), f.name[0]
				_, err := file.WriteAt(p, i*16384)
				must(err)
			}
			must(file.Truncate(700 * 16384))
			must(file.Sync())
			must(file.Close())
		}
		// What is not in the log already is not logged by the exchange.
		unmount()
		dir, unmount = fstest.Mount(t, on, "xfs", false, "")
		// One side may only come to have fewer extents.
		out := fstest.Run(t, "xfs_io", "-c", "swapext "+filepath.Join(dir, "fewer"), filepath.Join(dir, "many"))
		if out != "" {
			t.Fatalf("swapext: %s", out)
		}
		// One mapping changes afterwards, and its inode is logged again.
		file, err := os.OpenFile(filepath.Join(dir, "fewer"), os.O_RDWR, 0)
		must(err)
		_, err = file.WriteAt(p, 690*16384+8192)
		must(err)
		must(file.Sync())
		must(file.Close())

		copied := host.Copy(t, on)
		f, err := os.Open(copied)
		must(err)
		fs, err := xfs.Open(f, 96<<20, filesys.Options{})
		must(err)
		t.Log(fs.Info().Warnings)
		fstest.Compare(t, fs, dir, fstest.Ignore{})
		f.Close()
		checkRepair(t, copied)
		unmount()
	}
}
