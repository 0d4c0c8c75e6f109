package btrfs_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestMissingDevices: what is stored twice is read from what is left, in any
// order of devices; else the error names the device.
func TestMissingDevices(t *testing.T) {
	for _, c := range []struct {
		args   string
		n      int
		spared int // devices that can be missing
	}{
		{"-d raid1 -m raid1", 2, 1},
		{"-d raid1c3 -m raid1c3", 3, 2},
		{"-d raid10 -m raid10", 4, 1},
		{"-d raid5 -m raid1", 3, 1},
		{"-d raid6 -m raid1c3", 4, 1},
		{"-d raid0 -m raid1", 2, 0},
		{"-d single -m raid1", 2, 0},
	} {
		t.Run(c.args, func(t *testing.T) {
			v := mkfs(t, c.n, 130, c.args)
			dir, unmount := v.mount(t, false, "compress=zstd")
			extents(t, dir)
			writeFile(t, filepath.Join(dir, "noise"), noise)
			unmount()
			kernel, _ := v.mount(t, true, "")
			devices := v.devices(t)
			for first := range devices {
				some := slices.Concat(devices[first:], devices[:first])
				slices.Reverse(some)
				some = some[:c.n-max(1, c.spared)]
				fs, err := btrfs.Open(some, filesys.Options{})
				if c.spared == 0 {
					if !errors.Is(err, btrfs.ErrMissingDevice) || !strings.Contains(err.Error(), "device ") {
						t.Errorf("without a device: %v", err)
					}
					continue
				}
				must(t, err)
				if w := strings.Join(fs.Info().Warnings, " "); !strings.Contains(w, "is missing") {
					t.Errorf("warnings: %s", w)
				}
				fstest.Compare(t, fs, kernel, fstest.Ignore{})
			}
			if c.n > 2 {
				if _, err := btrfs.Open(devices[:1], filesys.Options{}); (err == nil) != (c.spared == c.n-1) {
					t.Errorf("with one device: %v", err)
				}
			}
		})
	}
}

var noise = func() []byte {
	b := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

// damaged is a device of which pieces read wrong.
type damaged struct {
	btrfs.Device
	from, to int64
}

func (d damaged) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.Device.ReadAt(p, off)
	for i := range p[:n] {
		if at := off + int64(i); at >= d.from && at < d.to {
			p[i] ^= 0x55
		}
	}
	return n, err
}

// TestMirrors: everything behind the superblock of a device may be wrong, or
// every other piece on each of two.
func TestMirrors(t *testing.T) {
	for _, args := range []string{"-d raid1 -m raid1", "-d raid1 -m raid1 --csum blake2", "-d raid10 -m raid10", "-d raid5 -m raid1"} {
		v := mkfs(t, 2+2*strings.Count(args, "raid10")/2, 130, args)
		dir, unmount := v.mount(t, false, "")
		writeFile(t, filepath.Join(dir, "noise"), noise)
		fill(t, dir, false)
		// What has no checksums cannot be told from what is right.
		must(t, os.RemoveAll(filepath.Join(dir, "extents/nocow")))
		unmount()
		kernel, _ := v.mount(t, true, "")
		devices := v.devices(t)
		devices[0] = damaged{devices[0], 1 << 20, 1 << 40}
		fs, err := btrfs.Open(devices, filesys.Options{})
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		fstest.Compare(t, fs, kernel, fstest.Ignore{})
	}
	// And both wrong is an error.
	v := mkfs(t, 1, 240, "-d dup -m dup")
	dir, unmount := v.mount(t, false, "")
	writeFile(t, filepath.Join(dir, "noise"), noise)
	unmount()
	f, err := os.OpenFile(v.images[0], os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	places := find(t, f, noise[8192:12288])
	if len(places) != 2 {
		t.Fatalf("the data is at %d", places)
	}
	_, err = f.WriteAt([]byte{^noise[9000]}, places[0]+9000-8192)
	must(t, err)
	if !bytes.Equal(content(t, v.open(t), "noise"), noise) {
		t.Error("wrong content with one wrong copy")
	}
	_, err = f.WriteAt([]byte{^noise[9000]}, places[1]+9000-8192)
	must(t, err)
	fs := v.open(t)
	file, err := fs.Open(walk(t, fs, "noise"))
	must(t, err)
	p := make([]byte, 16384)
	if _, err := file.ReadAt(p, 0); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("both copies are wrong: %v", err)
	}
	if n, err := file.ReadAt(p[:4096], 12288); n != 4096 || err != nil || !bytes.Equal(p[:4096], noise[12288:16384]) {
		t.Errorf("the sector behind: %d, %v", n, err)
	}
}

// find gives every place of a sector.
func find(t *testing.T, r io.ReaderAt, sector []byte) (list []int64) {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, 1<<40))
	must(t, err)
	for off := 0; off+len(sector) <= len(b); off += 4096 {
		if bytes.Equal(b[off:off+len(sector)], sector) {
			list = append(list, int64(off))
		}
	}
	return list
}

// TestStaleDevice: a device that was away for a while has old data, which is
// never shown.
func TestStaleDevice(t *testing.T) {
	t.Run("raid1", func(t *testing.T) { testStaleDevice(t, 2, "-d raid1 -m raid1") })
	t.Run("raid5", func(t *testing.T) { testStaleDevice(t, 3, "-d raid5 -m raid1") })
	t.Run("raid6", func(t *testing.T) { testStaleDevice(t, 4, "-d raid6 -m raid1c3") })
}

func testStaleDevice(t *testing.T, count int, profiles string) {
	v := mkfs(t, count, 130, profiles)
	dir, unmount := v.mount(t, false, "")
	path := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, path("sums"), bytes.Repeat([]byte("old "), 50000))
	must(t, os.Mkdir(path("nocow"), 0o755))
	fstest.Run(t, "chattr", "+C", path("nocow"))
	writeFile(t, path("nocow/file"), bytes.Repeat([]byte("old "), 50000))
	unmount()
	old := v.copy(t)
	dir, unmount = v.mount(t, false, "")
	for range 3 {
		f, err := os.OpenFile(path("nocow/file"), os.O_RDWR, 0)
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte("new "), 50000), 0)
		must(t, err)
		must(t, f.Close())
		writeFile(t, path("sums"), bytes.Repeat([]byte("new "), 50000))
		commit(t, dir)
	}
	unmount()
	want := bytes.Repeat([]byte("new "), 50000)
	for stale := range count {
		devices := v.devices(t)
		devices[stale] = old.devices(t)[stale]
		fs, err := btrfs.Open(devices, filesys.Options{})
		must(t, err)
		if w := strings.Join(fs.Info().Warnings, " "); !strings.Contains(w, "stale") {
			t.Errorf("warnings: %s", w)
		}
		for _, name := range []string{"sums", "nocow/file"} {
			if !bytes.Equal(content(t, fs, name), want) {
				t.Errorf("device %d is stale: %s is old", stale+1, name)
			}
		}
	}
	// The same device twice.
	devices := append(v.devices(t), old.devices(t)...)
	fs, err := btrfs.Open(devices, filesys.Options{})
	must(t, err)
	if !bytes.Equal(content(t, fs, "nocow/file"), want) {
		t.Error("an old copy of a device is read")
	}
	// Devices of something else.
	other := mkfs(t, 1, 130, "")
	if _, err := btrfs.Open(append(v.devices(t), other.devices(t)...), filesys.Options{}); !errors.Is(err, filesys.ErrInvalid) {
		t.Errorf("devices of two file systems: %v", err)
	}
}

// TestDeviceChanges: devices added and removed, chunks converted and moved.
func TestDeviceChanges(t *testing.T) {
	v := mkfs(t, 2, 300, "-d single -m raid1")
	dir, unmount := v.mount(t, false, "")
	fill(t, dir, false)
	third := fstest.Image(t, 300<<20, 9)
	dev := strings.TrimSpace(fstest.Run(t, "losetup", "--find", "--show", third))
	detached := false
	detach := func() {
		if !detached {
			detached = true
			fstest.Run(t, "losetup", "--detach", dev)
		}
	}
	t.Cleanup(func() { unmount(); detach() })
	fstest.Run(t, "btrfs", "device", "add", "-K", "-f", dev, dir)
	fstest.Run(t, "btrfs", "balance", "start", "-f", "-dconvert=raid1", "-mconvert=dup", dir)
	fstest.Run(t, "btrfs", "device", "remove", v.loops[0], dir)
	writeFile(t, filepath.Join(dir, "noise"), noise)
	must(t, unix.Unmount(dir, 0))
	fstest.Run(t, "btrfs", "device", "scan", dev)
	must(t, unix.Mount(v.loops[1], dir, "btrfs", unix.MS_RDONLY, "device="+dev))
	fs, err := btrfs.Open(append((&volume{images: []string{third}}).devices(t), v.devices(t)[1]), filesys.Options{})
	must(t, err)
	fstest.Compare(t, fs, dir, fstest.Ignore{})
	fstest.CompareStatfs(t, fs, dir)
	// The one that was removed has no superblock any more.
	if _, err := identify(v.devices(t)[0]); !errors.Is(err, filesys.ErrWrongType) {
		t.Errorf("a removed device: %v", err)
	}
}

// TestSeed: a file system that stands on another's device.
func TestSeed(t *testing.T) {
	v := mkfs(t, 1, 130, "")
	dir, unmount := v.mount(t, false, "")
	fill(t, dir, false)
	unmount()
	fstest.Run(t, "btrfstune", "-S", "1", v.images[0])
	v.images = append(v.images, fstest.Image(t, 200<<20, 3))
	v.sprout(t)
	dir, unmount = v.mountBy(t, 1, unix.MS_NOATIME)
	writeFile(t, filepath.Join(dir, "sprout"), noise)
	must(t, os.Remove(filepath.Join(dir, "names/plain")))
	unmount()
	kernel, _ := v.mountBy(t, 1, unix.MS_RDONLY)
	fs := v.open(t)
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
	seed, err := btrfs.Open(v.devices(t)[:1], filesys.Options{})
	must(t, err)
	if _, err := seed.Lookup(seed.Root(), "sprout"); !errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("the seed by itself: %v", err)
	}
	if _, err := btrfs.Open(v.devices(t)[1:], filesys.Options{}); !errors.Is(err, btrfs.ErrMissingDevice) {
		t.Errorf("without the seed: %v", err)
	}
}

// TestPowerCutBetweenSuperblocks: the devices are one transaction apart; what
// has no checksums is read from the newer one.
func TestPowerCutBetweenSuperblocks(t *testing.T) {
	v := mkfs(t, 2, 130, "-d raid1 -m raid1")
	dir, unmount := v.mount(t, false, "nodatasum,commit=3000")
	path := filepath.Join(dir, "file")
	writeFile(t, path, bytes.Repeat([]byte("old "), 50000))
	commit(t, dir)
	old := v.copy(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	want := bytes.Repeat([]byte("new "), 50000)
	_, err = f.WriteAt(want, 0)
	must(t, err)
	must(t, f.Close())
	commit(t, dir)
	now := v.copy(t)
	unmount()
	for behind := range 2 {
		devices := now.devices(t)
		devices[behind] = old.devices(t)[behind]
		a, err := identify(devices[0])
		must(t, err)
		b, err := identify(devices[1])
		must(t, err)
		if a.Generation-b.Generation != 1 && b.Generation-a.Generation != 1 {
			t.Fatalf("generations %d and %d", a.Generation, b.Generation)
		}
		fs, err := btrfs.Open(devices, filesys.Options{})
		must(t, err)
		if !bytes.Equal(content(t, fs, "file"), want) {
			t.Errorf("device %d is behind: the file is old", behind+1)
		}
	}
}
