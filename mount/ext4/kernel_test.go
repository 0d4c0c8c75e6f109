package ext4_test

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// openImage opens an image by the reader under test.
func openImage(t testing.TB, image string) *ext4.FS {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := ext4.Open(f, st.Size(), filesys.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// mke2fs makes a file system on an image of random bytes. Nothing is zeroed
// but what mke2fs itself writes: the inode tables stay lazy where they can.
func mke2fs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	image := fstest.Image(t, size, uint64(len(strings.Join(args, "")))) // any seed would do
	args = append([]string{"-q", "-F", "-E", "nodiscard"}, args...)
	fstest.Run(t, "mke2fs", append(args, image)...)
	return image
}

// kernelConfig is one kind of file system that this kernel mounts.
type kernelConfig struct {
	name    string
	args    string // of mke2fs
	block   int64
	mib     int64
	small   bool   // less is put in
	options string // of the mount that fills it
	setup   func(t *testing.T, image string)
}

const big = 32

var kernelConfigs = []kernelConfig{
	{name: "ext2 1k", args: "-t ext2 -b 1024", block: 1024},
	{name: "ext2 2k", args: "-t ext2 -b 2048", block: 2048, small: true},
	{name: "ext2 4k", args: "-t ext2 -b 4096", block: 4096, small: true},
	{name: "ext2 revision 0", args: "-t ext2 -r 0 -b 1024", block: 1024, small: true},
	{name: "ext2 without file types", args: "-t ext2 -b 1024 -O ^filetype,^dir_index", block: 1024, small: true},
	{name: "ext3 1k", args: "-t ext3 -b 1024", block: 1024, small: true},
	{name: "ext3 4k", args: "-t ext3 -b 4096", block: 4096, small: true},
	{name: "ext4 1k", args: "-t ext4 -b 1024", block: 1024},
	{name: "ext4 2k", args: "-t ext4 -b 2048", block: 2048, small: true},
	{name: "ext4 4k", args: "-t ext4 -b 4096", block: 4096},
	{name: "ext4 without checksums", args: "-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg", block: 1024, small: true},
	{name: "ext4 uninit_bg", args: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg", block: 1024, small: true},
	{name: "ext4 uninit_bg 64bit", args: "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,64bit", block: 1024, small: true},
	{name: "ext4 without 64bit", args: "-t ext4 -b 1024 -O ^64bit", block: 1024, small: true},
	{name: "ext4 without extents", args: "-t ext4 -b 1024 -O ^extents,^64bit", block: 1024, small: true},
	{name: "ext4 without flex_bg", args: "-t ext4 -b 1024 -O ^flex_bg", block: 1024, small: true},
	{name: "ext4 without sparse_super", args: "-t ext4 -b 1024 -O ^sparse_super,^resize_inode", block: 1024, small: true},
	{name: "ext4 sparse_super2", args: "-t ext4 -b 1024 -O sparse_super2,^resize_inode", block: 1024, small: true},
	{name: "ext4 meta_bg", args: "-t ext4 -b 1024 -O meta_bg,^resize_inode", block: 1024, small: true},
	{name: "ext4 meta_bg 4k", args: "-t ext4 -b 4096 -g 256 -O meta_bg,^resize_inode", block: 4096, small: true},
	{name: "ext4 metadata_csum_seed", args: "-t ext4 -b 1024 -O metadata_csum_seed", block: 1024, small: true,
		setup: func(t *testing.T, image string) {
			fstest.Run(t, "tune2fs", "-U", "01234567-89ab-cdef-0123-456789abcdef", image)
		}},
	{name: "ext4 inline_data", args: "-t ext4 -b 1024 -O inline_data", block: 1024, small: true},
	{name: "ext4 inline_data 4k large inodes", args: "-t ext4 -b 4096 -I 1024 -O inline_data", block: 4096, small: true},
	{name: "ext4 ea_inode", args: "-t ext4 -b 1024 -O ea_inode", block: 1024, small: true},
	{name: "ext4 ea_inode inline_data", args: "-t ext4 -b 4096 -O ea_inode,inline_data", block: 4096, small: true},
	{name: "ext4 large_dir", args: "-t ext4 -b 1024 -O large_dir", block: 1024},
	{name: "ext4 bigalloc", args: "-t ext4 -b 4096 -O bigalloc -C 65536", block: 4096, small: true, mib: 64},
	{name: "ext4 bigalloc 1k", args: "-t ext4 -b 1024 -O bigalloc -C 8192", block: 1024, small: true, mib: 64},
	{name: "ext4 small inodes", args: "-t ext4 -b 1024 -I 128", block: 1024, small: true},
	{name: "ext4 inodes of a block", args: "-t ext4 -b 1024 -I 1024 -N 4000", block: 1024, small: true},
	{name: "ext4 mmp", args: "-t ext4 -b 1024 -O mmp", block: 1024, small: true},
	{name: "ext4 verity encrypt stable_inodes", args: "-t ext4 -b 4096 -O verity,encrypt,stable_inodes", block: 4096, small: true},
	{name: "ext4 without huge_file", args: "-t ext4 -b 1024 -O ^huge_file", block: 1024, small: true},
	{name: "ext4 without extra_isize", args: "-t ext4 -b 1024 -O ^extra_isize", block: 1024, small: true},
	{name: "ext4 without dir_index", args: "-t ext4 -b 1024 -O ^dir_index", block: 1024, small: true},
	{name: "ext4 without journal", args: "-t ext4 -b 1024 -O ^has_journal", block: 1024, small: true},
	{name: "ext4 orphan_file", args: "-t ext4 -b 1024 -O orphan_file", block: 1024, small: true},
	{name: "ext4 fast_commit", args: "-t ext4 -b 1024 -O fast_commit", block: 1024, small: true},
	{name: "ext4 data=journal", args: "-t ext4 -b 1024", block: 1024, small: true, options: "data=journal"},
	{name: "ext4 legacy hash", args: "-t ext4 -b 1024", block: 1024, small: true, setup: hashes("legacy", false)},
	{name: "ext4 legacy hash unsigned", args: "-t ext4 -b 1024", block: 1024, small: true, setup: hashes("legacy", true)},
	{name: "ext4 half_md4 unsigned", args: "-t ext4 -b 1024", block: 1024, small: true, setup: hashes("half_md4", true)},
	{name: "ext4 tea", args: "-t ext4 -b 1024", block: 1024, small: true, setup: hashes("tea", false)},
	{name: "ext4 tea unsigned", args: "-t ext4 -b 1024", block: 1024, small: true, setup: hashes("tea", true)},
}

// hashes chooses the hash of directory indexes made from now on.
func hashes(alg string, unsigned bool) func(t *testing.T, image string) {
	return func(t *testing.T, image string) {
		fstest.Run(t, "tune2fs", "-E", "hash_alg="+alg, image)
		if unsigned {
			fstest.Run(t, "debugfs", "-w", "-R", "set_super_value flags 2", image)
		}
	}
}

// TestKernel fills file systems of many kinds by the kernel and compares what
// is read with the kernel's own read-only mount.
func TestKernel(t *testing.T) {
	for _, c := range kernelConfigs {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			size := c.mib
			if size == 0 {
				size = 16
				if !c.small {
					size = big
				}
			}
			image := mke2fs(t, size<<20, strings.Fields(c.args)...)
			if c.setup != nil {
				c.setup(t, image)
			}
			dir, unmount := fstest.Mount(t, image, "ext4", false, c.options)
			has := func(feature string) bool { return strings.Contains(c.args, feature) }
			extents := has("ext4") && !has("^extents")
			p := &fstest.Tree{TB: t, Root: dir, Block: c.block, Big: !c.small,
				Rand:     rand.NewChaCha8([32]byte{1}),
				Prealloc: extents, MaxFile: extents && !has("^huge_file"),
			}
			p.XattrMax = int(c.block) - 200
			if has("ea_inode") {
				p.XattrMax = 65536
			}
			p.Fill()
			unmount()

			fs := openImage(t, image)
			dir, _ = fstest.Mount(t, image, "ext4", true, "")
			fstest.Compare(t, fs, dir, fstest.Ignore{})
			fstest.CompareStatfs(t, fs, dir)
			if w := fs.Info().Warnings; len(w) > 0 {
				t.Errorf("warnings: %q", w)
			}
		})
	}
}
