// Package fstest helps to test the readers of guest file systems.
//
// Compare holds a filesys.FS against a directory where the kernel has mounted
// the same volume (or against the files that the volume was made from), in every
// name, byte, mode, owner, time, link, attribute and hole. Exercise calls
// everything that an FS offers within a budget and checks what the interface
// promises about answers and errors; fuzz targets run it on damaged volumes.
// Image, Mount and Run make the volumes.
//
// It is used by tests only. Helpers end the test when the machine lacks
// something, and say which package has it.
package fstest

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// packages tells where Debian keeps a tool.
var packages = map[string]string{
	"mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "tune2fs": "e2fsprogs", "e2fsck": "e2fsprogs",
	"losetup": "mount", "mkfs.xfs": "xfsprogs", "xfs_db": "xfsprogs", "xfs_admin": "xfsprogs", "xfs_io": "xfsprogs", "mkfs.btrfs": "btrfs-progs", "mkntfs": "ntfs-3g", "ntfs-3g": "ntfs-3g", "wimcapture": "wimtools", "ntfsinfo": "ntfs-3g", "blkid": "util-linux",
	"mkfs.fat": "dosfstools", "fsck.fat": "dosfstools", "mcopy": "mtools", "mdel": "mtools", "mdir": "mtools", "mmd": "mtools", "resize2fs": "e2fsprogs",
	"mkfs.exfat": "exfatprogs", "fsck.exfat": "exfatprogs", "mount.exfat-fuse": "exfat-fuse",
	"qemu-img": "qemu-utils", "cryptsetup": "cryptsetup-bin",
	"btrfs": "btrfs-progs", "btrfstune": "btrfs-progs", "btrfs-convert": "btrfs-progs", "chattr": "e2fsprogs",
	"setfacl": "acl", "setfattr": "attr",
}

// Run runs a tool and gives what it printed. It ends the test when the tool
// fails or is missing.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = filepath.Join("/sbin", name) // not in everyone's path
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("this test needs %s: install the package %s", name, packages[name])
		}
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TempDir gives a directory in memory if the machine has room for it there: the
// tests write hundreds of megabytes that nobody wants on a disk.
func TempDir(t testing.TB) string {
	t.Helper()
	const shm = "/dev/shm"
	var st unix.Statfs_t
	if unix.Statfs(shm, &st) != nil || int64(st.Bavail)*st.Bsize < 2<<30 {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "cairn-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Image makes a file of size random bytes, in which a file system is then to be
// made: on a disk of zeros a reader that shows stale bytes would pass. The bytes
// depend on seed.
func Image(t testing.TB, size int64, seed uint64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(TempDir(t), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// One odd-sized row of random bytes over and over is random enough.
	buf := make([]byte, 1<<20-17)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(buf)
	for done := int64(0); done < size; {
		n := min(int64(len(buf)), size-done)
		if _, err := f.Write(buf[:n]); err != nil {
			t.Fatal(err)
		}
		done += n
	}
	return f.Name()
}

// Mount mounts an image by the kernel until the test ends, or until the
// function it gives is called. Options are those of mount(2) for the file
// system ("data=journal"); readOnly mounts read-only, though the kernel may
// still replay the journal.
func Mount(t testing.TB, image, fstype string, readOnly bool, options string) (dir string, unmount func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems by the kernel: run it as root")
	}
	dev := strings.TrimSpace(Run(t, "losetup", "--find", "--show", image))
	detach := func() { Run(t, "losetup", "--detach", dev) }
	dir, err := os.MkdirTemp(t.TempDir(), "mnt")
	if err != nil {
		detach()
		t.Fatal(err)
	}
	flags := uintptr(unix.MS_NOATIME)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(dev, dir, fstype, flags, options); err != nil {
		detach()
		t.Fatalf("mount %s as %s with %q: %v", image, fstype, options, err)
	}
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		err := unix.Unmount(dir, 0)
		for i := 0; errors.Is(err, unix.EBUSY) && i < 50; i++ {
			time.Sleep(20 * time.Millisecond) // some other process's quick look
			err = unix.Unmount(dir, 0)
		}
		if err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
		detach()
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// Copy copies an image, keeping its holes.
func Copy(t testing.TB, image string) string {
	t.Helper()
	to := filepath.Join(TempDir(t), "copy")
	Run(t, "cp", "--sparse=always", image, to)
	return to
}
