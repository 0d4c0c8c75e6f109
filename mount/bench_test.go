package mount

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/mounttest"
)

const benchSize = 256 << 20

// benchFile mounts a guest with a large file in memory and opens it.
func benchFile(b *testing.B, flags int) int {
	fs := mounttest.NewFS()
	fs.File("/big", mounttest.Pattern(benchSize))
	g := guest(b, fs)
	fd, err := unix.Open(g+"/big", unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	return fd
}

// forget empties the kernel's cache of the file.
func forget(b *testing.B, fd int) {
	if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSequential reads a file through the mount as cat and cp do.
func BenchmarkSequential(b *testing.B) {
	for _, size := range []int{128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", size>>10), func(b *testing.B) {
			fd := benchFile(b, 0)
			buf := make([]byte, size)
			b.SetBytes(benchSize)
			for b.Loop() {
				b.StopTimer()
				forget(b, fd)
				b.StartTimer()
				for off := int64(0); off < benchSize; off += int64(size) {
					if n, err := unix.Pread(fd, buf, off); n != size || err != nil {
						b.Fatal(n, err)
					}
				}
			}
		})
	}
}

// BenchmarkCached reads what the kernel has kept.
func BenchmarkCached(b *testing.B) {
	fd := benchFile(b, 0)
	buf := make([]byte, 1<<20)
	b.SetBytes(benchSize)
	for b.Loop() {
		for off := int64(0); off < benchSize; off += int64(len(buf)) {
			if n, err := unix.Pread(fd, buf, off); n != len(buf) || err != nil {
				b.Fatal(n, err)
			}
		}
	}
}

// BenchmarkRandom4K is one 4 KiB read somewhere, past the kernel's cache, by 1 and by 16
// readers a core.
func BenchmarkRandom4K(b *testing.B) {
	for _, readers := range []int{1, 16} {
		b.Run(fmt.Sprint(readers, " readers"), func(b *testing.B) {
			fd := benchFile(b, unix.O_DIRECT)
			b.ResetTimer()
			var seed atomic.Uint64
			b.SetParallelism(readers)
			b.RunParallel(func(pb *testing.PB) {
				r := rand.New(rand.NewPCG(seed.Add(1), 7))
				buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
				if err != nil {
					b.Error(err)
					return
				}
				defer unix.Munmap(buf)
				for pb.Next() {
					if _, err := unix.Pread(fd, buf, r.Int64N(benchSize/4096)*4096); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
		})
	}
}

// BenchmarkTree reads 10,000 small files in 100 directories with tar.
func BenchmarkTree(b *testing.B) {
	fs := mounttest.NewFS()
	const dirs, files = 100, 100
	for i := range dirs {
		fs.Dir(fmt.Sprintf("/d%d", i))
		for k := range files {
			fs.File(fmt.Sprintf("/d%d/f%d", i, k), "small file")
		}
	}
	for b.Loop() {
		b.StopTimer()
		_, dir := mountPoint(b, testPoint(nil), fs, Options{})
		b.StartTimer()
		sh(b, `tar -C "$1" -cf - . | wc -c`, dir)
	}
	b.ReportMetric(float64(dirs*files*b.N)/b.Elapsed().Seconds(), "files/s")
}
