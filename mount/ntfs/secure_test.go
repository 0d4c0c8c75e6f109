package ntfs_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys/fstest"
)

// TestSecurityDescriptors: so many that the index of $Secure has several levels.
func TestSecurityDescriptors(t *testing.T) {
	const n = 600
	descriptor := func(i int) []byte {
		b, err := hex.DecodeString("0100048014000000240000000000000034000000010200000000000520000000200200000102000000000005200000002002000002001c000100000000031400ff011f00010100000000000100000000")
		must(t, err)
		le.PutUint32(b[0x14+12:], uint32(1000+i)) // of the owner
		return b
	}
	image := mkntfs(t, 16<<20)
	dir, unmount := mount(t, image, "permissions")
	for i := range n {
		path := fmt.Sprintf("%s/%d", dir, i)
		must(t, os.WriteFile(path, nil, 0o644))
		must(t, unix.Setxattr(path, "system.ntfs_acl", descriptor(i), 0))
	}
	unmount()
	fs := openImage(t, image)
	shared := 0
	for i := range n {
		ino := walk(t, fs, fmt.Sprint(i))
		got, err := fs.Xattr(ino, "system.ntfs_acl")
		if err != nil || !bytes.Equal(got, descriptor(i)) {
			t.Errorf("%d: %x, %v", i, got, err)
		}
		if fs.SecurityID(ino) != 0 {
			shared++
		}
	}
	if shared < n {
		t.Errorf("only %d descriptors are in $Secure", shared)
	}
	if t.Failed() {
		t.Log(fstest.Run(t, "ntfsinfo", "-i", "9", image))
	}
}
