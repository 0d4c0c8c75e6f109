package extract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/mounttest"
	"cairn/mount/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// guest lays a file system out as volume vda of a point.
func guest(fs filesys.FS) *tree.Tree {
	b := make([]byte, 1<<20)
	copy(b[1024+56:], "\x53\xef")
	sparse := &mounttest.Disk{Bytes: b, Length: 1 << 40, Data: []mounttest.Span{{Start: 0, End: 1 << 16}}}
	return tree.NewPoint(tree.Point{ID: "p", Time: mounttest.Epoch, Disks: []tree.Disk{{Name: "vda", Image: sparse}}},
		tree.Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { return fs, nil }})
}

// source finds a path of the guest.
func source(t testing.TB, tr *tree.Tree, p string) Source {
	t.Helper()
	if !strings.HasPrefix(p, "/disks") && p != "/" {
		p = "/volumes/vda" + p
	}
	f, err := tr.Resolve(ctx, p, false)
	if err != nil {
		t.Fatal(err)
	}
	return Source{Path: p, Node: f.Node}
}

// report collects what a copy reports.
type report struct {
	lines []string
}

func (r *report) add(path string, err error) {
	r.lines = append(r.lines, fmt.Sprintf("%s: %v", path, err)) // never twice at a time
}

func (r *report) String() string { return strings.Join(r.lines, "\n") }

func sample() *mounttest.FS {
	fs := mounttest.NewFS()
	fs.Dir("/d").Mode = filesys.TypeDir | 0o750
	n := fs.File("/d/one", mounttest.Pattern(3<<20+17))
	n.Mode = filesys.TypeRegular | 0o4755
	n.UID, n.GID = 1234, 5678
	n.Mtime = time.Date(2039, 5, 6, 7, 8, 9, 123, time.UTC)
	n.Xattrs = map[string][]byte{"user.note": []byte("a\x00b")}
	fs.Dir("/d/sub").Mode = filesys.TypeDir | 0o555
	fs.Link("/d/sub/two", n)
	fs.Symlink("/d/link", "../../../../etc/passwd")
	sp := fs.File("/d/sub/sparse", "")
	sp.Size = 16 << 20
	sp.Data = []byte(strings.Repeat("\x00", 1<<20) + mounttest.Pattern(8192))
	sp.Extents = []mounttest.Span{{Start: 1 << 20, End: 1<<20 + 8192}}
	fs.File("/d/empty", "")
	fs.Add("/d/fifo", filesys.TypeFIFO|0o640)
	fs.Add("/d/dev", filesys.TypeChar|0o620).Rdev = unix.Mkdev(1, 3)
	fs.Add("/d/sock", filesys.TypeSocket|0o755)
	fs.File("/d/\xff raw\nname", "x")
	return fs
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}

func TestCopyRecursive(t *testing.T) {
	tr := guest(sample())
	dest := t.TempDir()
	var rep report
	res, err := Copy(ctx, []Source{source(t, tr, "/d")}, dest, Options{Recursive: true, Report: rep.add})
	if err != nil {
		t.Fatal(err, &rep)
	}
	want := Progress{Files: 4, Dirs: 2, Symlinks: 1, HardLinks: 1, Skipped: 3, Bytes: 3<<20 + 17 + 8192 + 1, Done: 2*(3<<20+17) + 16<<20 + 1, Total: 2*(3<<20+17) + 16<<20 + 1}
	if res != want {
		t.Errorf("got  %+v\nwant %+v", res, want)
	}
	if len(rep.lines) != 1 || !strings.Contains(rep.lines[0], "special files are left out without -a") {
		t.Errorf("reported %q", rep.lines)
	}
	one, two := stat(t, dest+"/d/one"), stat(t, dest+"/d/sub/two")
	if one.Ino != two.Ino || one.Mode != unix.S_IFREG|0o755 || one.Uid != uint32(os.Getuid()) || one.Mtim.Nsec != 123 {
		t.Errorf("one: %+v, two: %+v", one, two)
	}
	if b, _ := os.ReadFile(dest + "/d/one"); string(b) != mounttest.Pattern(3<<20+17) {
		t.Error("content differs")
	}
	if to, _ := os.Readlink(dest + "/d/link"); to != "../../../../etc/passwd" {
		t.Errorf("symlink to %q", to)
	}
	if st := stat(t, dest+"/d/sub/sparse"); st.Size != 16<<20 || st.Blocks > 64 {
		t.Errorf("sparse: size %d, %d blocks", st.Size, st.Blocks)
	}
	for p, mode := range map[string]uint32{"/d": 0o750, "/d/sub": 0o555} {
		st := stat(t, dest+p)
		if st.Mode&0o7777 != mode || st.Mtim.Sec != mounttest.Epoch.Unix() || st.Mtim.Nsec != int64(mounttest.Epoch.Nanosecond()) {
			t.Errorf("%s: mode %o, time %v", p, st.Mode, st.Mtim)
		}
	}
	leftovers(t, dest)
}

// leftovers: no temporary name may stay behind.
func leftovers(t testing.TB, dir string) {
	t.Helper()
	_ = filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(filepath.Base(p), ".cairn-") {
			t.Errorf("left behind: %s", p)
		}
		return nil
	})
}

// With -a, by root, the copy is what the kernel would have copied.
func TestCopyArchive(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes devices: run it as root")
	}
	tr := guest(sample())
	dest := t.TempDir()
	var rep report
	res, err := Copy(ctx, []Source{source(t, tr, "/d")}, dest, Options{Archive: true, Report: rep.add})
	if err != nil || len(rep.lines) > 0 || res.Specials != 3 || res.Skipped != 0 || res.Unset != 0 {
		t.Fatal(res, err, &rep)
	}
	if st := stat(t, dest+"/d/one"); st.Mode != unix.S_IFREG|0o4755 || st.Uid != 1234 || st.Gid != 5678 {
		t.Errorf("one: %+v", st)
	}
	v := make([]byte, 10)
	if n, err := unix.Getxattr(dest+"/d/one", "user.note", v); err != nil || string(v[:n]) != "a\x00b" {
		t.Errorf("attribute %q, %v", v[:max(n, 0)], err)
	}
	if st := stat(t, dest+"/d/dev"); st.Mode != unix.S_IFCHR|0o620 || st.Rdev != unix.Mkdev(1, 3) || st.Mtim.Sec != mounttest.Epoch.Unix() {
		t.Errorf("dev: %+v", st)
	}
	if st := stat(t, dest+"/d/fifo"); st.Mode != unix.S_IFIFO|0o640 {
		t.Errorf("fifo: %+v", st)
	}
	if st := stat(t, dest+"/d/link"); st.Mtim.Sec != mounttest.Epoch.Unix() {
		t.Errorf("symlink's time: %v", st.Mtim)
	}
}

// An ordinary user gets what may be had, and is told once what may not.
func TestCopyArchiveUnprivileged(t *testing.T) {
	const env = "CAIRN_EXTRACT_TEST_DEST"
	if dest := os.Getenv(env); dest != "" {
		var rep report
		fs := sample()
		fs.Get("/d/one").Xattrs["security.capability"] = []byte("not for you")
		res, err := Copy(ctx, []Source{source(t, guest(fs), "/d")}, dest, Options{Archive: true, Report: rep.add})
		if err != nil || res.Failed != 0 || res.Files != 4 || res.Skipped != 1 || res.Specials != 2 {
			t.Errorf("%+v, %v", res, err)
		}
		for _, want := range []string{"owners cannot be set", "devices can only be made by root", "extended attributes security.* cannot be set"} {
			if strings.Count(rep.String(), want) != 1 {
				t.Errorf("%q is not said once in\n%s", want, &rep)
			}
		}
		if st := stat(t, dest+"/d/one"); st.Mode&0o7777 != 0o755 {
			t.Errorf("mode %o: set-id bits must not be set for another owner", st.Mode)
		}
		return
	}
	dest := filepath.Join(os.TempDir(), fmt.Sprintf("cairn-extract-test-%d", os.Getpid()))
	if err := os.Mkdir(dest, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dest)
	if err := os.Chown(dest, 65534, 65534); err != nil {
		t.Fatal("this test changes its user: run it as root: ", err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestCopyArchiveUnprivileged$")
	cmd.Env, cmd.Dir = append(os.Environ(), env+"="+dest), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestDestinations(t *testing.T) {
	fs := sample()
	fs.File("/hello", "hello")
	fs.File("/d/hello", "other")
	tr := guest(fs)
	hello, d := source(t, tr, "/hello"), source(t, tr, "/d")
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(dir+"/taken", []byte("old"), 0o600))
	must(os.Mkdir(dir+"/sub", 0o755))
	must(os.Symlink("taken", dir+"/link"))
	must(os.Symlink("nowhere", dir+"/dangling"))
	must(os.Symlink("sub", dir+"/dirlink"))
	for _, tc := range []struct {
		what    string
		sources []Source
		dest    string
		opts    Options
		err     string // "" for success
		report  string
		file    string // that must then hold
		content string
	}{
		{"a new name", []Source{hello}, "/new", Options{}, "", "", "/new", "hello"},
		{"into a directory", []Source{hello}, "/sub", Options{}, "", "", "/sub/hello", "hello"},
		{"into a directory by symlink", []Source{hello}, "/dirlink/x", Options{}, "", "", "/sub/x", "hello"},
		{"over a file", []Source{hello}, "/taken", Options{}, "not everything", "exists already", "/taken", "old"},
		{"over a symlink", []Source{hello}, "/link", Options{}, "not everything", "exists already", "/taken", "old"},
		{"over a dangling symlink", []Source{hello}, "/dangling", Options{}, "not everything", "exists already", "/taken", "old"},
		{"over a symlink by force", []Source{hello}, "/link", Options{Force: true}, "", "", "/taken", "old"},
		{"which replaced it", nil, "", Options{}, "", "", "/link", "hello"},
		{"over a file by force", []Source{hello}, "/taken", Options{Force: true}, "", "", "/taken", "hello"},
		{"a directory without -r", []Source{d}, "/x", Options{}, "not everything", "use -r", "", ""},
		{"a directory over a file", []Source{d}, "/taken", Options{Recursive: true, Force: true}, "not everything", "not a directory", "/taken", "hello"},
		{"a file over a directory by force", []Source{{hello.Path[:len(hello.Path)-5] + "sub", hello.Node}}, "/", Options{Force: true}, "not everything", "a directory has its name", "", ""},
		{"two things to a new name", []Source{hello, d}, "/none", Options{}, "must be an existing directory", "", "", ""},
		{"into what does not exist", []Source{hello}, "/none/x", Options{}, "no such file", "", "", ""},
		{"a file with a slash", []Source{hello}, "/none/", Options{}, "the directory does not exist", "", "", ""},
		{"a directory's contents", []Source{{d.Path + "/.", d.Node}}, "/sub", Options{Recursive: true}, "not everything", "/volumes/vda/d/hello: it exists already", "/sub/hello", "hello"},
		{"and the rest of them", nil, "", Options{}, "", "", "/sub/empty", ""},
		{"merged again by force", []Source{{d.Path + "/.", d.Node}}, "/sub", Options{Recursive: true, Force: true}, "", "", "/sub/hello", "other"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			if tc.sources != nil {
				var rep report
				tc.opts.Report = rep.add
				_, err := Copy(ctx, tc.sources, dir+tc.dest, tc.opts)
				if (tc.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.err) || !strings.Contains(rep.String(), tc.report) {
					t.Errorf("got %v, want %q; reported:\n%s", err, tc.err, &rep)
				}
			}
			if tc.file != "" {
				if b, err := os.ReadFile(dir + tc.file); err != nil || string(b) != tc.content {
					t.Errorf("%s holds %q, %v; want %q", tc.file, b, err, tc.content)
				}
			}
		})
	}
	leftovers(t, dir)
}

func TestCancel(t *testing.T) {
	fs := mounttest.NewFS()
	fs.Dir("/d")
	started := make(chan struct{})
	var once sync.Once
	release := make(chan struct{})
	for i := range 50 {
		n := fs.File(fmt.Sprintf("/d/f%d", i), "")
		n.Size = 8 << 20
		n.Reader = readerFunc(func(p []byte, _ int64) (int, error) {
			once.Do(func() { close(started) })
			<-release
			return len(p), nil
		})
	}
	dest := t.TempDir()
	cctx, cancel := context.WithCancel(ctx)
	go func() {
		<-started
		cancel()
		close(release)
	}()
	res, err := Copy(cctx, []Source{source(t, guest(fs), "/d")}, dest, Options{Recursive: true})
	if !errors.Is(err, context.Canceled) || res.Failed != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	leftovers(t, dest)
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// A full destination stops everything, at once and with one error.
func TestDestinationFull(t *testing.T) {
	dest := t.TempDir()
	if err := unix.Mount("tmpfs", dest, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal("this test mounts a tmpfs: run it as root: ", err)
	}
	defer unix.Unmount(dest, unix.MNT_DETACH)
	fs := mounttest.NewFS()
	fs.Dir("/d")
	for i := range 20 {
		fs.File(fmt.Sprintf("/d/f%d", i), mounttest.Pattern(1<<20))
	}
	var rep report
	res, err := Copy(ctx, []Source{source(t, guest(fs), "/d")}, dest, Options{Recursive: true, Report: rep.add})
	if !errors.Is(err, unix.ENOSPC) || errors.Is(err, ErrIncomplete) || res.Files == 0 || len(rep.lines) > 0 {
		t.Errorf("%+v, %v, reported:\n%s", res, err, &rep)
	}
	leftovers(t, dest)
}

func TestProgress(t *testing.T) {
	fs := mounttest.NewFS()
	fs.File("/big", mounttest.Pattern(10<<20))
	var all []Progress
	_, err := Copy(ctx, []Source{source(t, guest(fs), "/big")}, t.TempDir(), Options{Progress: func(p Progress) { all = append(all, p) }})
	if err != nil || len(all) == 0 {
		t.Fatal(all, err)
	}
	for i, p := range all {
		if p.Total != 10<<20 || p.Done > p.Total || i > 0 && p.Done < all[i-1].Done {
			t.Errorf("%+v after %+v", p, all[max(i-1, 0)])
		}
	}
	if last := all[len(all)-1]; last.Done != 10<<20 || last.Files != 1 {
		t.Errorf("last: %+v", last)
	}
}

// Reads go on side by side, also within one file, and never more than asked for.
func TestParallelReads(t *testing.T) {
	const parallel = 6
	fs := mounttest.NewFS()
	data := mounttest.Pattern(20 << 20)
	n := fs.File("/big", "")
	n.Size = int64(len(data))
	var mu sync.Mutex
	cond := sync.NewCond(&mu)
	now, most := 0, 0
	n.Reader = readerFunc(func(p []byte, off int64) (int, error) {
		mu.Lock()
		now++
		most = max(most, now)
		cond.Broadcast()
		for most < parallel { // the first wait for the others
			cond.Wait()
		}
		now--
		mu.Unlock()
		return copy(p, data[off:]), nil
	})
	dest := t.TempDir()
	if _, err := Copy(ctx, []Source{source(t, guest(fs), "/big")}, dest, Options{Parallel: parallel}); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(dest + "/big"); string(b) != data || most != parallel {
		t.Errorf("%d reads at once, content equal: %v", most, string(b) == data)
	}
	most = 0
	var out bytes.Buffer
	if _, err := Stream(ctx, source(t, guest(fs), "/big"), &out, Options{Parallel: parallel}); err != nil {
		t.Fatal(err)
	}
	if out.String() != data || most != parallel {
		t.Errorf("stream: %d reads at once, content equal: %v", most, out.String() == data)
	}
}

func TestSparseDisk(t *testing.T) {
	dest := t.TempDir()
	res, err := Copy(ctx, []Source{source(t, guest(sample()), "/disks/vda.raw")}, dest, Options{})
	if err != nil || res.Bytes != 1<<16 || res.Done != 1<<40 {
		t.Fatal(res, err)
	}
	if st := stat(t, dest+"/vda.raw"); st.Size != 1<<40 || st.Blocks > 256 {
		t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
}

// TestReplace: what exists is replaced when it is said so, and only once its copy
// is complete; a read that fails in the middle leaves the old file.
func TestReplace(t *testing.T) {
	fs := mounttest.NewFS()
	fs.Dir("/d")
	fs.File("/d/a", "new a")
	fs.File("/d/b", "new b")
	bad := fs.File("/d/bad", mounttest.Pattern(3<<20))
	bad.ReadErr = filesys.ErrCorrupt
	tr := guest(fs)
	for _, force := range []bool{false, true} {
		dest := t.TempDir()
		for _, name := range []string{"a", "b", "bad"} {
			if err := os.WriteFile(filepath.Join(dest, name), []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		var asked []string
		var rep report
		res, err := Copy(ctx, []Source{{Path: "/d/.", Node: source(t, tr, "/d").Node}}, dest, Options{
			Recursive: true, Force: force, Report: rep.add,
			Replace: func(src, name string) bool { asked = append(asked, src+" "+name); return name != "b" },
		})
		want := map[string]string{"a": "new a", "b": "old", "bad": "old"}
		failed := int64(2)
		if force {
			want["b"], failed = "new b", 1
		}
		if !errors.Is(err, ErrIncomplete) || res.Failed != failed {
			t.Errorf("force %t: %v, %+v\n%s", force, err, res, &rep)
		}
		for name, content := range want {
			if b, err := os.ReadFile(filepath.Join(dest, name)); err != nil || string(b) != content {
				t.Errorf("force %t: %s is %q, %v", force, name, b, err)
			}
		}
		if entries, _ := os.ReadDir(dest); len(entries) != 3 {
			t.Errorf("force %t: %d files are left", force, len(entries))
		}
		if n := 3; force && len(asked) != 0 || !force && len(asked) != n {
			t.Errorf("force %t: asked %q", force, asked)
		}
	}
}

// TestUnreadableVolume: a point with a volume that cannot be read is copied with
// an error that says why, as files and as an archive.
func TestUnreadableVolume(t *testing.T) {
	b := make([]byte, 1<<20)
	copy(b[1024+56:], "\x53\xef")
	tr := tree.NewPoint(tree.Point{ID: "p", Disks: []tree.Disk{{Name: "vda", Image: &mounttest.Disk{Bytes: b}}}},
		tree.Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) {
			return nil, fmt.Errorf("feature nobody knows: %w", filesys.ErrUnsupported)
		}})
	vols, err := tr.Resolve(ctx, "/volumes", true)
	if err != nil {
		t.Fatal(err)
	}
	src := Source{Path: "/volumes", Node: vols.Node}
	var rep report
	dest := t.TempDir()
	if _, err := Copy(ctx, []Source{src}, dest, Options{Recursive: true, Report: rep.add}); !errors.Is(err, ErrIncomplete) {
		t.Error(err)
	}
	if _, err := os.Stat(dest + "/volumes/vda.UNREADABLE.txt"); err != nil {
		t.Error(err)
	}
	if _, err := Stream(ctx, src, io.Discard, Options{Recursive: true, Report: rep.add}); !errors.Is(err, ErrIncomplete) {
		t.Error(err)
	}
	if len(rep.lines) != 2 || rep.lines[0] != rep.lines[1] || !strings.Contains(rep.lines[0], "feature nobody knows") {
		t.Errorf("reported %q", rep.lines)
	}
	_, err = tr.Resolve(ctx, "/volumes/vda/etc/hosts", true)
	if !errors.Is(err, filesys.ErrNotExist) || !strings.Contains(err.Error(), "that volume cannot be read: feature nobody knows") {
		t.Error(err)
	}
}
