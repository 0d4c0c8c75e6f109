package ext4_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"

	"golang.org/x/sys/unix"
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

// TestGarbageInTheTable: where the inode table was never written it holds anything.
// An inode that the bitmap has as free is none, whatever stands there; one that is
// in use is damaged.
func TestGarbageInTheTable(t *testing.T) {
	image := mke2fs(t, 16<<20, "-t", "ext4", "-b", "1024")
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{6})}
	inodes := map[string]uint64{}
	for _, name := range []string{"kept", "deleted", "last"} {
		p.File(name, 100)
		var st unix.Stat_t
		p.Check(unix.Stat(p.Path(name), &st))
		inodes[name] = st.Ino
	}
	p.Check(os.Remove(p.Path("deleted")))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	for name, want := range map[string]error{"kept": filesys.ErrCorrupt, "deleted": filesys.ErrNotExist} {
		out := fstest.Run(t, "debugfs", "-R", fmt.Sprintf("imap <%d>", inodes[name]), image)
		var block, offset int
		if _, err := fmt.Sscanf(out[strings.Index(out, "located at"):], "located at block %d, offset 0x%x", &block, &offset); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		p.Rand.Read(b[block<<10+offset:][:256])
		fs, err := ext4.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
		must(t, err)
		if _, err := fs.Attr(inodes[name]); !errors.Is(err, want) {
			t.Errorf("%s, inode %d: %v, want %v", name, inodes[name], err, want)
		}
	}
}
