package mount

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/extract"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/mounttest"
	"cairn/mount/tree"
)

// fileImage is an image file as a disk of a point.
type fileImage struct {
	*os.File
	size int64
}

func (f fileImage) Size() int64 { return f.size }
func (f fileImage) Extent(_ context.Context, off int64) (bool, int64, error) {
	return true, f.size - off, nil
}

func openImage(t testing.TB, path string) fileImage {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fileImage{f, st.Size()}
}

// populate fills a directory with what a file system can hold, as far as the
// file system below it can.
func populate(t testing.TB, dir string, r *rand.Rand) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	for i, size := range []int{0, 1, 59, 60, 61, 159, 160, 1023, 1024, 1025, 4095, 4096, 4097, 12 << 10, 13<<10 + 1, 65535, 300_000, 2<<20 + 7} {
		must(os.WriteFile(fmt.Sprintf("%s/size-%d", dir, size), random(size), os.FileMode(0o600+i)))
	}
	for i := range 3 { // sparse files: data here and there, and a hole at the end
		f, err := os.Create(fmt.Sprintf("%s/sparse-%d", dir, i))
		must(err)
		for range 4 + 10*i {
			_, err = f.WriteAt(random(1+r.IntN(9000)), r.Int64N(8<<20))
			must(err)
		}
		must(f.Truncate(12<<20 + int64(i)))
		must(f.Close())
	}
	must(os.MkdirAll(dir+"/deep"+strings.Repeat("/d", 60), 0o755))
	must(os.Mkdir(dir+"/many", 0o1777))
	for i := range 800 {
		must(os.WriteFile(fmt.Sprintf("%s/many/%s-%d", dir, strings.Repeat("x", r.IntN(60)), i), random(r.IntN(20)), 0o644))
	}
	must(os.WriteFile(dir+"/"+strings.Repeat("n", 255), nil, 0o644))
	must(os.WriteFile(dir+"/한글 이름.txt", []byte("Korean"), 0o644))
	must(os.WriteFile(dir+"/raw\xff\x01\n", []byte("raw"), 0o644))
	must(os.Symlink("size-1", dir+"/fast"))
	must(os.Symlink(strings.Repeat("s", 59), dir+"/fast59"))
	must(os.Symlink(strings.Repeat("s", 60), dir+"/slow60"))
	must(os.Symlink("/"+strings.Repeat("slow/", 180), dir+"/slow"))
	must(os.Link(dir+"/size-4096", dir+"/many/linked"))
	must(os.Link(dir+"/size-4096", dir+"/deep/linked"))
	must(unix.Mknod(dir+"/dev", unix.S_IFCHR|0o620, int(unix.Mkdev(5, 1))))
	must(unix.Mknod(dir+"/bigdev", unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
	must(unix.Mkfifo(dir+"/fifo", 0o640))
	must(unix.Mknod(dir+"/sock", unix.S_IFSOCK|0o755, 0))
	must(unix.Setxattr(dir+"/size-1", "user.small", []byte("v"), 0))
	must(unix.Setxattr(dir+"/size-1", "user.empty", nil, 0))
	must(unix.Setxattr(dir+"/size-1024", "user.large", random(700), 0))
	must(unix.Setxattr(dir+"/deep", "user.dir", []byte("on a directory"), 0))
	must(unix.Setxattr(dir+"/size-4096", "trusted.t", []byte("t"), 0))
	must(unix.Setxattr(dir+"/size-4097", "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	sh(t, `setfacl -m u:1234:rwx,g:99:r-- "$1/size-60"; setfacl -d -m u:1234:rx "$1/deep"`, dir)
	must(os.Lchown(dir+"/size-61", 70000, 80000))
	must(os.Chmod(dir+"/size-61", 0o644|os.ModeSetuid|os.ModeSetgid))
	for name, at := range map[string]time.Time{
		"size-0":  time.Date(1901, 12, 14, 0, 0, 0, 1, time.UTC),
		"size-59": time.Date(2106, 2, 7, 6, 28, 16, 999_999_999, time.UTC),
		"fast":    time.Date(2300, 1, 1, 0, 0, 0, 5, time.UTC),
	} {
		ts := []unix.Timespec{{Sec: at.Unix() + 5, Nsec: 7}, {Sec: at.Unix(), Nsec: int64(at.Nanosecond())}}
		must(unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/"+name, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// kernelMount mounts a part of an image by the kernel until the test ends.
func kernelMount(t testing.TB, image string, off, size int64, flags uintptr) (dir string, unmount func()) {
	t.Helper()
	args := []string{"--find", "--show", "--offset", fmt.Sprint(off), "--sizelimit", fmt.Sprint(size), image}
	if flags&unix.MS_RDONLY != 0 {
		args = append([]string{"--read-only"}, args...)
	}
	dev := strings.TrimSpace(fstest.Run(t, "losetup", args...))
	dir = t.TempDir()
	if err := unix.Mount(dev, dir, "ext4", flags|unix.MS_NOATIME, ""); err != nil {
		fstest.Run(t, "losetup", "--detach", dev)
		t.Fatalf("mount %s: %v", dev, err)
	}
	mounted := true
	unmount = func() {
		if !mounted {
			return
		}
		mounted = false
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
		fstest.Run(t, "losetup", "--detach", dev)
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// twoPartitions makes a disk of random bytes with two ext4 partitions, one
// filled by mke2fs, one by the kernel.
func twoPartitions(t testing.TB) (image string, parts [2][2]int64) {
	t.Helper()
	needTool(t, "setfacl", "acl")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	const mib = 1 << 20
	image = fstest.Image(t, 96*mib, seed)
	parts = [2][2]int64{{1 * mib, 48 * mib}, {50 * mib, 44 * mib}}
	sh(t, `printf 'label: gpt\nstart=1MiB, size=48MiB\nstart=50MiB, size=44MiB\n' | sfdisk -q --wipe always "$1"`, image)

	src := filepath.Join(t.TempDir(), "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	populate(t, src, r)
	fstest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "first", "-d", src, "-E", fmt.Sprintf("offset=%d", parts[0][0]), image, "48M")
	fstest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-I", "256", "-L", "second", "-O", "inline_data", "-E", fmt.Sprintf("offset=%d", parts[1][0]), image, "44M")
	dir, unmount := kernelMount(t, image, parts[1][0], parts[1][1], 0)
	populate(t, dir, r)
	sh(t, `fallocate -l 3M "$1/unwritten"; printf x | dd of="$1/unwritten" bs=1 seek=1000000 conv=notrunc status=none
		touch "$1/behind-the-end"; fallocate -n -l 100k "$1/behind-the-end"; for i in $(seq 50); do rm "$1"/many/*-"$i"; done`, dir)
	unmount()
	return image, parts
}

// The mounted tree equals the kernel's own mount of the same partitions in every
// name, byte, mode, owner, time, link, attribute and hole, and a copy made
// without FUSE does too.
func TestEqualsKernel(t *testing.T) {
	image, parts := twoPartitions(t)
	disk := openImage(t, image)
	var log logBuffer
	tr := tree.NewPoint(tree.Point{ID: "p1", Time: mounttest.Epoch, Disks: []tree.Disk{{Name: "vda", Image: disk}}}, tree.Options{Log: log.logger()})
	_, dir := mountTree(t, tr, Options{Log: log.logger()})
	if got := sh(t, `ls "$1/volumes" | tr '\n' ' '`, dir); got != "vda1 vda2 " {
		t.Fatalf("volumes %q\n%s", got, &log)
	}
	for i, part := range parts {
		name := fmt.Sprintf("vda%d", i+1)
		kernel, _ := kernelMount(t, image, part[0], part[1], unix.MS_RDONLY)
		check := func(what, got string, opts mounttest.DiffOptions) {
			t.Helper()
			res, err := mounttest.Diff(kernel, got, opts)
			if err != nil {
				t.Error(err)
			}
			if len(res.Differences) > 0 || res.Entries < 800 || res.Bytes < 2<<20 {
				t.Errorf("%s %s: %d entries, %d bytes compared, differences:\n%s", what, name, res.Entries, res.Bytes, strings.Join(res.Differences, "\n"))
			}
		}
		at, err := tr.Resolve(context.Background(), "/volumes/"+name, true)
		if err != nil {
			t.Fatal(err)
		}
		stop := forgetting(t, at.Node.Volume())
		check("mount of", dir+"/volumes/"+name, mounttest.DiffOptions{})
		stop()

		if i == 0 {
			programsCopy(t, kernel, dir+"/volumes/"+name, check)
		}

		f, err := tr.Resolve(context.Background(), "/volumes/"+name, true)
		if err != nil {
			t.Fatal(err)
		}
		dest := t.TempDir()
		var failed []string
		res, err := extract.Copy(context.Background(), []extract.Source{{Path: f.Path, Node: f.Node}}, dest, extract.Options{
			Archive: true, Report: func(p string, err error) { failed = append(failed, fmt.Sprintf("%q: %v", p, err)) },
		})
		if err != nil || len(failed) > 0 {
			t.Errorf("copy of %s: %+v, %v\n%s", name, res, err, strings.Join(failed, "\n"))
		}
		check("copy of", dest+"/"+name, mounttest.DiffOptions{
			Ctime: true, Atime: true, Blocks: true, Dirs: true,
			Holes: i == 1, // its blocks are smaller than those of the destination
		})
	}
	if log.String() != "" {
		t.Errorf("log:\n%s", &log)
	}
}

// programsCopy: what people copy with makes of the mount what it makes of the
// kernel's: names, bytes, modes, owners, times, links, attributes, access control
// lists; and du counts the same.
func programsCopy(t *testing.T, kernel, mounted string, check func(what, got string, opts mounttest.DiffOptions)) {
	t.Helper()
	needTool(t, "rsync", "rsync")
	for _, du := range []string{`du -s -B1 "$1" | cut -f1`, `du -s -B1 --apparent-size "$1" | cut -f1`, `du -s --inodes "$1" | cut -f1`, `find "$1" -printf '%s %b %k %n\n' | sort`} {
		if want, got := sh(t, du, kernel), sh(t, du, mounted); want != got {
			t.Errorf("%s: %s, from the kernel %s", du, got, want)
		}
	}
	for name, script := range map[string]string{
		"rsync": `rsync -aHAXS --numeric-ids "$1/" "$2/"`,
		"tar": `tar -C "$1" --format=posix --xattrs --xattrs-include='*' --acls --sparse --numeric-owner --exclude=./sock -cf - . |
			tar -C "$2" --xattrs --xattrs-include='*' --acls --numeric-owner -xpf -`,
		"cp": `cp -a --sparse=always "$1/." "$2/"`,
	} {
		dest := t.TempDir()
		sh(t, script, mounted, dest)
		opts := mounttest.DiffOptions{Ctime: true, Atime: true, Blocks: true, Dirs: true, Holes: true}
		if name == "tar" {
			opts.Skip = []string{"sock"}
		}
		check(name+" of", dest, opts)
		// Holes stay holes, within what the programs see as one.
		if got := sh(t, `du -s -B1 "$1"/sparse-0 | cut -f1; find "$1" -maxdepth 1 -name 'sparse-*' -size +12M -printf '%b\n' | awk '$1 > 12000 {print "full"}'`, dest); strings.Contains(got, "full") {
			t.Errorf("%s filled the holes: %s", name, got)
		}
	}
}

// forgetting has a volume's reader forget what it keeps, again and again.
func forgetting(t *testing.T, v *tree.Volume) (stop func()) {
	t.Helper()
	fs, err := v.FS()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			fs.(filesys.Keeper).Forget()
			runtime.Gosched()
		}
	})
	return func() { cancel(); wg.Wait() }
}
