package btrfs_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

var (
	damages   = flag.Int("damages", 60, "how often TestDamage damages each file system")
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
