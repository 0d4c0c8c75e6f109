package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cairn/blockstore/block"
	cairnv1 "cairn/proto/cairn/v1"
)

// What is read through a mount, by a process of its own, from a server that is
// another. Each figure has a mount that was not used before, so nothing of it is
// in the kernel's cache or in the mount's; the server has its own caches, and its
// files are in the kernel's.
//
// What bounds sequential reads on two cores, measured with 64 KiB blocks of a
// Debian /usr, in seconds of processor time per GiB: decompressing 0.64 and
// hashing 0.28, which nothing can spare who wants verified bytes; copying into
// the kernel's page cache 0.3, and out of it 0.25; the server 0.45, most of it
// reading from Pebble's tables and writing to the socket; receiving, the image's
// cache and scheduling 0.3. Together 2.2, so two cores that do nothing else
// give about 0.9 GiB/s. A random read costs 0.2 ms of processor time at both
// ends, of which the block takes 0.06; a lone reader waits besides for four
// threads to be woken, one after the other.

// listed is how many names the directory has that is listed.
const listed = 20_000

// manyNames makes the image of a machine whose only directory is a large one.
func (b *imageBench) manyNames(ctx context.Context) error {
	b.o.Progress(fmt.Sprintf("making an image with a directory of %d files", listed))
	src := filepath.Join(b.box.Dir, "names")
	if err := os.MkdirAll(filepath.Join(src, "many"), 0o700); err != nil {
		return err
	}
	for i := range listed {
		if err := os.WriteFile(fmt.Sprintf("%s/many/file-%05d", src, i), nil, 0o600); err != nil {
			return err
		}
	}
	mkfs, err := exec.LookPath("mke2fs")
	if err != nil {
		mkfs = "/usr/sbin/mke2fs" // Debian keeps it out of an ordinary PATH
	}
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-F", "-t", "ext4", "-N", fmt.Sprint(listed+1000), "-d", src, filepath.Join(b.box.Images, "names.raw"), "64M")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make an image with mke2fs (package e2fsprogs): %w: %s", err, bytes.TrimSpace(out))
	}
	return os.RemoveAll(src)
}

// decoding measures how fast one core decodes and hashes blocks of the image,
// and decodes alone: the yardsticks of everything that is read.
func (b *imageBench) decoding(ctx context.Context) error {
	b.o.Progress("yardstick: decoding blocks of the image on one core")
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer f.Close()
	places, err := dataBlocks(f)
	if err != nil {
		return err
	}
	places = places[:min(len(places), 2000)]
	var stored [][]byte
	var digests []block.Digest
	plain := make([]byte, block.DefaultSize)
	for _, at := range places {
		if _, err := f.ReadAt(plain, at); err != nil {
			return err
		}
		stored = append(stored, block.Encode(nil, plain, block.Fastest))
		digests = append(digests, block.Sum(plain))
	}
	// In processor time of this thread: others may want the core as well.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	measure := func(open func(i int) error) (float64, error) {
		best := 0.0
		for range 3 {
			var before, after unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
				return 0, err
			}
			for i := range stored {
				if err := open(i); err != nil {
					return 0, err
				}
			}
			if err := unix.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
				return 0, err
			}
			used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			best = max(best, float64(len(stored)*block.DefaultSize)/float64(max(1, used))*1e9)
		}
		return best, ctx.Err()
	}
	alone, err := measure(func(i int) (err error) { plain, err = block.Decode(plain[:0], stored[i]); return })
	if err != nil {
		return err
	}
	b.decode, err = measure(func(i int) (err error) { plain, err = block.Open(plain[:0], stored[i], digests[i]); return })
	b.rep.add("one core", "decompresses", alone/mb, "MB/s")
	b.rep.add("one core", "decompresses and hashes", b.decode/mb, "MB/s")
	return err
}

// mounted mounts a point anew and calls f with the directory.
func (b *imageBench) mounted(ctx context.Context, point string, f func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(b.box.Dir, "mnt-")
	if err != nil {
		return err
	}
	if err := b.box.Mount(ctx, point, dir); err != nil {
		return err
	}
	defer func() {
		peak, perr := b.box.PeakMemory("mount")
		b.mountPeak = max(b.mountPeak, peak)
		err = errors.Join(err, perr, b.box.End("mount"), os.Remove(dir))
	}()
	return f(dir)
}

// disk opens the newest point's disk in a mount.
func (b *imageBench) disk(dir string) (*os.File, error) {
	return os.Open(filepath.Join(dir, "disks", b.point.GetDisks()[0].GetTarget()+".raw"))
}

// processors measures the processor time of server, mount and this process, which
// reads, while f runs.
func (b *imageBench) processors(f func() error) (time.Duration, error) {
	total := func() (sum time.Duration, err error) {
		for _, name := range []string{"cairnd", "mount"} {
			d, err := b.box.ProcessorTime(name)
			if err != nil {
				return 0, err
			}
			sum += d
		}
		var u unix.Rusage
		err = unix.Getrusage(unix.RUSAGE_SELF, &u)
		return sum + time.Duration(u.Utime.Nano()+u.Stime.Nano()), err
	}
	before, err := total()
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := total()
	return after - before, err
}

// firstLook measures how long it takes until somebody sees files.
func (b *imageBench) firstLook(ctx context.Context) error {
	b.o.Progress("mount: the first look")
	start := time.Now()
	return b.mounted(ctx, b.point.GetName(), func(dir string) error {
		b.rep.add("mount", "command until the tree is there", time.Since(start).Seconds()*1000, "ms")
		start := time.Now()
		vols, err := os.ReadDir(filepath.Join(dir, "volumes"))
		if err != nil {
			return err
		}
		for _, v := range vols {
			if v.IsDir() {
				if _, err := os.ReadDir(filepath.Join(dir, "volumes", v.Name())); err != nil {
					return err
				}
			}
		}
		b.rep.add("mount", "first ls of all volumes", time.Since(start).Seconds()*1000, "ms").atMost(100, "100")
		return nil
	})
}

// dataBlocks gives the places of the blocks of a sparse file that hold data.
func dataBlocks(f *os.File) (places []int64, err error) {
	err = extents(f, func(off, length int64) error {
		for at := (off + 65535) / 65536 * 65536; at+65536 <= off+length; at += 65536 {
			places = append(places, at)
		}
		return nil
	})
	rng := rand.New(rand.NewPCG(6, 7))
	rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	return places, err
}

// randomReads reads 4 KiB at places that were not read before, each in a block
// of its own, from one reader and from several.
func (b *imageBench) randomReads(ctx context.Context) error {
	for _, readers := range []int{1, 4, 16} {
		b.o.Progress(fmt.Sprintf("mount: random reads, %d at a time", readers))
		err := b.mounted(ctx, b.point.GetName(), func(dir string) error {
			f, err := b.disk(dir)
			if err != nil {
				return err
			}
			defer f.Close()
			places, err := dataBlocks(f)
			if err != nil || len(places) == 0 { // too small to say anything
				return err
			}
			places = places[:min(len(places), 20_000)]
			if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
				return err
			}
			var next atomic.Int64
			var took time.Duration
			used, err := b.processors(func() error {
				var g errgroup.Group
				start := time.Now()
				for range readers {
					g.Go(func() error {
						buf := make([]byte, 4096)
						for i := next.Add(1) - 1; i < int64(len(places)) && time.Since(start) < 5*time.Second; i = next.Add(1) - 1 {
							if _, err := f.ReadAt(buf, places[i]); err != nil {
								return err
							}
						}
						return ctx.Err()
					})
				}
				err := g.Wait()
				took = time.Since(start)
				return err
			})
			if err != nil {
				return err
			}
			done := float64(min(next.Load(), int64(len(places))))
			what := fmt.Sprintf("%d at a time", readers)
			b.rep.add("mount, random 4 KiB", what, done/took.Seconds(), "1/s").atLeast(5000, "5000")
			b.rep.add("mount, random 4 KiB", what+", processor time each", used.Seconds()/done*1e6, "µs")
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sequentialReads reads all data of the disk, as a copy of it would.
func (b *imageBench) sequentialReads(ctx context.Context) error {
	b.o.Progress("mount: the whole disk in sequence")
	return b.mounted(ctx, b.point.GetName(), func(dir string) error {
		f, err := b.disk(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		var total int64
		var took time.Duration
		used, err := b.processors(func() error {
			buf := make([]byte, 1<<20)
			start := time.Now()
			err := extents(f, func(off, length int64) error {
				for end := off + length; off < end; {
					n, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
					if n == 0 {
						return err
					}
					off += int64(n)
					total += int64(n)
				}
				return ctx.Err()
			})
			took = time.Since(start)
			return err
		})
		if err != nil || total == 0 {
			return err
		}
		rate := float64(total) / took.Seconds()
		b.rep.add("mount, sequential", "all data of the disk", rate/mb, "MB/s").atLeast(1200, "1200")
		b.rep.add("mount, sequential", "of what one core decodes and hashes", rate/b.decode, "×")
		b.rep.add("mount, sequential", "processor time per GiB", used.Seconds()/float64(total)*(1<<30), "s")
		b.rep.add("mount, sequential", "of that to decode and hash", (1<<30)/b.decode, "s")
		return nil
	})
}

// listing lists a large directory with everything that stat tells.
func (b *imageBench) listing(ctx context.Context) error {
	b.o.Progress("mount: a large directory")
	resp, err := b.c.Items.BackUp(ctx, &cairnv1.BackUpRequest{Name: namesItem})
	if err != nil {
		return err
	}
	j, err := b.wait(ctx, resp.GetJob().GetName())
	if err != nil {
		return err
	}
	return b.mounted(ctx, j.GetRecoveryPoint(), func(dir string) error {
		start := time.Now()
		entries, err := os.ReadDir(filepath.Join(dir, "volumes", b.point.GetDisks()[0].GetTarget(), "many"))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if _, err := e.Info(); err != nil {
				return err
			}
		}
		if len(entries) != listed {
			return fmt.Errorf("%d names in a directory of %d", len(entries), listed)
		}
		b.rep.add("mount", fmt.Sprintf("ls -l of %d files", listed), time.Since(start).Seconds()*1000, "ms").atMost(1000, "1000")
		return nil
	})
}
