package extract

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/mounttest"
	"cairn/mount/tree"
)

// must ends the test with an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kernelGuest makes an ext4 volume with all that a file can have, mounted by the
// kernel, and the same as a tree.
func kernelGuest(t *testing.T) (kernel string, tr *tree.Tree) {
	t.Helper()
	image := fstest.Image(t, 96<<20, 7)
	fstest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "ea_inode", "-E", "nodiscard", image)
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	p := &fstest.Tree{TB: t, Root: dir, Block: 1024, Rand: rand.NewChaCha8([32]byte{5}), XattrMax: 700}
	p.Names()
	p.Sizes()
	p.Sparse()
	p.Links()
	p.Special()
	p.Times()
	p.Owners()
	p.Xattrs()
	d := p.Dir("more")
	at := func(name string, sec, ns int64) {
		ts := []unix.Timespec{{Sec: sec, Nsec: ns}, {Sec: sec + 1, Nsec: ns + 1}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p.Path(name), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	must(t, os.Symlink("nowhere", p.Path(d+"/link")))
	must(t, os.Lchown(p.Path(d+"/link"), 1234, 5678))
	must(t, unix.Lsetxattr(p.Path(d+"/link"), "trusted.of.link", []byte("x"), 0))
	at(d+"/link", 1e9, 123456789)
	p.File(d+"/suid", 10)
	must(t, os.Lchown(p.Path(d+"/suid"), 1000, 1000))
	must(t, unix.Chmod(p.Path(d+"/suid"), 0o6711))
	// CAP_NET_RAW, in the second version of the format.
	must(t, unix.Setxattr(p.Path(d+"/suid"), "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	must(t, unix.Setxattr(p.Path(d+"/suid"), "trusted.note", []byte("a\x00b=\n"), 0))
	must(t, unix.Mkfifo(p.Path(d+"/pipe"), 0o640))
	must(t, os.Link(p.Path(d+"/pipe"), p.Path(d+"/same pipe")))
	must(t, os.Link(p.Path(d+"/link"), p.Path(d+"/same link")))
	p.Dir(d + "/times")
	must(t, unix.Chmod(p.Path(d+"/times"), 0o2751))
	p.File(d+"/times/f", 3)
	at(d+"/times", 1e9, 987654321)
	unmount()

	kernel, _ = fstest.Mount(t, image, "ext4", true, "")
	f, err := os.Open(image)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	must(t, err)
	disk := &mounttest.Disk{Bytes: make([]byte, 1<<20), Length: 1 << 20}
	copy(disk.Bytes[1024+56:], "\x53\xef")
	tr = tree.NewPoint(tree.Point{ID: "p", Time: mounttest.Epoch, Disks: []tree.Disk{{Name: "vda", Image: disk}}},
		tree.Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { return ext4.Open(f, st.Size(), filesys.Options{}) }})
	return kernel, tr
}

// emptyVolume is a directory on a new ext4.
func emptyVolume(t *testing.T) string {
	t.Helper()
	image := fstest.Image(t, 128<<20, 8)
	fstest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-N", "8000", "-O", "ea_inode", "-E", "nodiscard", image)
	dir, _ := fstest.Mount(t, image, "ext4", false, "")
	dest := filepath.Join(dir, "dest")
	must(t, os.Mkdir(dest, 0o755))
	return dest
}

// compareTrees compares all that is in two directories; they themselves may differ.
func compareTrees(t *testing.T, want, got string, o mounttest.DiffOptions) {
	t.Helper()
	o.Skip = append(o.Skip, "lost+found")
	entries, err := os.ReadDir(want)
	must(t, err)
	n := 0
	for _, e := range entries {
		if e.Name() == "lost+found" {
			continue
		}
		res, err := mounttest.Diff(filepath.Join(want, e.Name()), filepath.Join(got, e.Name()), o)
		if err != nil {
			t.Error(err)
		}
		for _, d := range res.Differences {
			t.Errorf("%s: %s", e.Name(), d)
		}
		n += res.Entries
	}
	if n < 150 {
		t.Errorf("only %d entries", n)
	}
}

// TestArchiveKernel: what cp -a makes is what the kernel shows, in every name,
// byte, mode, owner, time, link, attribute and hole.
func TestArchiveKernel(t *testing.T) {
	kernel, tr := kernelGuest(t)
	dest := emptyVolume(t)
	var rep report
	start := time.Now()
	res, err := Copy(ctx, []Source{{Path: "/.", Node: source(t, tr, "/.").Node}}, dest, Options{Archive: true, Report: rep.add})
	if err != nil || res.Unset != 0 || res.Skipped != 0 || len(rep.lines) != 0 {
		t.Errorf("%v, %+v\n%s", err, res, &rep)
	}
	t.Log(time.Since(start))
	compareTrees(t, kernel, dest, mounttest.DiffOptions{Ctime: true, Blocks: true, Dirs: true})
}

// TestTarKernel: both programs that unpack archives make of the stream what the
// kernel shows. Neither knows sockets.
func TestTarKernel(t *testing.T) {
	kernel, tr := kernelGuest(t)
	var b bytes.Buffer
	var rep report
	_, err := Stream(ctx, Source{Path: "/.", Node: source(t, tr, "/.").Node}, &b, Options{Archive: true, Report: rep.add})
	must(t, err)
	if len(rep.lines) != 1 || !strings.Contains(rep.lines[0], "sockets have no place in an archive") {
		t.Errorf("reported %s", &rep)
	}
	t.Logf("%d bytes of archive", b.Len())
	// bsdtar 3.6 forgets the sign of the fraction of times before 1970, and
	// knows no user beyond 2³¹−1 in an access control list.
	skip := map[string][]string{"bsdtar": {"4 0", "4 1", "5 0", "5 1", "acl"}}
	for _, args := range [][]string{
		{"tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-S", "-xpf", "-", "-C"},
		{"bsdtar", "--numeric-owner", "--xattrs", "--acls", "-S", "-xpf", "-", "-C"},
	} {
		t.Run(args[0], func(t *testing.T) {
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Fatalf("this test needs %s: install the package %s", args[0], map[string]string{"tar": "tar", "bsdtar": "libarchive-tools"}[args[0]])
			}
			dest := emptyVolume(t)
			cmd := exec.Command(args[0], append(args[1:], dest)...)
			cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
			cmd.Stdin = bytes.NewReader(b.Bytes())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			compareTrees(t, kernel, dest, mounttest.DiffOptions{Atime: true, Ctime: true, Blocks: true, Dirs: true, Skip: append(skip[args[0]], "socket")})
		})
	}
}
