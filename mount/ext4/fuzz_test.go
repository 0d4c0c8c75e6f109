package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

var damages = flag.Int("damages", 30, "how often TestDamage damages each image")

var makeSeeds = flag.Bool("make-seeds", false, "make the images in testdata anew")

// seedImages are the volumes that the fuzzer damages: small, of zeros where
// nothing stands, and without checksums where they would hide everything else.
var seedImages = []struct{ name, args string }{
	{"ext2", "-t ext2 -b 1024"},
	{"dirty", "-t ext4 -b 1024 -J size=1 -O ^metadata_csum,^resize_inode,orphan_file"},
	{"extents", "-t ext4 -b 1024 -O ^has_journal,^metadata_csum,^resize_inode"},
	{"inline", "-t ext4 -b 1024 -O ^has_journal,^metadata_csum,^resize_inode,inline_data,ea_inode"},
	{"metabg-bigalloc", "-t ext4 -b 1024 -O ^has_journal,^metadata_csum,^resize_inode,meta_bg,bigalloc,large_dir,casefold,encrypt -C 4096 -E encoding=utf8"},
	{"checksums", "-t ext4 -b 4096 -O ^has_journal,^resize_inode,quota,project"},
}

// TestSeeds: the undamaged seeds have no errors. With -make-seeds it makes them.
func TestSeeds(t *testing.T) {
	for i, seed := range seedImages {
		if *makeSeeds {
			writeSeed(t, seed.name, seed.args)
		}
		b := fstest.SeedImage(t, seedImages[i].name)
		fs, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
		must(t, err)
		s := fstest.TakeSnapshot(fs, true)
		if len(s.Errs) > 0 || len(s.Digests) < 50 {
			t.Errorf("%s: %d paths, errors %v", seed.name, len(s.Digests), s.Errs)
		}
		if w := strings.Join(fs.Info().Warnings, " "); strings.Contains(w, "replayed") != (seed.name == "dirty") ||
			strings.Contains(w, "still open") != (seed.name == "dirty") {
			t.Errorf("%s: warnings: %s", seed.name, w)
		}
		fstest.Exercise(t, fs, 1<<20)
	}
}

func writeSeed(t *testing.T, name, args string) {
	t.Helper()
	files := t.TempDir()
	dir := func(name string) string {
		must(t, os.MkdirAll(filepath.Join(files, name), 0o755))
		return filepath.Join(files, name)
	}
	d := dir("many")
	must(t, os.WriteFile(d+"/first", noise[:1200], 0o644))
	for i := range 60 {
		must(t, os.Link(d+"/first", fmt.Sprintf("%s/entry number %d in a directory", d, i)))
	}
	d = dir("files")
	must(t, os.WriteFile(d+"/small", noise[:100], 0o640))
	f, err := os.Create(d + "/sparse")
	must(t, err)
	for i := range int64(7) {
		_, err := f.WriteAt([]byte("data"), i*i*9000)
		must(t, err)
	}
	must(t, f.Truncate(500000))
	must(t, f.Close())
	must(t, os.Symlink("small", d+"/fast link"))
	must(t, os.Symlink(strings.Repeat("slow/", 20), d+"/slow link"))
	must(t, unix.Mknod(d+"/device", unix.S_IFCHR|0o600, int(unix.Mkdev(4, 70000))))
	must(t, unix.Setxattr(d+"/small", "user.note", []byte("a value"), 0))
	must(t, unix.Setxattr(d+"/small", "user.large", bytes.Repeat([]byte("large"), 120), 0))
	dir("inline/of/directories")

	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, make([]byte, 1<<20+1<<19), 0o644))
	if strings.Contains(args, "-J") {
		must(t, os.Truncate(image, 4<<20))
	}
	fstest.Run(t, "mke2fs", append(strings.Fields("-q -F -N 64 -I 256 -d "+files+" "+args), image)...)
	if name == "dirty" {
		// A log that has not been written back.
		dir, unmount := fstest.Mount(t, image, "ext4", false, "data=journal")
		must(t, os.WriteFile(dir+"/in the log", noise[:500], 0o644))
		open, err := os.Create(dir + "/open")
		must(t, err)
		must(t, os.Remove(dir+"/open"))
		fd, err := unix.Open(dir, unix.O_RDONLY, 0)
		must(t, err)
		must(t, unix.Syncfs(fd))
		must(t, unix.Close(fd))
		out, err := os.ReadFile(image)
		must(t, err)
		must(t, open.Close())
		unmount()
		must(t, os.WriteFile(image, out, 0o644))
	} else {
		// Build the hash trees that mke2fs does not.
		fstest.Run(t, "sh", "-c", "e2fsck -fyD "+image+" >/dev/null; test $? -le 1")
	}
	b, err := os.ReadFile(image)
	must(t, err)
	fstest.WriteSeedImage(t, name, b)
}

// TestDamage is the fuzzer's quick and blind sister: random bytes where the
// volume keeps its metadata.
func TestDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range seedImages {
		b := fstest.SeedImage(t, seedImages[i].name)
		rec := fstest.NewRecorder(bytes.NewReader(b))
		fs, err := ext4.Open(rec, int64(len(b)), filesys.Options{})
		must(t, err)
		fstest.TakeSnapshot(fs, false)
		metadata := rec.Offsets()
		for range *damages {
			sound := bytes.Clone(b)
			for range 1 + random.IntN(12) {
				off := metadata[random.IntN(len(metadata))] + random.Int64N(1024)
				switch random.IntN(4) {
				case 0:
					b[off] = byte(random.Uint32())
				case 1:
					b[off] = 0xFF >> random.IntN(8)
				case 2:
					b[off] ^= 1 << random.IntN(8)
				case 3: // another piece of metadata
					n := int64(4 << random.IntN(8))
					from := metadata[random.IntN(len(metadata))]
					copy(b[off&^3:], b[from:from+n])
				}
			}
			if fs, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{}); err == nil {
				fstest.Exercise(t, fs, 2000)
			}
			copy(b, sound)
			if t.Failed() {
				t.Fatalf("%s (seed %d)", seedImages[i].name, seed)
			}
		}
	}
}

// damage applies patches to b: offset (24 bits), then a byte that says how the
// byte there changes.
func damage(b, patches []byte) {
	for ; len(patches) >= 4; patches = patches[4:] {
		off := int(binary.LittleEndian.Uint32(patches)&0xFFFFFF) % len(b)
		b[off] = patches[3]
	}
}

// FuzzOpen damages the seeds and calls everything there is. Nothing may panic,
// hang, or give an error of no known kind.
func FuzzOpen(f *testing.F) {
	var images [][]byte
	for i := range seedImages {
		b := fstest.SeedImage(f, seedImages[i].name)
		images = append(images, b)
		f.Add(uint8(i), []byte{})
		// Patches in fields of the superblock, and in the first blocks
		// that are not empty.
		for off := 1024 + 4*i; off < 2048; off += 16 * len(seedImages) {
			f.Add(uint8(i), []byte{byte(off), byte(off >> 8), 0, 0xFF})
		}
		blocks := 0
		for off := 2048; off < len(b); off += 1024 {
			if blocks < 25 && !bytes.Equal(b[off:off+1024], make([]byte, 1024)) {
				blocks++
				f.Add(uint8(i), []byte{byte(off + 4), byte(off >> 8), byte(off >> 16), 0x01})
			}
		}
	}
	f.Fuzz(func(t *testing.T, image uint8, patches []byte) {
		b := bytes.Clone(images[int(image)%len(images)])
		damage(b, patches)
		r := &countingReader{r: bytes.NewReader(b)}
		fs, err := ext4.Open(r, int64(len(b)), filesys.Options{})
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
