package btrfs_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// disk is an image as a device.
type disk struct {
	io.ReaderAt
	size int64
}

func (d disk) Size() int64 { return d.size }

// volume is a btrfs file system on one or more images.
type volume struct {
	images []string
	loops  []string // while it is mounted
}

// mkfs makes a file system over n images of mib MiB of random bytes each.
func mkfs(t testing.TB, n, mib int, args string) *volume {
	t.Helper()
	v := &volume{}
	for i := range n {
		v.images = append(v.images, fstest.Image(t, int64(mib)<<20, uint64(i+len(args))))
	}
	all := append([]string{"-q", "-f", "--nodiscard"}, strings.Fields(args)...)
	fstest.Run(t, "mkfs.btrfs", append(all, v.images...)...)
	return v
}

// attach gives every image a loop device.
func (v *volume) attach(t testing.TB) {
	t.Helper()
	for _, image := range v.images {
		v.loops = append(v.loops, strings.TrimSpace(fstest.Run(t, "losetup", "--find", "--show", image)))
	}
}

// detach takes the loop devices away, and makes the kernel forget them.
func (v *volume) detach(t testing.TB) {
	t.Helper()
	for _, dev := range v.loops {
		if len(v.loops) > 1 {
			fstest.Run(t, "btrfs", "device", "scan", "--forget", dev)
		}
		fstest.Run(t, "losetup", "--detach", dev)
	}
	v.loops = nil
}

// mount mounts the file system by the kernel until the test ends or the
// function that it gives is called.
func (v *volume) mount(t testing.TB, readOnly bool, options string) (dir string, unmount func()) {
	t.Helper()
	v.attach(t)
	dir, err := os.MkdirTemp(t.TempDir(), "mnt")
	must(t, err)
	flags := uintptr(unix.MS_NOATIME)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	list := strings.Split(options, ",")
	if len(v.loops) > 1 {
		for _, dev := range v.loops {
			list = append(list, "device="+dev)
		}
	}
	options = strings.Trim(strings.Join(list, ","), ",")
	if err := unix.Mount(v.loops[0], dir, "btrfs", flags, options); err != nil {
		v.detach(t)
		t.Fatalf("mount with %q: %v", options, err)
	}
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
		v.detach(t)
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// devices opens the images.
func (v *volume) devices(t testing.TB) (list []btrfs.Device) {
	t.Helper()
	for _, image := range v.images {
		f, err := os.Open(image)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		st, err := f.Stat()
		must(t, err)
		list = append(list, disk{f, st.Size()})
	}
	return list
}

// open opens the file system by the reader under test.
func (v *volume) open(t testing.TB) *btrfs.FS {
	t.Helper()
	fs, err := btrfs.Open(v.devices(t), filesys.Options{})
	must(t, err)
	return fs
}

// copy copies the images.
func (v *volume) copy(t testing.TB) *volume {
	t.Helper()
	c := &volume{}
	for _, image := range v.images {
		c.images = append(c.images, fstest.Copy(t, image))
	}
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// walk finds a file by its path.
func walk(t testing.TB, fs filesys.FS, path string) uint64 {
	t.Helper()
	ino := fs.Root()
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if ino, err = fs.Lookup(ino, name); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return ino
}

// content reads a file whole.
func content(t testing.TB, fs filesys.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(walk(t, fs, path))
	must(t, err)
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	must(t, err)
	return b
}

func subvolume(t testing.TB, args ...string) {
	t.Helper()
	fstest.Run(t, "btrfs", append([]string{"subvolume"}, args...)...)
}

// text gives n bytes that compress.
func text(n int) []byte {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "line %d of what compresses, %x\n", i, i*i*7919)
	}
	return []byte(b.String()[:n])
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, b, 0o644))
}

func identify(d btrfs.Device) (btrfs.ID, error) { return btrfs.Identify(d, d.Size()) }

// sprout begins a file system of its own on the second device, with the first
// as its seed.
func (v *volume) sprout(t testing.TB) {
	t.Helper()
	v.attach(t)
	defer v.detach(t)
	dir, err := os.MkdirTemp(t.TempDir(), "mnt")
	must(t, err)
	must(t, unix.Mount(v.loops[0], dir, "btrfs", unix.MS_RDONLY, ""))
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	}()
	fstest.Run(t, "btrfs", "device", "add", "-K", "-f", v.loops[1], dir)
}

// mountBy mounts by one of the devices, which leads to the others.
func (v *volume) mountBy(t testing.TB, by int, flags uintptr) (dir string, unmount func()) {
	t.Helper()
	v.attach(t)
	dir, err := os.MkdirTemp(t.TempDir(), "mnt")
	must(t, err)
	for _, dev := range v.loops {
		fstest.Run(t, "btrfs", "device", "scan", dev)
	}
	if err := unix.Mount(v.loops[by], dir, "btrfs", flags, ""); err != nil {
		v.detach(t)
		t.Fatal(err)
	}
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
		v.detach(t)
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// logRoot is where the log tree is, 0 without one.
func (v *volume) logRoot(t testing.TB) uint64 {
	t.Helper()
	var b [8]byte
	_, err := v.devices(t)[0].ReadAt(b[:], 64<<10+0x60)
	must(t, err)
	return binary.LittleEndian.Uint64(b[:])
}
