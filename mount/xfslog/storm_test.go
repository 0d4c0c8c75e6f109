package xfslog_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys/fstest"
	"cairn/mount/xfslog/dirtytest"
)

var update = flag.Bool("update", false, "make the seed image anew")

const stormMiB = 24

// TestCopyOnWrite: copies taken while shared blocks are written, which takes
// several transactions each, so that now and then one is caught between them.
func TestCopyOnWrite(t *testing.T) {
	rng := seeded(t)
	var images []string
	storm(t, fstest.Image(t, stormMiB<<20, rng.Uint64()), rng, func(image string) bool {
		images = append(images, image)
		return len(images) < 8
	})
	for _, image := range images {
		compareDirty(t, dirtytest.Config{SizeMiB: stormMiB}, image)
	}
}

// TestUnfinishedCopy: one that was caught, so that a file has a hole where the
// kernel finds data, unless the mapping is finished.
func TestUnfinishedCopy(t *testing.T) {
	if *update {
		image := filepath.Join(fstest.TempDir(t), "image")
		for caught := false; !caught; {
			// Of zeros, to be stored.
			if err := os.WriteFile(image, make([]byte, stormMiB<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			storm(t, image, seeded(t), func(copied string) bool {
				defer os.Remove(copied)
				// One copy of each: later ones would be larger when compressed.
				if loadFile(t, copied).Report().Mappings == 0 {
					return false
				}
				caught = true
				b, err := os.ReadFile(copied)
				if err != nil {
					t.Error(err)
				}
				fstest.WriteSeedImage(t, "unfinished", b)
				return false
			})
		}
	}
	image := filepath.Join(fstest.TempDir(t), "image")
	if err := os.WriteFile(image, fstest.SeedImage(t, "unfinished"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := loadFile(t, image).Report(); r.Mappings == 0 || len(r.Unfinished) == 0 || len(r.Warnings()) != 2 {
		t.Errorf("%+v", r)
	}
	compareDirty(t, dirtytest.Config{SizeMiB: stormMiB}, image)
}

// storm makes a file system on image and gives fn copies of it, until that has
// enough, while shared blocks are written and the log is forced all the time.
func storm(t *testing.T, image string, rng *rand.Rand, fn func(copied string) bool) {
	t.Helper()
	fstest.Run(t, "mkfs.xfs", append(strings.Fields("-q -f -K -m reflink=1,rmapbt=1"), image)...)
	host := fstest.NewHost(t, stormMiB<<20)
	on := filepath.Join(host.Dir, "guest.img")
	fstest.Run(t, "cp", image, on)
	dir, unmount := fstest.Mount(t, on, "xfs", false, "logbsize=32k")

	var stop atomic.Bool
	written := make(chan bool, 1)
	var work sync.WaitGroup
	failed := make(chan bool)
	fail := sync.OnceFunc(func() { close(failed) })
	writer := func(name string, rng *rand.Rand) error {
		a, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer a.Close()
		b, err := os.Create(filepath.Join(dir, name+"-copy"))
		if err != nil {
			return err
		}
		defer b.Close()
		p := make([]byte, 1<<20)
		if _, err := a.Write(p); err != nil {
			return err
		}
		for !stop.Load() {
			if err := unix.IoctlFileClone(int(b.Fd()), int(a.Fd())); err != nil {
				return err
			}
			for i := 0; i < 40 && !stop.Load(); i++ {
				for range 2 {
					p[0]++
					if _, err := a.WriteAt(p[:4096], rng.Int64N(256)*4096); err != nil {
						return err
					}
				}
				if err := unix.Fdatasync(int(a.Fd())); err != nil {
					return err
				}
				select {
				case written <- true:
				default:
				}
			}
		}
		return nil
	}
	for _, name := range []string{"a", "b", "c"} {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
		work.Go(func() {
			if err := writer(name, rng); err != nil {
				t.Error(err)
				fail()
			}
		})
	}
	work.Go(func() {
		root, err := os.Open(dir)
		if err != nil {
			t.Error(err)
			return
		}
		defer root.Close()
		for !stop.Load() {
			if err := unix.Syncfs(int(root.Fd())); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for more := true; more; {
		for range 3 + rng.IntN(5) {
			select {
			case <-written:
			case <-failed:
			}
		}
		more = fn(host.Copy(t, on))
	}
	stop.Store(true)
	work.Wait()
	unmount()
}
