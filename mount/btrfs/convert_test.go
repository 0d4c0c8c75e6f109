package btrfs_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"cairn/mount/filesys/fstest"
)

// TestConverted: what btrfs-convert makes of ext4 has extents wherever ext4 had
// them, and a subvolume with an image of it.
func TestConverted(t *testing.T) {
	v := &volume{images: []string{fstest.Image(t, 200<<20, 4)}}
	fstest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", "nodiscard", v.images[0])
	dir, unmount := fstest.Mount(t, v.images[0], "ext4", false, "")
	p := &fstest.Tree{TB: t, Root: dir, Block: 2048, Rand: rand.NewChaCha8([32]byte{6}), XattrMax: 2000}
	p.Names()
	p.Sizes()
	p.Sparse()
	p.Links()
	p.Xattrs()
	unmount()
	fstest.Run(t, "btrfs-convert", v.images[0])
	kernel, _ := v.mount(t, true, "")
	fs := v.open(t)
	fstest.Compare(t, fs, kernel, fstest.Ignore{Inodes: true})
}

// TestSectorSizes: sectors larger than a page, which this kernel does not mount.
// What the files were made from is the reference.
func TestSectorSizes(t *testing.T) {
	from := fstest.TempDir(t)
	must(t, os.Chmod(from, 0o755))
	p := &fstest.Tree{TB: t, Root: from, Block: 16384, Rand: rand.NewChaCha8([32]byte{6})}
	p.Names()
	p.Sizes()
	p.Links()
	writeFile(t, filepath.Join(from, "text"), text(300000))
	must(t, os.MkdirAll(filepath.Join(from, "a/b/c"), 0o755))
	for _, args := range []string{"-s 8192 -n 16384", "-s 16384 -n 16384", "-s 65536 -n 65536"} {
		v := mkfs(t, 1, 200, args+" --rootdir "+from)
		fstest.Compare(t, v.open(t), from, fstest.Ignore{Inodes: true, Links: true, DirSize: true, Blocks: true, Times: true, Holes: true})
	}
}
