package xfs_test

import (
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/xfslog/dirtytest"
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

// TestRealtime: what lies on a real-time device is refused, and all else of its
// volume is shown. Quota files are not.
func TestRealtime(t *testing.T) {
	if !*oldKernel {
		return // TestQuirks has such a file, made by hand
	}
	for _, args := range []string{"-m crc=0", "-m crc=1"} {
		rt := strings.TrimSpace(fstest.Run(t, "losetup", "--find", "--show", fstest.Image(t, 32<<20, 1)))
		defer fstest.Run(t, "losetup", "--detach", rt)
		image := mkfs(t, 64, args+" -r rtdev="+rt)
		options := "uquota,gquota,rtdev=" + rt
		dir, unmount := fstest.Mount(t, image, "xfs", false, options)
		p := &fstest.Tree{TB: t, Root: dir, Block: 4096, Rand: rand.NewChaCha8([32]byte{1}),
			Prealloc: true, XattrMax: 65536, SymlinkMax: 1023, DeviceMax: [2]uint32{511, 1<<18 - 1}}
		p.Fill()
		f, err := os.Create(dir + "/real-time")
		must(t, err)
		fstest.Run(t, "xfs_io", "-c", "chattr +r", dir+"/real-time")
		_, err = f.Write(noise[:100000])
		must(t, err)
		must(t, f.Close())
		unmount()
		fs := openImage(t, image)
		dir, unmount = fstest.Mount(t, image, "xfs", true, "norecovery,rtdev="+rt)
		a, err := fs.Attr(walk(t, fs, "real-time"))
		if err != nil || a.Size != 100000 || a.Blocks < 100000/512 {
			t.Errorf("%+v, %v", a, err)
		}
		if _, err := fs.Open(walk(t, fs, "real-time")); !errors.Is(err, filesys.ErrUnsupported) {
			t.Errorf("%v", err)
		}
		fstest.Compare(t, fs, dir, fstest.Ignore{Names: []string{"real-time"}})
		if w := fs.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], "real-time") {
			t.Errorf("warnings: %q", w)
		}
		for ino := range uint64(10) {
			if _, err := fs.Attr(fs.Root() + ino); err == nil != (ino == 0 || ino > 2) && ino < 3 {
				t.Errorf("inode %d: %v", fs.Root()+ino, err)
			}
		}
		unmount()
		b, err := os.ReadFile(image)
		must(t, err)
		for _, off := range []int{160, 168} {
			if quota := be.Uint64(b[off:]); quota == 0 || second(fs.Attr(quota)) == nil {
				t.Errorf("quota inode %d is shown", quota)
			}
		}
	}
}

// TestVersion4Dirty: logs of version 4, which have no checksums in what they
// change.
func TestVersion4Dirty(t *testing.T) {
	if !*oldKernel {
		return
	}
	rng := dirtyRand(t)
	for _, c := range []dirtytest.Config{
		{Name: "defaults", SizeMiB: 64, Mkfs: "-m crc=0", Steps: 600},
		{Name: "512", SizeMiB: 64, Mkfs: "-m crc=0 -b size=512", Steps: 600},
		{Name: "log version 1", SizeMiB: 64, Mkfs: "-m crc=0 -l version=1", Mount: "logbsize=32k", Steps: 600},
		{Name: "without file types", SizeMiB: 64, Mkfs: "-m crc=0 -n ftype=0", Steps: 600},
		{Name: "eager counters", SizeMiB: 64, Mkfs: "-m crc=0 -l lazy-count=0", Steps: 600},
		{Name: "version 5", SizeMiB: 64, Steps: 600},
	} {
		t.Run(c.Name, func(t *testing.T) { compareDirty(t, dirtytest.Make(t, c, rng)) })
	}
}
