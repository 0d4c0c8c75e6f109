package xfslog_test

import (
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

// TestCopyOnWrite: copies taken while shared blocks are written, which takes
// several transactions each, so that now and then one is caught between them.
func TestCopyOnWrite(t *testing.T) {
	const mib = 64
	rng := seeded(t)
	image := fstest.Image(t, mib<<20, rng.Uint64())
	fstest.Run(t, "mkfs.xfs", append(strings.Fields("-q -f -K -m reflink=1,rmapbt=1"), image)...)
	host := fstest.NewHost(t, mib<<20)
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
		p := make([]byte, 2<<20)
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
					if _, err := a.WriteAt(p[:4096], rng.Int64N(500)*4096); err != nil {
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
	var images []string
	for i := range 8 {
		for range 20 + i {
			select {
			case <-written:
			case <-failed:
			}
		}
		images = append(images, host.Copy(t, on))
	}
	stop.Store(true)
	work.Wait()
	unmount()
	for _, image := range images {
		compareDirty(t, dirtytest.Config{SizeMiB: mib}, image)
	}
}
