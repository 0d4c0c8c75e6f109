package history

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/btrfs"
	"cairn/mount/fat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/ntfs"
	"cairn/mount/xfs"
)

// format is a file system whose reader can tell what changed.
type format struct {
	name  string
	mib   int64
	mkfs  []string
	mount func(t testing.TB, image string) (dir string, unmount func())
	open  func(r io.ReaderAt, size int64) (filesys.FS, error)
}

func byKernel(fstype string) func(testing.TB, string) (string, func()) {
	return func(t testing.TB, image string) (string, func()) { return fstest.Mount(t, image, fstype, false, "") }
}

var formats = []format{
	{"xfs", 320, []string{"mkfs.xfs", "-q", "-f", "-K"}, byKernel("xfs"), func(r io.ReaderAt, size int64) (filesys.FS, error) {
		return xfs.Open(r, size, filesys.Options{})
	}},
	{"btrfs", 160, []string{"mkfs.btrfs", "-q", "-f", "-K"}, byKernel("btrfs"), func(r io.ReaderAt, size int64) (filesys.FS, error) {
		return btrfs.Open([]btrfs.Device{r.(btrfs.Device)}, filesys.Options{})
	}},
	{"ntfs", 48, []string{"mkntfs", "-q", "-F", "-Q"}, byNTFS3G, func(r io.ReaderAt, size int64) (filesys.FS, error) {
		return ntfs.Open(r, size, filesys.Options{})
	}},
}

// byNTFS3G mounts by ntfs-3g, which writes what is left when the kernel has let
// go of it: only when it has ended is all in the image.
func byNTFS3G(t testing.TB, image string) (string, func()) {
	dir := t.TempDir()
	fstest.Run(t, "ntfs-3g", "-o", "streams_interface=xattr,permissions,acl", image, dir)
	done := false
	unmount := func() {
		if done {
			return
		}
		done = true
		fd := daemon(t, image)
		defer unix.Close(fd)
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30000); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// daemon gives a descriptor of the process that serves an image.
func daemon(t testing.TB, image string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && bytes.Contains(b, []byte("ntfs-3g\x00")) && bytes.Contains(b, []byte(image)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			must(t, err)
			fd, err := unix.PidfdOpen(pid, 0)
			must(t, err)
			return fd
		}
	}
	t.Fatalf("no ntfs-3g serves %s", image)
	return -1
}

// TestDiffFormats: random changes on each format that can tell its changes, told
// as what they come to.
func TestDiffFormats(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			image := filepath.Join(fstest.TempDir(t), "image")
			must(t, os.WriteFile(image, nil, 0o600))
			must(t, os.Truncate(image, f.mib<<20))
			fstest.Run(t, f.mkfs[0], append(f.mkfs[1:], image)...)
			v := newVault(t)
			v.openFS = f.open
			w := &work{t: t, rng: rand.New(rand.NewPCG(seed, uint64(i)))}
			var points []saved
			step := func(n int) *Point {
				dir, unmount := f.mount(t, image)
				w.run(dir, n)
				unmount()
				points = append(points, v.backUp("vda="+image))
				return v.open(points[len(points)-1])
			}
			last := step(400)
			old := describe(t, last, "vda")
			states := []map[string]described{old}
			for range 3 {
				next := step(50)
				now := describe(t, next, "vda")
				list := diff(t, last, next, false)
				checkDiff(t, old, now, list)
				checkDiff(t, old, now, diff(t, last, next, true))
				t.Log(len(list), "changes")
				last, old = next, now
				states = append(states, now)
			}
			checkVersions(t, v, w.rng, points, states)
		})
	}
}

// TestDiffFAT: a format whose reader cannot tell its changes, and whose times are
// of two seconds, so that a file may change and look as before.
func TestDiffFAT(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 8<<20))
	fstest.Run(t, "mkfs.fat", image)
	dir := t.TempDir()
	put := func(name, content string) {
		p := filepath.Join(dir, "f")
		must(t, os.WriteFile(p, []byte(content), 0o644))
		must(t, os.Chtimes(p, time.Unix(1e9, 0), time.Unix(1e9, 0)))
		fstest.Run(t, "mcopy", "-o", "-m", "-i", image, p, "::"+name)
	}
	fstest.Run(t, "mmd", "-i", image, "::dir")
	put("gone", "1")
	put("stays", "2")
	put("same length", "3")
	put("dir/below", "4")
	v := newVault(t)
	v.openFS = func(r io.ReaderAt, size int64) (filesys.FS, error) { return fat.Open(r, size, filesys.Options{}) }
	a := v.open(v.backUp("vda=" + image))
	fstest.Run(t, "mdel", "-i", image, "::gone")
	put("same length", "5")
	put("dir/new", "6")
	b := v.open(v.backUp("vda=" + image))
	list := diff(t, a, b, false)
	checkDiff(t, describe(t, a, "vda"), describe(t, b, "vda"), list)
	want := "D /volumes/vda/gone;A /volumes/vda/dir/new;M /volumes/vda/same length: content"
	for _, line := range strings.Split(want, ";") {
		if !slices.Contains(lines(list), line) {
			t.Errorf("%q lacks %q", lines(list), line)
		}
	}
}
