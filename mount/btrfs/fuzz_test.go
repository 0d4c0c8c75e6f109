package btrfs_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

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
