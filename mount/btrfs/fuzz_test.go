package btrfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

var (
	damages   = flag.Int("damages", 150, "how often TestDamage damages each file system")
	makeSeeds = flag.Bool("make-seeds", false, "make the images in testdata anew")
)

// seedImages are the file systems that the fuzzer damages, of one device or
// two. They are of zeros where nothing stands.
var seedImages = []struct {
	name    string
	args    string
	devices int
	make    func(t *testing.T, dir string)
}{
	{"files", "--mixed -n 4096", 1, seedFiles},
	{"log", "--mixed -n 4096", 1, seedLog},
	{"subvolumes", "--mixed -n 4096 -O ^no-holes,^extref,^skinny-metadata", 1, seedSubvolumes},
	{"raid0", "--mixed -n 4096 -d raid0 -m raid0", 2, seedFiles},
}

func seedFiles(t *testing.T, dir string) {
	path := func(name string) string { return filepath.Join(dir, name) }
	for i := range 60 {
		writeFile(t, path(fmt.Sprintf("many/entry number %d in a directory", i)), nil)
	}
	writeFile(t, path("files/inline"), text(300))
	writeFile(t, path("files/plain"), noise[:5000])
	writeFile(t, path("files/compressed"), bytes.Repeat(text(500), 280))
	writeFile(t, path("files/zlib"), nil)
	fstest.Run(t, "btrfs", "property", "set", path("files/zlib"), "compression", "zlib")
	writeFile(t, path("files/zlib"), text(9000))
	f, err := os.Create(path("files/sparse"))
	must(t, err)
	for i := range int64(7) {
		_, err := f.WriteAt([]byte("data"), i*i*9000)
		must(t, err)
	}
	must(t, unix.Fallocate(int(f.Fd()), 0, 100000, 9000))
	must(t, f.Truncate(500000))
	must(t, f.Close())
	must(t, os.Symlink("inline", path("files/link")))
	must(t, os.Link(path("files/inline"), path("files/hard link")))
	must(t, unix.Mknod(path("files/device"), unix.S_IFCHR|0o600, int(unix.Mkdev(4, 70000))))
	must(t, unix.Setxattr(path("files/inline"), "user.note", []byte("a value"), 0))
	must(t, unix.Setxattr(path("files/inline"), "user.large", bytes.Repeat([]byte("large"), 120), 0))
	fstest.Run(t, "cp", "--reflink=always", path("files/compressed"), path("files/shared"))
}

func seedLog(t *testing.T, dir string) {
	path := func(name string) string { return filepath.Join(dir, name) }
	seedFiles(t, dir)
	subvolume(t, "create", path("sub"))
	commit(t, dir)
	must(t, os.Remove(path("many/entry number 7 in a directory")))
	must(t, os.Rename(path("many/entry number 8 in a directory"), path("many/entry number 7 in a directory")))
	must(t, os.Remove(path("files/hard link")))
	must(t, unix.Removexattr(path("files/inline"), "user.note"))
	for _, name := range []string{"files/plain", "files/inline", "files/sparse"} {
		f, err := os.OpenFile(path(name), os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt(text(6000), 3000)
		must(t, err)
		must(t, f.Truncate(20000))
		must(t, f.Sync())
		must(t, f.Close())
	}
	writeFile(t, path("sub/new"), text(100))
	for _, name := range []string{"sub/new", "many", "many/entry number 7 in a directory"} {
		f, err := os.Open(path(name))
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
	}
}

func seedSubvolumes(t *testing.T, dir string) {
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"@", "@/var", "@home"} {
		subvolume(t, "create", path(name))
		writeFile(t, path(name+"/file"), []byte(name))
	}
	subvolume(t, "snapshot", path("@"), path("@home/snapshot"))
	must(t, os.Remove(path("@/file")))
	subvolume(t, "set-default", path("@"))
}

// image is a device of a seed: what of it is not zeros.
type image struct {
	bytes []byte
	size  int64
}

// seedVolume reads the images of a seed.
func seedVolume(t testing.TB, i int) (list []image) {
	t.Helper()
	for n := range seedImages[i].devices {
		b := fstest.SeedImage(t, fmt.Sprintf("%s-%d", seedImages[i].name, n))
		size := int64(binary.LittleEndian.Uint64(b[64<<10+0xc9+8:])) // as its superblock has it
		list = append(list, image{b, size})
	}
	return list
}

// TestSeeds: the undamaged seeds have no errors. With -make-seeds it makes them.
func TestSeeds(t *testing.T) {
	for i, seed := range seedImages {
		if *makeSeeds {
			writeSeed(t, i)
		}
		fs, err := btrfs.Open(newDamaged(seedVolume(t, i), nil, nil).devices(), filesys.Options{})
		must(t, err)
		s := fstest.TakeSnapshot(fs, true)
		if len(s.Errs) > 0 || len(s.Digests) < 3 {
			t.Errorf("%s: %d paths, errors %v", seed.name, len(s.Digests), s.Errs)
		}
		if log := len(fs.Info().Warnings) == 1; log != (seed.name == "log") {
			t.Errorf("%s: warnings: %s", seed.name, fs.Info().Warnings)
		}
		fstest.Exercise(t, fs, 1<<20)
	}
}

func writeSeed(t *testing.T, i int) {
	t.Helper()
	seed := seedImages[i]
	v := &volume{}
	for range seed.devices {
		v.images = append(v.images, filepath.Join(fstest.TempDir(t), "image"))
		must(t, os.WriteFile(v.images[len(v.images)-1], make([]byte, (seed.devices*48-16)<<20), 0o644))
	}
	args := append([]string{"-q", "-f", "-U", "01234567-89ab-cdef-0123-456789abcdef"}, bytesFields(seed.args)...)
	fstest.Run(t, "mkfs.btrfs", append(args, v.images...)...)
	dir, unmount := v.mount(t, false, "compress=lzo,commit=3000")
	seed.make(t, dir)
	if seed.name != "log" {
		commit(t, dir)
	}
	var images [][]byte
	for _, name := range v.images {
		b, err := os.ReadFile(name)
		must(t, err)
		images = append(images, b)
	}
	unmount()
	for n, b := range images {
		if len(b) > 64<<20 {
			clear(b[64<<20:][:4096]) // the superblock's copy, for which zeros would be kept
		}
		fstest.WriteSeedImage(t, fmt.Sprintf("%s-%d", seed.name, n), bytes.TrimRight(b, "\x00"))
	}
}

func bytesFields(s string) (list []string) {
	for _, f := range bytes.Fields([]byte(s)) {
		list = append(list, string(f))
	}
	return list
}

// block is where a tree block or superblock was read.
type block struct {
	dev int
	off int64
	len int
}

// patch changes a byte of a block.
type patch struct {
	off   int
	value byte
}

// damagedVolume gives the devices of a seed with patches applied to blocks,
// whose checksums are then made right again, so that the damage is not found by
// them.
type damagedVolume struct {
	images  []image
	patches map[block][]patch
	read    atomic.Int64
	onRead  func(block)
}

func newDamaged(images []image, patches map[block][]patch, onRead func(block)) *damagedVolume {
	return &damagedVolume{images: images, patches: patches, onRead: onRead}
}

type damagedDevice struct {
	v *damagedVolume
	n int
}

func (v *damagedVolume) devices() (list []btrfs.Device) {
	for i := range v.images {
		list = append(list, damagedDevice{v, i})
	}
	return list
}

func (d damagedDevice) Size() int64 { return d.v.images[d.n].size }

func (d damagedDevice) ReadAt(p []byte, off int64) (int, error) {
	img := d.v.images[d.n]
	if off < 0 || off+int64(len(p)) > img.size {
		return 0, fmt.Errorf("read %d bytes at %d: %w", len(p), off, filesys.ErrCorrupt)
	}
	n := 0
	if off < int64(len(img.bytes)) {
		n = copy(p, img.bytes[off:])
	}
	clear(p[n:])
	b := block{d.n, off, len(p)}
	d.v.read.Add(int64(len(p)))
	if d.v.onRead != nil {
		d.v.onRead(b)
	}
	if patches := d.v.patches[b]; len(patches) > 0 {
		for _, c := range patches {
			p[c.off%len(p)] = c.value
		}
		if off != 64<<10 || p[0xc4] == 0 { // the one place that says which algorithm
			clear(p[:32])
			binary.LittleEndian.PutUint32(p, crc32.Checksum(p[32:], crc32.MakeTable(crc32.Castagnoli)))
		}
	}
	return len(p), nil
}

// metadata gives the blocks that are read while everything but contents is.
func metadata(t testing.TB, images []image) (list []block) {
	t.Helper()
	var mu sync.Mutex
	seen := map[block]bool{}
	v := newDamaged(images, nil, func(b block) {
		mu.Lock()
		defer mu.Unlock()
		if b.len == 4096 && !seen[b] {
			seen[b] = true
			list = append(list, b)
		}
	})
	fs, err := btrfs.Open(v.devices(), filesys.Options{})
	must(t, err)
	fs.Info()
	_, err = fs.Subvolumes()
	must(t, err)
	fstest.TakeSnapshot(fs, false)
	return slices.Clone(list)
}

// tryDamaged opens the file system with patches and calls everything.
func tryDamaged(t testing.TB, images []image, patches map[block][]patch) {
	t.Helper()
	v := newDamaged(images, patches, nil)
	fs, err := btrfs.Open(v.devices(), filesys.Options{})
	if err != nil {
		for _, sentinel := range []error{filesys.ErrWrongType, filesys.ErrUnsupported, filesys.ErrCorrupt, filesys.ErrInvalid} {
			if errors.Is(err, sentinel) {
				return
			}
		}
		t.Fatalf("an error of no known kind: %v", err)
	}
	fstest.Exercise(t, fs, 1500)
	list, err := fs.Subvolumes()
	if err == nil && len(list) > 0 {
		if sub, err := fs.Sub(list[len(list)-1].ID); err == nil {
			fstest.Exercise(t, sub, 300)
		}
	}
	whole, err := btrfs.Open(newDamaged(images, nil, nil).devices(), filesys.Options{})
	must(t, err)
	_ = fs.ChangedInodes(whole, nil, func(ino uint64) bool { _, _ = fs.Names(ino); return true })
	// 2000 calls, each of which reads 64 KiB of content at most, or an extent
	// of 128 KiB, and some metadata.
	if n := v.read.Load(); n > 2000*(256<<10) {
		t.Errorf("%d bytes were read", n)
	}
}

// TestDamage is the fuzzer's quick and blind sister.
func TestDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range seedImages {
		images := seedVolume(t, i)
		blocks := metadata(t, images)
		for range *damages {
			patches := map[block][]patch{}
			for range 1 + random.IntN(6) {
				b := blocks[random.IntN(len(blocks))]
				off := random.IntN(b.len)
				if random.IntN(2) == 0 {
					off = random.IntN(400) // headers, keys
				}
				patches[b] = append(patches[b], patch{off, []byte{0, 0xFF, byte(random.Uint32()), 1 << random.IntN(8)}[random.IntN(4)]})
			}
			tryDamaged(t, images, patches)
			if t.Failed() {
				t.Fatalf("%s: %v (seed %d)", seedImages[i].name, patches, seed)
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("%d MiB from the system", m.Sys>>20)
}

// FuzzOpen damages the seeds and calls everything there is. A patch is 5 bytes:
// which block (2), where in it (2), and what (1).
func FuzzOpen(f *testing.F) {
	var images [][]image
	var blocks [][]block
	for i := range seedImages {
		images = append(images, seedVolume(f, i))
		blocks = append(blocks, metadata(f, images[i]))
		f.Add(uint8(i), []byte{})
		for b := range blocks[i] {
			// The number of items, the first key, the first item's place.
			for _, off := range []int{96, 101, 109, 110, 118, 122} {
				f.Add(uint8(i), []byte{byte(b), byte(b >> 8), byte(off), 0, 0xFF})
			}
		}
	}
	f.Fuzz(func(t *testing.T, image uint8, p []byte) {
		i := int(image) % len(images)
		patches := map[block][]patch{}
		for ; len(p) >= 5; p = p[5:] {
			b := blocks[i][int(binary.LittleEndian.Uint16(p))%len(blocks[i])]
			patches[b] = append(patches[b], patch{int(binary.LittleEndian.Uint16(p[2:])), p[4]})
		}
		tryDamaged(t, images[i], patches)
	})
}
