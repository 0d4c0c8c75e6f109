package ntfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/ntfs"
)

var damages = flag.Int("damages", 60, "how often TestDamage damages each image")

var makeSeeds = flag.Bool("make-seeds", false, "make the images in testdata anew")

// seeds are the volumes that the fuzzer damages: small, and of zeros where
// nothing stands.
var seeds = []string{"plain", "compressed", "lists"}

// TestSeeds: the undamaged seeds have no errors. With -make-seeds it makes them.
func TestSeeds(t *testing.T) {
	for _, name := range seeds {
		if *makeSeeds {
			writeSeed(t, name)
		}
		b := fstest.SeedImage(t, name)
		fs, warnings, err := openBytes(b)
		must(t, err)
		s := fstest.TakeSnapshot(fs, true)
		if len(s.Errs) > 0 || len(s.Digests) < 40 || warnings != "" {
			t.Errorf("%s: %d paths, errors %v, warnings %s", name, len(s.Digests), s.Errs, warnings)
		}
		fstest.Exercise(t, fs, 1<<20)
	}
}

func writeSeed(t *testing.T, name string) {
	image := t.TempDir() + "/image"
	must(t, os.WriteFile(image, make([]byte, 3<<20), 0o644))
	args := []string{"-F", "-Q", "-q", "-c", "512", "-L", name}
	if name == "compressed" {
		args[4] = "4096"
	}
	fstest.Run(t, "mkntfs", append(args, image)...)
	dir, unmount := mount(t, image, "compression,streams_interface=windows")
	text := []byte(strings.Repeat("some text, ", 20000))
	must(t, os.Mkdir(dir+"/many", 0o755))
	for i := range 60 {
		must(t, os.WriteFile(fmt.Sprintf("%s/many/entry number %d in a directory", dir, i), text[:i%3*10], 0o644))
	}
	for i := range 20 {
		must(t, os.Remove(fmt.Sprintf("%s/many/entry number %d in a directory", dir, i*3)))
	}
	must(t, os.Symlink("many", dir+"/link"))
	must(t, unix.Mknod(dir+"/device", unix.S_IFCHR|0o600, int(unix.Mkdev(4, 70000))))
	switch name {
	case "plain":
		must(t, os.WriteFile(dir+"/f", noise[:3000], 0o644))
		must(t, os.WriteFile(dir+"/f:stream", noise[:100], 0o644))
		must(t, os.Mkdir(dir+"/junction", 0o755))
		setReparse(t, dir+"/junction", 0xA0000003, junctionData(`\??\C:\MANY\entry number 1 in a directory`))
		must(t, os.WriteFile(dir+"/symlink", nil, 0o644))
		setReparse(t, dir+"/symlink", 0xA000000C, symlinkData(`..\many`, 1))
	case "compressed":
		must(t, os.Mkdir(dir+"/c", 0o755))
		must(t, unix.Setxattr(dir+"/c", "system.ntfs_attrib", le.AppendUint32(nil, 0x800), 0))
		must(t, os.WriteFile(dir+"/c/text", text[:150000], 0o644))
		for algorithm, args := range [][]string{{"--compress=XPRESS", "--chunk-size=4096"}, {"--compress=LZX", "--chunk-size=32768"}} {
			for f, p := range wimResources(t, map[string][]byte{fmt.Sprint("wof ", algorithm): append(text[:50000:50000], noise[:2000]...)}, args...) {
				must(t, os.WriteFile(dir+"/"+f, nil, 0o644))
				must(t, os.WriteFile(dir+"/"+f+":WofCompressedData", p, 0o644))
				must(t, os.Truncate(dir+"/"+f, 52000))
				setReparse(t, dir+"/"+f, 0x80000017, []byte{1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, byte(algorithm), 0, 0, 0})
			}
		}
	case "lists":
		f, err := os.Create(dir + "/pieces")
		must(t, err)
		for i := range int64(400) {
			_, err := f.WriteAt([]byte("data"), i*1024)
			must(t, err)
		}
		must(t, f.Close())
		for i := range 20 {
			must(t, os.Link(dir+"/pieces", fmt.Sprintf("%s/another name of the same file, number %d", dir, i)))
			must(t, os.WriteFile(fmt.Sprintf("%s/pieces:stream %d", dir, i), text[:20], 0o644))
		}
	}
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	// The table of capital letters does not compress; of letters that do not
	// occur it may say what it likes.
	table := bytes.Index(b, []byte{0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0})
	clear(b[table+512 : table+1<<17])
	fstest.WriteSeedImage(t, name, b)
}

// TestDamage is the fuzzer's quick and blind sister: random bytes where the
// volume keeps its metadata.
func TestDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, name := range seeds {
		b := fstest.SeedImage(t, name)
		rec := fstest.NewRecorder(bytes.NewReader(b))
		fs, err := ntfs.Open(rec, int64(len(b)), filesys.Options{})
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
			if fs, err := ntfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{}); err == nil {
				exercise(t, fs, 2000)
			}
			copy(b, sound)
			if t.Failed() {
				t.Fatalf("%s (seed %d)", name, seed)
			}
		}
	}
}

// exercise calls everything.
func exercise(t testing.TB, fs *ntfs.FS, calls int) {
	fstest.Exercise(t, fs, calls)
	known := func(what string, err error) {
		if err == nil || err == io.EOF {
			return
		}
		for _, s := range []error{filesys.ErrCorrupt, filesys.ErrUnsupported, filesys.ErrNotExist, filesys.ErrNoXattr, filesys.ErrInvalid, filesys.ErrIsDir, filesys.ErrNotDir} {
			if errors.Is(err, s) {
				return
			}
		}
		t.Errorf("%s: an error of no known kind: %v", what, err)
	}
	for ino := range uint64(120) {
		_, err := fs.Names(ino)
		known("names", err)
		for _, name := range []string{"ntfs_acl", "ntfs_attrib", "ntfs_times", "ntfs_reparse_data", "ntfs_object_id", "ntfs_dos_name", "ntfs_ea"} {
			_, err := fs.Xattr(ino, "system."+name)
			known(name, err)
		}
		if f, err := fs.Open(ino); err == nil {
			for off, n := int64(0), 0; off < f.Size() && n < 50; n++ {
				_, length, err := f.(filesys.Stored).Stored(off)
				if known("stored", err); err != nil {
					break
				}
				if length < 1 || length > f.Size()-off {
					t.Fatalf("stored at %d of %d: %d bytes", off, f.Size(), length)
				}
				off += length
			}
		}
	}
	known("changed inodes", fs.ChangedInodes(fs, []filesys.Range{{Off: 0, Len: 1 << 20}}, func(uint64) bool { return true }))
}

// countingReader counts the bytes that are read.
type countingReader struct {
	r io.ReaderAt
	n atomic.Int64
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n.Add(int64(n))
	return n, err
}

// FuzzOpen damages the seeds and calls everything there is. Nothing may panic,
// hang, or give an error of no known kind.
func FuzzOpen(f *testing.F) {
	var images [][]byte
	for i, name := range seeds {
		b := fstest.SeedImage(f, name)
		images = append(images, b)
		f.Add(uint8(i), []byte{})
		for off := 0; off < 128; off += 8 {
			f.Add(uint8(i), []byte{byte(off), 0, 0, 0xFF})
		}
		// In every record, fields of the header and of the attributes.
		mft := int(le.Uint64(b[0x30:])) * int(le.Uint16(b[0x0B:])) * int(b[0x0D])
		for off := mft; off < mft+100<<10; off += 3 * 1024 {
			at := off + 0x14 + (off/1024)*4%400
			f.Add(uint8(i), []byte{byte(at), byte(at >> 8), byte(at >> 16), 0x41})
		}
	}
	f.Fuzz(func(t *testing.T, image uint8, patches []byte) {
		b := bytes.Clone(images[int(image)%len(images)])
		for ; len(patches) >= 4; patches = patches[4:] {
			off := int(binary.LittleEndian.Uint32(patches)&0xFFFFFF) % len(b)
			b[off] = patches[3]
		}
		r := &countingReader{r: bytes.NewReader(b)}
		fs, err := ntfs.Open(r, int64(len(b)), filesys.Options{})
		if err != nil {
			for _, sentinel := range []error{filesys.ErrWrongType, filesys.ErrUnsupported, filesys.ErrCorrupt} {
				if errors.Is(err, sentinel) {
					return
				}
			}
			t.Fatalf("an error of no known kind: %v", err)
		}
		exercise(t, fs, 3000)
		// Every call reads 64 KiB of content at most, and some metadata, most
		// of it from the cache.
		if n := r.n.Load(); n > 6000*(64<<10) {
			t.Errorf("%d bytes were read", n)
		}
	})
}
