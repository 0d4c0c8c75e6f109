package ext4_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"cairn/mount/filesys/fstest"
)

// TestMke2fs reads volumes that this kernel cannot mount, because their blocks
// are larger than its pages or it lacks a feature. mke2fs fills them from a
// directory, with which they are compared.
func TestMke2fs(t *testing.T) {
	source := mke2fs(t, 48<<20, "-t", "ext4", "-b", "1024", "-N", "4000", "-O", "ea_inode")
	dir, _ := fstest.Mount(t, source, "ext4", false, "")
	p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{2}), XattrMax: 800}
	p.Fill()

	configs := []string{
		"-t ext4 -O casefold,inline_data -E encoding=utf8",
		"-t ext4 -O project,quota",
		"-t ext4 -O project,quota,inline_data,ea_inode,metadata_csum_seed,orphan_file,large_dir,mmp -b 2048",
	}
	for _, kind := range []string{"ext2", "ext4", "ext4 -O ^metadata_csum,inline_data", "ext4 -O bigalloc -C 65536"} {
		sizes := []int{8 << 10, 64 << 10}
		if strings.Contains(kind, "bigalloc") {
			sizes = []int{16 << 10, 32 << 10} // clusters are larger than blocks
		}
		for _, size := range sizes {
			configs = append(configs, fmt.Sprintf("-t %s -b %d", kind, size))
		}
	}
	for _, c := range configs {
		t.Run(c, func(t *testing.T) {
			t.Parallel()
			args := append(strings.Fields(c), "-I", "256", "-N", "2000", "-d", dir)
			fs := openImage(t, mke2fs(t, 48<<20, args...))
			ignore := fstest.Ignore{Inodes: true, DirSize: true, Blocks: true, Holes: true, Times: true}
			if strings.Contains(c, "inline_data") {
				// mke2fs forgets the hole at the end of a file here.
				ignore.Names = []string{"sparse"}
			}
			fstest.Compare(t, fs, dir, ignore)
		})
	}
}
