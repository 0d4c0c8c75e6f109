package ext4_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestHoldersOfAttributes: inodes that hold the value of an attribute are no
// files, and no damage either: a comparison of two states may well ask for the
// number of one that was a file before.
func TestHoldersOfAttributes(t *testing.T) {
	image := mke2fs(t, 16<<20, "-t", "ext4", "-b", "1024", "-O", "ea_inode")
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{5}), XattrMax: 60000}
	p.Xattrs()
	unmount()
	fs := openImage(t, image)
	files, none := 0, 0
	for ino := uint64(1); ino <= fs.Info().Files; ino++ {
		switch _, err := fs.Attr(ino); {
		case err == nil:
			files++
		case errors.Is(err, filesys.ErrNotExist):
			none++
		default:
			t.Errorf("inode %d of a sound volume: %v", ino, err)
		}
	}
	if files < 20 || none == 0 {
		t.Errorf("%d files, %d others", files, none)
	}
}
