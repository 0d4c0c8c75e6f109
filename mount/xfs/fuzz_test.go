package xfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfs"
)

var damages = flag.Int("damages", 30, "how often TestDamage damages each image")

// seed is a volume that is damaged, and mended again.
type seed struct {
	*sealer
	image []byte
	// metadata are the offsets, by KiB, of what is read without contents.
	metadata []int64
}

func loadSeed(t testing.TB, name string) *seed {
	b := fstest.SeedImage(t, name)
	rec := fstest.NewRecorder(bytes.NewReader(b))
	fs, err := xfs.Open(rec, int64(len(b)), filesys.Options{})
	must(t, err)
	fstest.TakeSnapshot(fs, false)
	fs.Info()
	return &seed{newSealer(b), bytes.Clone(b), rec.Offsets()}
}

func loadSeeds(t testing.TB) (list []*seed) {
	for _, s := range seedImages {
		list = append(list, loadSeed(t, s.name))
	}
	return list
}

// edit changes a byte, and gives all that lie in the same block their checksums.
func (s *seed) edit(off int, v byte) {
	s.image[off] = v
	s.seal(s.image, off)
}

// TestDamage is the fuzzer's quick and blind sister: random bytes where the
// volume keeps its metadata, under right checksums.
func TestDamage(t *testing.T) {
	n := uint64(time.Now().UnixNano())
	t.Logf("seed %d", n)
	random := rand.New(rand.NewPCG(n, 0))
	for i, s := range loadSeeds(t) {
		for range *damages {
			var offs []int
			for range 1 + random.IntN(12) {
				off := int(s.metadata[random.IntN(len(s.metadata))] + random.Int64N(1024))
				offs = append(offs, off)
				switch random.IntN(4) {
				case 0:
					s.edit(off, byte(random.Uint32()))
				case 1:
					s.edit(off, 0xFF>>random.IntN(8))
				case 2:
					s.edit(off, s.image[off]^1<<random.IntN(8))
				case 3: // another piece of metadata
					to, n := off&^3, 4<<random.IntN(7)
					from := int(s.metadata[random.IntN(len(s.metadata))])
					copy(s.image[to:min(to&^511+512, to+n)], s.sound[from:])
					s.seal(s.image, to)
				}
			}
			if fs, err := xfs.Open(bytes.NewReader(s.image), int64(len(s.image)), filesys.Options{}); err == nil {
				fstest.Exercise(t, fs, 2000)
			}
			for _, off := range offs {
				s.restore(s.image, off)
			}
			if t.Failed() {
				t.Fatalf("%s (seed %d)", seedImages[i].name, n)
			}
		}
		if !bytes.Equal(s.image, s.sound) {
			t.Fatal("the image was not mended")
		}
	}
}

// FuzzOpen damages the seeds and calls everything there is. Nothing may panic,
// hang, or give an error of no known kind. A patch is the offset of a byte (24
// bits) and what it becomes; checksums are made to fit.
func FuzzOpen(f *testing.F) {
	seeds := loadSeeds(f)
	for i, s := range seeds {
		f.Add(uint8(i), []byte{})
		for n, off := range s.metadata {
			if n%3 == i%3 {
				for at := off; at < off+1024; at += 64 + 29*int64(i) {
					f.Add(uint8(i), []byte{byte(at), byte(at >> 8), byte(at >> 16), 0xFF})
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, image uint8, patches []byte) {
		s := seeds[int(image)%len(seeds)]
		var offs []int
		for ; len(patches) >= 4; patches = patches[4:] {
			off := int(binary.LittleEndian.Uint32(patches)&0xFFFFFF) % len(s.image)
			s.edit(off, patches[3])
			offs = append(offs, off)
		}
		defer func() {
			for _, off := range offs {
				s.restore(s.image, off)
			}
		}()
		r := &countingReader{r: bytes.NewReader(s.image)}
		fs, err := xfs.Open(r, int64(len(s.image)), filesys.Options{})
		if err != nil {
			for _, sentinel := range []error{filesys.ErrWrongType, filesys.ErrUnsupported, filesys.ErrCorrupt} {
				if errors.Is(err, sentinel) {
					return
				}
			}
			t.Fatalf("an error of no known kind: %v", err)
		}
		fstest.Exercise(t, fs, 3000)
		if err := fs.ChangedInodes(seeds[int(image)%len(seeds)].sister(t), []filesys.Range{{Len: int64(len(s.image))}}, func(uint64) bool { return true }); err != nil &&
			!errors.Is(err, filesys.ErrUnsupported) {
			t.Errorf("changed inodes: %v", err)
		}
		// 3000 calls, each of which reads 64 KiB of content at most and some
		// metadata, most of it from the cache.
		if n := r.n.Load(); n > 3000*(64<<10) {
			t.Errorf("%d bytes were read", n)
		}
	})
}

// sister opens the sound volume.
func (s *seed) sister(t testing.TB) *xfs.FS { return openBytes(t, s.sound) }
