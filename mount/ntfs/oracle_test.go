package ntfs_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/ntfs"
)

// openImage opens an image by the reader under test.
func openImage(t testing.TB, image string) *ntfs.FS {
	t.Helper()
	f, err := os.Open(image)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	must(t, err)
	fs, err := ntfs.Open(f, st.Size(), filesys.Options{})
	must(t, err)
	return fs
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mkntfs makes a file system on an image of random bytes.
func mkntfs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	image := fstest.Image(t, size, uint64(len(strings.Join(args, ""))))
	// Quick: nothing is zeroed but what mkntfs needs.
	args = append([]string{"-F", "-Q", "-q"}, args...)
	fstest.Run(t, "mkntfs", append(args, image)...)
	return image
}

// mount mounts an image by ntfs-3g, until the test ends or the function it gives
// is called.
func mount(t testing.TB, image, options string) (dir string, unmount func()) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "mnt")
	must(t, err)
	all := "streams_interface=xattr,noatime"
	if options != "" {
		all += "," + options
	}
	fstest.Run(t, "ntfs-3g", "-o", all, image, dir)
	done := false
	unmount = func() {
		if done {
			return
		}
		done = true
		// ntfs-3g writes what is left when the kernel has gone: only when it
		// has let go of the image is all there.
		pid := daemon(t, image)
		// Lazily, for the kernel closes files behind our back.
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
		waitFor(t, pid)
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// daemon is the process that has the image mounted.
func daemon(t testing.TB, image string) string {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, p := range procs {
		b, err := os.ReadFile(p)
		args := strings.Split(string(b), "\x00")
		if err == nil && filepath.Base(args[0]) == "ntfs-3g" && slices.Contains(args, image) {
			return filepath.Base(filepath.Dir(p))
		}
	}
	t.Fatalf("no ntfs-3g has mounted %s", image)
	return ""
}

// waitFor waits until a process that is no child of this one has ended.
func waitFor(t testing.TB, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	must(t, err)
	fd, err := unix.PidfdOpen(n, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	must(t, err)
	defer unix.Close(fd)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		got, err := unix.Poll(fds, int(time.Minute/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		must(t, err)
		if got == 0 {
			t.Fatalf("ntfs-3g (process %d) does not end", n)
		}
		return
	}
}

var le = binary.LittleEndian

// utf16le is s as Windows writes it.
func utf16le(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s)) {
		b = le.AppendUint16(b, u)
	}
	return b
}

// btimeless hides what ntfs-3g does not tell by stat: creation times, and that
// DOS names are no links of their own.
type btimeless struct{ *ntfs.FS }

func (f btimeless) Attr(ino uint64) (filesys.Attr, error) {
	a, err := f.FS.Attr(ino)
	a.Btime = time.Time{}
	if _, noDOS := f.Xattr(ino, "system.ntfs_dos_name"); err == nil && noDOS == nil && a.Mode&filesys.TypeMask != filesys.TypeDir {
		a.Nlink++
	}
	return a, err
}
