package xfs_test

import (
	"math/rand/v2"
	"testing"

	"cairn/mount/filesys/fstest"
)

// kernelConfig is one kind of file system that this kernel mounts.
type kernelConfig struct {
	name  string
	args  string // of mkfs.xfs
	block int64
	mib   int64
	big   bool // more is put in
	setup func(t *testing.T, image string)
}

var kernelConfigs = []kernelConfig{
	{name: "defaults", args: "", block: 4096, big: true},
	{name: "1k", args: "-b size=1024", block: 1024, big: true},
	{name: "2k", args: "-b size=2048", block: 2048},
	{name: "8k", args: "-b size=8192", block: 8192},
	{name: "16k", args: "-b size=16384", block: 16384, mib: 96},
	{name: "32k", args: "-b size=32768", block: 32768, mib: 128},
	{name: "64k", args: "-b size=65536", block: 65536, mib: 256},
	{name: "1k, directory blocks 4k", args: "-b size=1024 -n size=4096", block: 1024},
	{name: "1k, directory blocks 64k", args: "-b size=1024 -n size=65536", block: 1024, big: true},
	{name: "4k, directory blocks 8k", args: "-n size=8192", block: 4096},
	{name: "4k, directory blocks 64k", args: "-n size=65536", block: 4096, big: true},
	{name: "inodes 1k", args: "-i size=1024", block: 4096},
	{name: "inodes 2k", args: "-i size=2048", block: 4096, big: true},
	{name: "1k, inodes 512", args: "-b size=1024 -i size=512", block: 1024},
	{name: "everything off", args: "-m reflink=0,rmapbt=0,bigtime=0,inobtcount=0,finobt=0 -i nrext64=0,sparse=0", block: 4096},
	{name: "everything on", args: "-m reflink=1,rmapbt=1,bigtime=1,inobtcount=1,finobt=1 -i nrext64=1,sparse=1", block: 4096},
	{name: "1k, everything on", args: "-b size=1024 -m reflink=1,rmapbt=1,bigtime=1,inobtcount=1,finobt=1 -i nrext64=1,sparse=1", block: 1024, big: true},
	{name: "no finobt", args: "-m finobt=0,inobtcount=0", block: 4096},
	{name: "no sparse inodes", args: "-i sparse=0", block: 4096},
	{name: "rmapbt", args: "-m rmapbt=1", block: 4096},
	{name: "sectors 4k", args: "-s size=4096", block: 4096},
	{name: "one group", args: "-d agcount=1", block: 4096},
	{name: "13 groups", args: "-b size=1024 -d agcount=13", block: 1024, mib: 256},
	{name: "striped", args: "-d su=65536,sw=4", block: 4096},
	{name: "another UUID", args: "", block: 4096, setup: func(t *testing.T, image string) {
		fstest.Run(t, "xfs_admin", "-U", "01234567-89ab-cdef-0123-456789abcdef", image)
	}},
}

// TestKernel fills file systems of many kinds by the kernel and compares what
// is read with the kernel's own read-only mount.
func TestKernel(t *testing.T) {
	for _, c := range kernelConfigs {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.mib == 0 {
				c.mib = 64
			}
			image := mkfs(t, c.mib, c.args)
			if c.setup != nil {
				c.setup(t, image)
			}
			dir, unmount := fstest.Mount(t, image, "xfs", false, "")
			p := &fstest.Tree{TB: t, Root: dir, Block: c.block, Big: c.big, Rand: rand.NewChaCha8([32]byte{1}),
				Prealloc: true, XattrMax: 65536, SymlinkMax: 1023, DeviceMax: [2]uint32{511, 1<<18 - 1}}
			p.Fill()
			unmount()

			fs := openImage(t, image)
			dir, _ = fstest.Mount(t, image, "xfs", true, "")
			fstest.Compare(t, fs, dir, fstest.Ignore{})
			fstest.CompareStatfs(t, fs, dir)
			if w := fs.Info().Warnings; len(w) > 0 {
				t.Errorf("warnings: %q", w)
			}
		})
	}
}

// TestGrown has more groups than it was made with, and a last one that is short.
func TestGrown(t *testing.T) {
	for _, args := range []string{"-d size=20m,agcount=1", "-b size=1024 -d size=40m,agcount=2"} {
		image := mkfs(t, 90, args)
		dir, unmount := fstest.Mount(t, image, "xfs", false, "")
		fstest.Run(t, "xfs_growfs", dir)
		p := &fstest.Tree{TB: t, Root: dir, Block: 4096, Rand: rand.NewChaCha8([32]byte{1}), Prealloc: true}
		p.Sizes()
		p.Preallocated()
		p.Names()
		p.Directories()
		unmount()
		fs := openImage(t, image)
		dir, unmount = fstest.Mount(t, image, "xfs", true, "")
		fstest.Compare(t, fs, dir, fstest.Ignore{})
		fstest.CompareStatfs(t, fs, dir)
		if fs.Info().Size < 70<<20 {
			t.Errorf("%q did not grow: %+v", args, fs.Info())
		}
		unmount()
	}
}
