package fat_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cairn/mount/fat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

var (
	damages   = flag.Int("damages", 60, "how often TestDamage damages each image")
	makeSeeds = flag.Bool("make-seeds", false, "make the images in testdata anew")
)

// seedImages are the volumes that the fuzzer damages: small, and of zeros where
// nothing stands.
var seedImages = []struct {
	name, args string
	size       int64
	used       int // slots of the root that are taken
}{
	{"fat12", "-F 12 -s 1 -r 32 -n LABEL", 100 << 10, 1},
	{"fat16", "-F 16 -s 1 -r 32", 2200 << 10, 0},
	{"fat32", "-F 32 -s 1 -R 8", 300 << 10, 0},
}

func writeSeed(t *testing.T, name, args string, size int64, used int) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, make([]byte, size), 0o600))
	fstest.Run(t, "mkfs.fat", append(strings.Fields(args), image)...)
	m := makerOn(t, image)
	root := m.rooted
	root.used += used
	root.file("a long name of a file", noise[:1500], true)
	root.put(m.short("SHORT   TXT", 0x21, m.alloc(1, false)[0], 300), m.short("EMPTY      ", 0, 0, 0), m.short("\xE5ELETED    ", 0, 0, 0))
	d := root.folder("directory", 5, true)
	for i := range 20 {
		d.file(fmt.Sprintf("entry number %d 😀", i), noise[:10*i], false)
	}
	d.folder("below", 1, false).folder("further below", 1, false).file("bottom", noise[:700], true)
	fstest.WriteSeedImage(t, name, m.b)
}

// TestSeeds: the undamaged seeds have no errors. With -make-seeds it makes them.
func TestSeeds(t *testing.T) {
	for _, seed := range seedImages {
		if *makeSeeds {
			writeSeed(t, seed.name, seed.args, seed.size, seed.used)
		}
		b := fstest.SeedImage(t, seed.name)
		fs, err := fat.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
		must(t, err)
		s := fstest.TakeSnapshot(fs, true)
		if len(s.Errs) > 0 || len(s.Digests) < 20 {
			t.Errorf("%s: %d paths, errors %v", seed.name, len(s.Digests), s.Errs)
		}
		fstest.Exercise(t, fs, 1<<20)
	}
}

// TestDamage is the fuzzer's quick and blind sister: random bytes where the
// volume keeps its metadata.
func TestDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, image := range seedImages {
		b := fstest.SeedImage(t, image.name)
		var used []int // where it is not zero
		for off := 0; off < len(b); off += 16 {
			if !bytes.Equal(b[off:off+16], make([]byte, 16)) {
				used = append(used, off)
			}
		}
		for range *damages {
			sound := bytes.Clone(b)
			for range 1 + random.IntN(12) {
				off := used[random.IntN(len(used))] + random.IntN(16)
				switch random.IntN(4) {
				case 0:
					b[off] = byte(random.Uint32())
				case 1:
					b[off] = 0xFF >> random.IntN(8)
				case 2:
					b[off] ^= 1 << random.IntN(8)
				case 3: // another piece
					from := used[random.IntN(len(used))]
					copy(b[off&^3:], b[from:min(len(b), from+4<<random.IntN(8))])
				}
			}
			if fs, err := fat.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{}); err == nil {
				fstest.Exercise(t, fs, 2000)
			}
			copy(b, sound)
			if t.Failed() {
				t.Fatalf("%s (seed %d)", image.name, seed)
			}
		}
	}
}

// countingReader counts the bytes that are read.
type countingReader struct {
	r io.ReaderAt
	n atomic.Int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(int64(len(p)))
	return c.r.ReadAt(p, off)
}

// FuzzOpen damages the seeds and calls everything there is. Nothing may panic,
// hang, or give an error of no known kind.
func FuzzOpen(f *testing.F) {
	var images [][]byte
	for i, seed := range seedImages {
		b := fstest.SeedImage(f, seed.name)
		images = append(images, b)
		f.Add(uint8(i), []byte{})
		for off := i; off < 128; off += len(seedImages) {
			f.Add(uint8(i), []byte{byte(off), 0, 0, 0xFF})
		}
		slots := 0
		for off := 512; off+32 <= len(b); off += 32 {
			if slots < 60 && b[off] != 0 {
				slots++
				f.Add(uint8(i), []byte{byte(off + slots%32), byte(off >> 8), byte(off >> 16), byte(slots)})
			}
		}
	}
	f.Fuzz(func(t *testing.T, image uint8, patches []byte) {
		b := bytes.Clone(images[int(image)%len(images)])
		// Offset (24 bits), then the byte that shall stand there.
		for ; len(patches) >= 4; patches = patches[4:] {
			b[int(binary.LittleEndian.Uint32(patches)&0xFFFFFF)%len(b)] = patches[3]
		}
		r := &countingReader{r: bytes.NewReader(b)}
		fs, err := fat.Open(r, int64(len(b)), filesys.Options{})
		if err != nil {
			for _, sentinel := range []error{filesys.ErrWrongType, filesys.ErrUnsupported, filesys.ErrCorrupt} {
				if errors.Is(err, sentinel) {
					return
				}
			}
			t.Fatalf("an error of no known kind: %v", err)
		}
		fstest.Exercise(t, fs, 3000)
		// 3000 calls, each of which reads 64 KiB of content at most and some
		// metadata, most of it from the cache.
		if n := r.n.Load(); n > 3000*(64<<10) {
			t.Errorf("%d bytes were read", n)
		}
	})
}
