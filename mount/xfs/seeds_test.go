package xfs_test

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys/fstest"
)

var makeSeeds = flag.Bool("make-seeds", false, "make the images in testdata anew, with -old-kernel also those of version 4")

// seedImages are the volumes that the fuzzer damages: small, and of zeros where
// nothing stands. Those of version 4 were made and compared by an old kernel;
// digest is what the walk through one then showed, with contents.
var seedImages = []struct{ name, args, digest string }{
	{"v5", "-m rmapbt=1 -i nrext64=1", "9c1ce8d8df5cc36e"},
	{"v5-1k", "-b size=1024 -m bigtime=0", "62dbaf012bd0064a"},
	{"v5-parent", "-i nrext64=1", "a20fabdfa55ba7e9"},
	{"v4", "-m crc=0", "d7e5a41095b4eee0"},
	{"v4-512", "-m crc=0 -b size=512 -n ftype=0 -i align=0", "a9911e4755489022"},
	{"v4-ci", "-m crc=0 -b size=1024 -n version=ci -i size=512,attr=1", "6e9bbc117cca1a99"},
}

// TestSeeds: the undamaged seeds have no errors and show what they ever did.
// With -make-seeds it makes them.
func TestSeeds(t *testing.T) {
	for _, seed := range seedImages {
		if old := strings.HasPrefix(seed.name, "v4"); *makeSeeds && old == *oldKernel {
			writeSeed(t, seed.name, seed.args)
		}
		if *makeSeeds && *oldKernel && seed.name[:2] != "v4" {
			continue
		}
		b := fstest.SeedImage(t, seed.name)
		fs := openBytes(t, b)
		s := fstest.TakeSnapshot(fs, true)
		if len(s.Errs) > 0 || len(s.Digests) < 90 || len(fs.Info().Warnings) > 0 {
			t.Errorf("%s: %d paths, errors %v, warnings %v", seed.name, len(s.Digests), s.Errs, fs.Info().Warnings)
		}
		if got := digest(s); got != seed.digest {
			t.Errorf("%s: digest is %s, want %s", seed.name, got, seed.digest)
		}
		fstest.Exercise(t, fs, 1<<20)
	}
}

func digest(s fstest.Snapshot) string {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(s.Digests)) {
		fmt.Fprintf(h, "%q %s\n", path, s.Digests[path])
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

func writeSeed(t *testing.T, name, args string) {
	t.Helper()
	image := filepath.Join(fstest.TempDir(t), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	size := int64(16 << 20)
	if name == "v5-parent" {
		size *= 2 // which Linux keeps more room free for
	}
	must(t, os.Truncate(image, size))
	fstest.Run(t, "mkfs.xfs", append(strings.Fields("-q -f -K -d agcount=1 "+args), image)...)
	if name == "v5-parent" {
		addFeatures(t, image, 0x40|0x80)
	}
	dir, unmount := fstest.Mount(t, image, "xfs", false, "")
	fillSeed(t, dir)
	unmount()
	kernel, unmount := fstest.Mount(t, image, "xfs", true, "")
	fstest.Compare(t, openImage(t, image), kernel, fstest.Ignore{})
	unmount()
	// The log has nothing to say any more, and takes room.
	fstest.Run(t, "xfs_db", "-x", "-c", "logformat", image)
	b, err := os.ReadFile(image)
	must(t, err)
	openBytes(t, b)
	fstest.WriteSeedImage(t, name, b)
}

func fillSeed(t *testing.T, root string) {
	r := rand.New(rand.NewPCG(5, 5))
	mkdir := func(name string) string {
		must(t, os.MkdirAll(filepath.Join(root, name), 0o755))
		return filepath.Join(root, name)
	}
	d := mkdir("node")
	write(t, noise[:1200], d, "first")
	for i := range 700 {
		must(t, os.Link(d+"/first", fmt.Sprintf("%s/entry number %d", d, i)))
	}
	for i := range 400 { // leaves free space and holes
		if i%7 > 0 {
			must(t, os.Remove(fmt.Sprintf("%s/entry number %d", d, i)))
		}
	}
	leaf, block, short := mkdir("leaf"), mkdir("block"), mkdir("short")
	for i := range 130 {
		must(t, os.Link(d+"/first", fmt.Sprintf("%s/entry number %d of a leaf directory", leaf, i)))
		if i < 12 {
			must(t, os.Link(d+"/first", fmt.Sprintf("%s/entry number %d", block, i)))
		}
		if i < 3 {
			must(t, os.Link(d+"/first", fmt.Sprintf("%s/%d", short, i)))
		}
	}
	d = mkdir("files")
	write(t, noise[:100], d, "small")
	f, err := os.Create(d + "/fragments")
	must(t, err)
	for i := range int64(150) {
		_, err := f.WriteAt([]byte("data"), i*2*4096)
		must(t, err)
	}
	must(t, f.Truncate(5000000))
	must(t, f.Close())
	f, err = os.Create(d + "/preallocated")
	must(t, err)
	must(t, unix.Fallocate(int(f.Fd()), 0, 0, 50000))
	_, err = f.WriteAt([]byte("data"), 20000)
	must(t, err)
	must(t, f.Close())
	must(t, os.Symlink("small", d+"/short link"))
	must(t, os.Symlink(strings.Repeat("long/", 200), d+"/long link"))
	must(t, unix.Mknod(d+"/device", unix.S_IFCHR|0o600, int(unix.Mkdev(4, 70000))))
	must(t, unix.Setxattr(d+"/small", "user.note", []byte("a value"), 0))
	must(t, unix.Setxattr(d+"/fragments", "trusted.large", bytes.Repeat([]byte("large"), 3000), 0))
	must(t, unix.Setxattr(d, "system.posix_acl_default", []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255,
		4, 0, 5, 0, 255, 255, 255, 255, 8, 0, 5, 0, 100, 0, 0, 0, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255}, 0))
	write(t, nil, d, "attributes")
	for i := range 120 {
		must(t, unix.Setxattr(d+"/attributes", fmt.Sprintf("user.attribute %d", i), []byte(strings.Repeat("v", r.IntN(60))), 0))
	}
	write(t, nil, d, "leaf of attributes")
	for i := range 20 {
		must(t, unix.Setxattr(d+"/leaf of attributes", fmt.Sprintf("security.attribute %d", i), []byte(strings.Repeat("v", r.IntN(30))), 0))
	}
}
