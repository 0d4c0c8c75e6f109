package block

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func random(n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(p)
	return p
}

// realBlocks are n blocks of 64 KiB out of files in /usr/lib, spread over all of
// them, or of this program's source where there are none.
func realBlocks(b *testing.B, n int) [][]byte {
	var files []string
	_ = filepath.WalkDir("/usr/lib", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil && info.Size() >= DefaultSize {
				files = append(files, path)
			}
		}
		return nil
	})
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	var blocks [][]byte
	for _, path := range files {
		if len(blocks) == n {
			break
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		if err != nil {
			b.Fatal(err)
		}
		// As many blocks of a file as its share, so that big files count as such.
		for range 1 + info.Size()/(16<<20) {
			p := make([]byte, DefaultSize)
			k := rng.Int64N(info.Size() / DefaultSize)
			if _, err := f.ReadAt(p, k*DefaultSize); err == nil && !IsZero(p) && len(blocks) < n {
				blocks = append(blocks, p)
			}
		}
		f.Close()
	}
	if len(blocks) == 0 {
		b.Fatal("no files of 64 KiB or more under /usr/lib to measure with")
	}
	return blocks
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{8 << 10, DefaultSize, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", n>>10), func(b *testing.B) {
			p := random(n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Sum(p)
			}
		})
	}
}

func BenchmarkIsZero(b *testing.B) {
	for _, n := range []int{4 << 10, DefaultSize, MaxSize} {
		b.Run(fmt.Sprintf("%dK", n>>10), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				IsZero(p)
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	inputs := map[string][][]byte{
		"usr":    realBlocks(b, 512),
		"random": {random(DefaultSize)},
		"text":   {bytes.Repeat([]byte("the same line of a log, over and over\n"), DefaultSize/38)},
	}
	for _, name := range []string{"usr", "random", "text"} {
		for _, c := range []Compression{None, Fastest, Default} {
			b.Run(name+"/"+c.String(), func(b *testing.B) {
				in := inputs[name]
				dst := make([]byte, 0, MaxEncodedLen(DefaultSize))
				var plain, stored int
				b.SetBytes(DefaultSize)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					p := in[i%len(in)]
					plain += len(p)
					stored += len(Encode(dst, p, c))
				}
				b.ReportMetric(float64(plain)/float64(stored), "ratio")
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	blocks := realBlocks(b, 512)
	for _, c := range []Compression{None, Fastest, Default} {
		b.Run("usr/"+c.String(), func(b *testing.B) {
			var stored [][]byte
			for _, p := range blocks {
				stored = append(stored, Encode(nil, p, c))
			}
			dst := make([]byte, 0, DefaultSize)
			b.SetBytes(DefaultSize)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := Decode(dst, stored[i%len(stored)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
