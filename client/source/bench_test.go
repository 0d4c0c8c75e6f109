package source

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkRead reads an image of random bytes, in cache, by several readers
// as the backup pipeline does.
func BenchmarkRead(b *testing.B) {
	const size = 256 << 20
	dir := b.TempDir()
	raw := filepath.Join(dir, "a.raw")
	writeFile(b, raw, newRand(b), size, span{0, size})
	qemuImg(b, "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(dir, "b.qcow2"))
	s := images(b, dir)
	for _, machine := range []string{"a", "b"} {
		disk := snapshot(b, s, machine).Disks()[0]
		for _, block := range []int64{64 << 10, 1 << 20, 4 << 20} {
			for _, readers := range []int{1, 2, 4} {
				b.Run(fmt.Sprintf("%s/block=%dK/readers=%d", disk.Info().Format, block>>10, readers), func(b *testing.B) {
					b.SetBytes(size)
					for b.Loop() {
						var next atomic.Int64
						var wg sync.WaitGroup
						for range readers {
							wg.Go(func() {
								buf := make([]byte, block)
								for off := next.Add(block) - block; off < size; off = next.Add(block) - block {
									if _, err := disk.ReadAt(buf, off); err != nil {
										b.Error(err)
										return
									}
								}
							})
						}
						wg.Wait()
					}
				})
			}
		}
	}
}

// BenchmarkWrite writes 64 MiB into a new image and commits it.
func BenchmarkWrite(b *testing.B) {
	const size, block = 64 << 20, 1 << 20
	buf := make([]byte, block)
	newRand(b).Read(buf)
	for name, create := range creators {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			path := filepath.Join(b.TempDir(), "x")
			for b.Loop() {
				w, err := create(b.Context(), path, size, size)
				if err != nil {
					b.Fatal(err)
				}
				for off := int64(0); off < size; off += block {
					if _, err := w.WriteAt(buf, off); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Commit(b.Context()); err != nil {
					b.Fatal(err)
				}
				os.Remove(path)
			}
		})
	}
}
