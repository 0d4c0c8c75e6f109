package xfs_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"testing"

	"cairn/mount/filesys/fstest"
)

// oldKernel is for kernels with CONFIG_XFS_SUPPORT_V4 and CONFIG_XFS_RT, such as
// Debian 12's. What they made is in testdata for all others: see seeds_test.go.
var oldKernel = flag.Bool("old-kernel", false, "this kernel mounts XFS of version 4: compare with it")

var version4Configs = []kernelConfig{
	{name: "4k", args: "", block: 4096, big: true},
	{name: "512", args: "-b size=512", block: 512, big: true},
	{name: "1k", args: "-b size=1024", block: 1024, big: true},
	{name: "2k", args: "-b size=2048", block: 2048},
	{name: "512, directory blocks 512", args: "-b size=512 -n size=4096", block: 512},
	{name: "512, directory blocks 64k", args: "-b size=512 -n size=65536", block: 512, big: true},
	{name: "directory blocks 8k", args: "-n size=8192", block: 4096},
	{name: "directory blocks 64k", args: "-n size=65536", block: 4096},
	{name: "without file types", args: "-n ftype=0", block: 4096, big: true},
	{name: "inodes 512", args: "-i size=512", block: 4096},
	{name: "inodes 2k", args: "-i size=2048", block: 4096, big: true},
	{name: "512, inodes 256", args: "-b size=512 -i size=256", block: 512},
	{name: "attr 1", args: "-i attr=1", block: 4096},
	{name: "inodes not aligned", args: "-i align=0", block: 4096},
	{name: "16-bit project numbers", args: "-i projid32bit=0", block: 4096},
	{name: "eager counters", args: "-l lazy-count=0", block: 4096},
	{name: "log version 1", args: "-l version=1", block: 4096},
	{name: "sectors 4k", args: "-s size=4096", block: 4096},
	{name: "names without case", args: "-n version=ci", block: 4096},
}

// TestVersion4 compares with an old kernel.
func TestVersion4(t *testing.T) {
	if !*oldKernel {
		return // TestSeeds has what one of those made
	}
	for _, c := range version4Configs {
		t.Run(c.name, func(t *testing.T) {
			if c.mib == 0 {
				c.mib = 64
			}
			image := mkfs(t, c.mib, "-m crc=0 "+c.args)
			dir, unmount := fstest.Mount(t, image, "xfs", false, "")
			p := &fstest.Tree{TB: t, Root: dir, Block: c.block, Big: c.big, Rand: rand.NewChaCha8([32]byte{1}),
				Prealloc: true, XattrMax: 65536, SymlinkMax: 1023, DeviceMax: [2]uint32{511, 1<<18 - 1}}
			p.Fill()
			unmount()

			fs := openImage(t, image)
			dir, _ = fstest.Mount(t, image, "xfs", true, "")
			fstest.Compare(t, fs, dir, fstest.Ignore{})
			if c.block >= 4096 { // with smaller ones, old kernels take some blocks of btrees for free
				fstest.CompareStatfs(t, fs, dir)
			}
			if w := fs.Info().Warnings; len(w) > 0 {
				t.Errorf("warnings: %q", w)
			}
			os.Remove(image)
		})
	}
}
