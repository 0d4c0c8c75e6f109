package ext4_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys/fstest"
)

// TestOrphans: files that were unlinked or being truncated when the guest
// stopped are shown as the kernel shows them after it has cleaned up, in space
// taken and free as well. Only the times of its cleaning differ.
func TestOrphans(t *testing.T) {
	for _, args := range []string{
		"-t ext4 -b 1024", "-t ext4 -b 4096", "-t ext3 -b 1024", "-t ext2 -b 1024", "-t ext2 -b 2048",
		"-t ext4 -b 1024 -O bigalloc -C 8192", "-t ext4 -b 1024 -O inline_data", "-t ext4 -b 1024 -O orphan_file",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			image := mke2fs(t, 24<<20, strings.Fields(args)...)
			dir, unmount := fstest.Mount(t, image, "ext4", false, "")
			extents := strings.Contains(args, "ext4")
			for _, name := range []string{"cut", "cut to nothing", "cut in the middle", "gone", "stays"} {
				fragmented(t, filepath.Join(dir, name), extents)
			}
			must(t, unix.Setxattr(filepath.Join(dir, "gone"), "user.large", noise[:700], 0))
			must(t, os.WriteFile(filepath.Join(dir, "small"), noise[:50], 0o644))
			unmount()

			// The list goes: gone, cut, cut to nothing, …
			ino := func(name string) uint64 { return walk(t, openImage(t, image), name) }
			script := "unlink gone\n"
			list := []string{"gone", "cut", "cut to nothing", "cut in the middle", "small"}
			sizes := []int{-1, 5000, 0, 333333, 20}
			for i, name := range list {
				next := uint64(0)
				if i+1 < len(list) {
					next = ino(list[i+1])
				}
				script += fmt.Sprintf("set_inode_field <%d> dtime @%d\n", ino(name), next)
				if sizes[i] < 0 {
					script += fmt.Sprintf("set_inode_field <%d> links_count 0\n", ino(name))
				} else {
					script += fmt.Sprintf("set_inode_field <%d> size %d\n", ino(name), sizes[i])
				}
			}
			script += fmt.Sprintf("set_super_value last_orphan %d\n", ino("gone"))
			debugfs(t, image, script)

			fs := openImage(t, image)
			kernel, _ := fstest.Mount(t, fstest.Copy(t, image), "ext4", true, "")
			fstest.Compare(t, fs, kernel, fstest.Ignore{Times: true})
			fstest.CompareStatfs(t, fs, kernel)
			if w := strings.Join(fs.Info().Warnings, " "); !strings.Contains(w, "1 files had been deleted but were still open, and 4 were being truncated") {
				t.Errorf("warnings: %s", w)
			}
		})
	}
}

// fragmented writes a file of many pieces, so that its tree has nodes.
func fragmented(t testing.TB, path string, punch bool) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	_, err = f.Write(noise[:700<<10])
	must(t, err)
	must(t, f.Sync())
	if punch {
		for off := int64(16 << 10); off < 600<<10; off += 32 << 10 {
			must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, 16<<10))
		}
	}
	must(t, f.Close())
}
