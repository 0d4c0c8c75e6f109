//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fillRandom makes, or overwrites, a file with size random bytes. No two blocks
// of it are alike, nor like those of another seed.
func (w *world) fillRandom(path string, size int64, seed uint64) {
	w.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	w.must(err)
	defer f.Close()
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), byte(seed >> 32)})
	buf := make([]byte, 4<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), size-off)]
		_, _ = r.Read(buf) // never fails
		_, err := f.WriteAt(buf, off)
		w.must(err)
	}
	w.must(f.Truncate(size))
}

// part is a partition of an image file, in bytes.
type part struct{ start, size int64 }

// partition writes a partition table that sfdisk describes, and gives its
// partitions.
func (w *world) partition(image, script string) (parts []part) {
	w.Helper()
	cmd := exec.Command("sfdisk", "--quiet", "--wipe=never", image)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("sfdisk (package fdisk): %v: %s", err, out)
	}
	var table struct {
		PartitionTable struct {
			Partitions []struct{ Start, Size int64 }
		}
	}
	w.must(json.Unmarshal([]byte(w.tool("sfdisk", "--json", image)), &table))
	for _, p := range table.PartitionTable.Partitions {
		parts = append(parts, part{p.Start * 512, p.Size * 512})
	}
	return parts
}

// loop makes a loop device of a part of an image, until detach.
func (w *world) loop(image string, p part, readOnly bool) (device string, detach func()) {
	w.Helper()
	args := []string{"--find", "--show", "--offset", fmt.Sprint(p.start), "--sizelimit", fmt.Sprint(p.size), image}
	if readOnly {
		args = append([]string{"--read-only"}, args...)
	}
	device = strings.TrimSpace(w.tool("losetup", args...))
	return device, w.once(func() { w.tool("losetup", "--detach", device) })
}

// once gives f as a function that works once, and at the end of the test at the
// latest.
func (w *world) once(f func()) func() {
	done := false
	g := func() {
		if !done {
			done = true
			f()
		}
	}
	w.Cleanup(g)
	return g
}

// mkfs makes an ext4 file system on a part of an image. What was there before
// stays wherever ext4 does not write.
func (w *world) mkfs(image string, p part, options ...string) {
	w.Helper()
	dev, detach := w.loop(image, p, false)
	defer detach()
	w.tool("mke2fs", append(append([]string{"-q", "-F", "-t", "ext4", "-E", "nodiscard"}, options...), dev)...)
}

// kernelMount has the kernel mount a part of an image. Read-only means that the
// image is not written to, and no log is replayed.
func (w *world) kernelMount(image string, p part, readOnly bool) (dir string, unmount func()) {
	w.Helper()
	flags, options := uintptr(unix.MS_NOATIME), ""
	if readOnly {
		flags, options = flags|unix.MS_RDONLY, "noload"
	}
	dev, detach := w.loop(image, p, readOnly)
	defer detach() // which happens at the unmount, whoever does that
	dir, err := os.MkdirTemp(w.dir, "kernel-")
	w.must(err)
	w.must(unix.Mount(dev, dir, "ext4", flags, options))
	return dir, w.once(func() {
		err := unix.Unmount(dir, 0)
		for i := 0; errors.Is(err, unix.EBUSY) && i < 100; i++ { // another process's quick look
			time.Sleep(20 * time.Millisecond)
			err = unix.Unmount(dir, 0)
		}
		if err != nil {
			w.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// realFiles copies files of this machine to dir, with all that tar can carry,
// until there are about so many bytes.
func (w *world) realFiles(dir string, bytes int64) {
	w.Helper()
	list, err := os.Create(w.path("list"))
	w.must(err)
	defer list.Close()
	out := bufio.NewWriter(list)
	for i, root := range []string{"/etc", "/usr/bin", "/usr/lib", "/usr/share", "/usr/include", "/usr/sbin"} {
		left := bytes / 4
		if i == 0 {
			left = bytes / 20
		}
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // gone meanwhile
			}
			if e.Type().IsRegular() {
				st, err := e.Info()
				if err != nil || st.Size() > 32<<20 {
					return nil
				}
				left -= max(st.Size(), 4096)
			}
			if left < 0 {
				return filepath.SkipAll
			}
			_, err = out.WriteString(path + "\x00")
			return err
		})
		w.must(err)
	}
	w.must(out.Flush())
	w.must(os.MkdirAll(dir, 0o755))
	sh := `tar --create --format=posix --xattrs --acls --no-recursion --null --files-from="$1" --absolute-names --ignore-failed-read --warning=none |
		tar --extract --preserve-permissions --xattrs --acls --strip-components=0 --directory="$2" --transform='s,^/,,'`
	if o, err := exec.Command("bash", "-o", "pipefail", "-c", sh, "bash", list.Name(), dir).CombinedOutput(); err != nil {
		w.Fatalf("copy files of this machine: %v: %s", err, o)
	}
	w.must(os.Remove(list.Name()))
}

// oddFiles makes, below dir, everything that an ext4 file system can hold and
// real files seldom show.
func (w *world) oddFiles(dir string, entries int) {
	w.Helper()
	must := w.must
	random := func(n int) []byte {
		b := make([]byte, n)
		rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)}).Read(b)
		return b
	}
	file := func(name string, n int) string {
		must(os.WriteFile(dir+"/"+name, random(n), 0o644))
		return dir + "/" + name
	}
	must(os.MkdirAll(dir, 0o755))

	// Names, sizes (inline data, one block more or less, a tail).
	for _, name := range []string{"한국어 이름", "new\nline", "\xff\xfe\x01", "-dash", " space ", "...",
		strings.Repeat("a", 248), strings.Repeat("b", 255), strings.Repeat("가", 85)} {
		file(name, 100)
	}
	for _, n := range []int{0, 1, 59, 60, 61, 150, 159, 160, 161, 1023, 1024, 1025, 4095, 4096, 4097, 65535, 65536, 1<<20 + 1} {
		file(fmt.Sprintf("size-%d", n), n)
	}
	// Modes and owners.
	for m := range 64 {
		p := file(fmt.Sprintf("mode-%04o", m*0o101), 10)
		must(os.Lchown(p, m*1000, 1<<31+m))
		must(unix.Chmod(p, uint32(m*0o101)))
	}
	// A directory with thousands of entries, and a deep one.
	must(os.Mkdir(dir+"/many", 0o1777))
	for i := range entries {
		f, err := os.OpenFile(fmt.Sprintf("%s/many/entry-%d-%s", dir, i, strings.Repeat("n", i%50)), os.O_CREATE|os.O_WRONLY, 0o600)
		must(err)
		must(f.Close())
	}
	must(os.MkdirAll(dir+"/deep"+strings.Repeat("/d", 60), 0o700))
	// Links.
	for i, n := range []int{1, 58, 59, 60, 61, 900} {
		must(os.Symlink(strings.Repeat("s", n), fmt.Sprintf("%s/symlink-%d", dir, i)))
	}
	linked := file("linked", 10_000)
	must(os.Link(linked, dir+"/deep/linked"))
	must(os.Link(linked, dir+"/many/linked"))
	// Devices and the like.
	must(unix.Mknod(dir+"/char", unix.S_IFCHR|0o620, int(unix.Mkdev(5, 1))))
	must(unix.Mknod(dir+"/block", unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70_000))))
	must(unix.Mkfifo(dir+"/fifo", 0o640))
	must(unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o755, 0))
	// Holes, preallocation, punched holes, fragments.
	open := func(name string, f func(f *os.File)) {
		h, err := os.Create(dir + "/" + name)
		must(err)
		f(h)
		must(h.Close())
	}
	write := func(f *os.File, off int64, n int) {
		_, err := f.WriteAt(random(n), off)
		must(err)
	}
	open("sparse", func(f *os.File) {
		for _, off := range []int64{0, 70_000, 1 << 20, 1<<31 - 100, 1<<32 + 5} {
			write(f, off, 5000)
		}
		must(f.Truncate(5 << 30))
	})
	open("preallocated", func(f *os.File) {
		must(unix.Fallocate(int(f.Fd()), 0, 0, 1<<20))
		write(f, 300_000, 20_000)
		must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1<<20))
	})
	open("punched", func(f *os.File) {
		write(f, 0, 500_000)
		must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 100_001, 200_000))
		must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 400_000, 50_000))
	})
	open("fragments", func(f *os.File) {
		for i := range 600 {
			write(f, int64(i)*8192, 100)
		}
	})
	// Extended attributes and ACLs.
	p := file("attributes", 100)
	must(unix.Setxattr(p, "user.small", []byte("v"), 0))
	must(unix.Setxattr(p, "user.empty", nil, 0))
	must(unix.Setxattr(p, "user.long", random(700), 0))
	must(unix.Setxattr(p, "trusted.t", []byte("t"), 0))
	must(unix.Setxattr(p, "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	w.tool("setfacl", "-m", "u:1234:rwx,u:77:-,g:99:r--,m::rw", p)
	w.tool("setfacl", "-d", "-m", "u:1234:rx", dir+"/deep")
	// Times before 1970, past 2038, with nanoseconds.
	for i, at := range []time.Time{
		time.Date(1901, 12, 14, 0, 0, 0, 1, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(2038, 1, 19, 3, 14, 8, 123_456_789, time.UTC), time.Date(2400, 1, 1, 0, 0, 0, 5, time.UTC),
	} {
		ts := []unix.Timespec{{Sec: at.Unix() + 5, Nsec: 7}, {Sec: at.Unix(), Nsec: int64(at.Nanosecond())}}
		must(unix.UtimesNanoAt(unix.AT_FDCWD, file(fmt.Sprintf("time-%d", i), 10), ts, 0))
	}
}
