package btrfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys/fstest"
)

// kernelConfig is one kind of file system that this kernel mounts.
type kernelConfig struct {
	name    string
	args    string // of mkfs.btrfs
	devices int
	mib     int
	options string // of the mount that fills it
	all     bool   // fill it with everything
}

var kernelConfigs = []kernelConfig{
	{name: "default", all: true},
	{name: "zlib", options: "compress-force=zlib:9", all: true},
	{name: "lzo", options: "compress-force=lzo", all: true},
	{name: "zstd", options: "compress-force=zstd:3", all: true},
	{name: "xxhash", args: "--csum xxhash", options: "compress=zstd:15"},
	{name: "sha256", args: "--csum sha256", options: "compress=zlib:1"},
	{name: "blake2", args: "--csum blake2", options: "compress=lzo"},
	{name: "4k nodes", args: "-n 4096"},
	{name: "64k nodes", args: "-n 65536"},
	{name: "mixed", args: "--mixed -n 4096", mib: 96},
	{name: "mixed dup", args: "--mixed -n 4096 -d dup -m dup", mib: 160},
	{name: "old features", args: "-O ^extref,^skinny-metadata,^no-holes -R ^free-space-tree", options: "space_cache=v1"},
	{name: "quota", args: "-R quota"},
	{name: "single", args: "-d single -m single"},
	{name: "dup", args: "-d dup -m dup", mib: 300},
	{name: "without checksums", options: "nodatasum"},
	{name: "without copy on write", options: "nodatacow"},
	{name: "raid0", args: "-d raid0 -m raid0", devices: 3},
	{name: "raid1", args: "-d raid1 -m raid1", devices: 2},
	{name: "raid1c3", args: "-d raid1c3 -m raid1c3", devices: 3},
	{name: "raid1c4", args: "-d raid1c4 -m raid1c4", devices: 4},
	{name: "raid10", args: "-d raid10 -m raid10", devices: 4, options: "compress=zstd"},
	{name: "raid5", args: "-d raid5 -m raid1", devices: 3},
	{name: "raid6", args: "-d raid6 -m raid1c3", devices: 4},
	{name: "several devices", args: "-d single -m raid1", devices: 3},
}

// TestKernel: the tree is that which the kernel shows, whatever the file system
// is made with.
func TestKernel(t *testing.T) {
	for _, c := range kernelConfigs {
		t.Run(c.name, func(t *testing.T) {
			v := mkfs(t, max(c.devices, 1), max(c.mib, 130), c.args)
			dir, unmount := v.mount(t, false, c.options)
			fill(t, dir, c.all)
			unmount()
			fs := v.open(t)
			kernel, _ := v.mount(t, true, "")
			fstest.Compare(t, fs, kernel, fstest.Ignore{})
			fstest.CompareStatfs(t, fs, kernel)
			for _, w := range fs.Info().Warnings {
				t.Error(w)
			}
		})
	}
}

// fill makes files of every kind.
func fill(t testing.TB, dir string, all bool) {
	t.Helper()
	p := &fstest.Tree{TB: t, Root: dir, Block: 4096, Big: all, Rand: rand.NewChaCha8([32]byte{5}), Prealloc: true, XattrMax: 3900}
	p.Names()
	p.Sizes()
	p.Sparse()
	p.Preallocated()
	p.Xattrs()
	if all {
		p.Directories()
		p.Links()
		p.Special()
		p.Times()
		p.Owners()
	}
	extents(t, dir)
}

// extents makes files whose extents are shared, cut and compressed.
func extents(t testing.TB, dir string) {
	t.Helper()
	path := func(name string) string { return filepath.Join(dir, "extents", name) }
	for _, n := range []int{1, 500, 2000, 4095, 4096, 4097, 131071, 131072, 131073, 500000} {
		writeFile(t, path(fmt.Sprintf("text %d", n)), text(n))
	}
	zeros := make([]byte, 300000)
	copy(zeros[100000:], text(50))
	writeFile(t, path("nearly zeros"), zeros)
	commit(t, dir)
	for _, n := range []int{4096, 500000} {
		from := path(fmt.Sprintf("text %d", n))
		fstest.Run(t, "cp", "--reflink=always", from, path(fmt.Sprintf("shared %d", n)))
	}
	// Pieces of an extent, in another order, and overwritten in the middle.
	f, err := os.Open(path("text 500000"))
	must(t, err)
	g, err := os.Create(path("pieces"))
	must(t, err)
	for i := range int64(20) {
		must(t, unix.IoctlFileCloneRange(int(g.Fd()), &unix.FileCloneRange{Src_fd: int64(f.Fd()),
			Src_offset: uint64(19-i) * 16384, Src_length: 16384, Dest_offset: uint64(i) * 16384}))
	}
	must(t, g.Sync())
	for i := range int64(30) {
		_, err := g.WriteAt(text(700), i*10000+i)
		must(t, err)
	}
	must(t, f.Close())
	must(t, g.Close())
	// Without checksums, among others.
	must(t, os.MkdirAll(path("nocow"), 0o755))
	fstest.Run(t, "chattr", "+C", path("nocow"))
	writeFile(t, path("nocow/file"), text(300000))
	must(t, os.MkdirAll(path("compressed"), 0o755))
	fstest.Run(t, "btrfs", "property", "set", path("compressed"), "compression", "zstd")
	writeFile(t, path("compressed/file"), text(300000))
}

func commit(t testing.TB, dir string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Syncfs(fd))
}

func TestIdentify(t *testing.T) {
	v := mkfs(t, 2, 130, "-d raid1 -m raid1 -L two -U 01234567-89ab-cdef-0123-456789abcdef")
	for i, d := range v.devices(t) {
		id, err := identify(d)
		must(t, err)
		if id.FSID != "01234567-89ab-cdef-0123-456789abcdef" || id.MetadataUUID != id.FSID || id.DevID != uint64(i+1) ||
			id.Devices != 2 || id.Label != "two" || id.Generation == 0 || len(id.DeviceUUID) != 36 || strings.HasPrefix(id.DeviceUUID, "0000") {
			t.Errorf("%+v", id)
		}
	}
}
