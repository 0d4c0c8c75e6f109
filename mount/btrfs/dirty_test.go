package btrfs_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// guest changes a mounted file system at random, and syncs files and
// directories by themselves.
type guest struct {
	t     *testing.T
	root  string
	r     *rand.Rand
	files []string
	dirs  []string
	n     int
}

func (g *guest) path(name string) string { return filepath.Join(g.root, name) }
func (g *guest) file() string            { return g.files[g.r.IntN(len(g.files))] }
func (g *guest) dir() string             { return g.dirs[g.r.IntN(len(g.dirs))] }

func (g *guest) name() string {
	g.n++
	// Few names, so that they are taken again.
	return fmt.Sprintf("%s/%c%s", g.dir(), 'a'+g.r.IntN(12), strings.Repeat("n", g.r.IntN(3)*60))
}

func (g *guest) fsync(name string) {
	if st, err := os.Lstat(g.path(name)); err != nil || !st.Mode().IsRegular() && !st.IsDir() {
		return
	}
	f, err := os.Open(g.path(name))
	if err != nil {
		return
	}
	defer f.Close()
	if g.r.IntN(4) == 0 {
		g.check(unix.Fdatasync(int(f.Fd())))
		return
	}
	g.check(f.Sync())
}

// check may be called by any goroutine.
func (g *guest) check(err error) {
	if err != nil {
		g.t.Error(err)
	}
}

// step does one thing, which may fail, as names are taken or gone.
func (g *guest) step() {
	switch r := g.r; r.IntN(26) {
	case 0, 1, 2:
		name := g.name()
		if os.WriteFile(g.path(name), text(r.IntN(20000)), 0o644) == nil {
			g.files = append(g.files, name)
		}
	case 3, 4:
		g.write(func(f *os.File) { _, _ = f.WriteAt(text(1+r.IntN(30000)), r.Int64N(200000)) })
	case 5:
		g.write(func(f *os.File) { _ = f.Truncate(r.Int64N(150000)) })
	case 6:
		g.write(func(f *os.File) {
			_ = unix.Fallocate(int(f.Fd()), uint32(r.IntN(2)), r.Int64N(100000), 1+r.Int64N(100000))
		})
	case 7:
		g.write(func(f *os.File) {
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Int64N(100000), 1+r.Int64N(50000))
		})
	case 8, 9:
		to := g.name()
		if os.Rename(g.path(g.file()), g.path(to)) == nil {
			g.files = append(g.files, to)
		}
	case 10:
		to := g.name()
		if os.Link(g.path(g.file()), g.path(to)) == nil {
			g.files = append(g.files, to)
		}
	case 11, 12:
		_ = unix.Unlink(g.path(g.file()))
	case 13:
		if name := g.name() + "d"; os.Mkdir(g.path(name), 0o755) == nil {
			g.dirs = append(g.dirs, name)
		}
	case 14:
		_ = unix.Setxattr(g.path(g.file()), fmt.Sprintf("user.%d", r.IntN(3)), text(r.IntN(100)), 0)
	case 15:
		_ = unix.Removexattr(g.path(g.file()), fmt.Sprintf("user.%d", r.IntN(3)))
	case 17:
		flags := []uint{unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT, unix.RENAME_NOREPLACE}[r.IntN(3)]
		to := g.name()
		if r.IntN(2) == 0 {
			to = g.file()
		}
		if unix.Renameat2(unix.AT_FDCWD, g.path(g.file()), unix.AT_FDCWD, g.path(to), flags) == nil {
			g.files = append(g.files, to)
		}
	case 18: // a file that gets its name late
		dir, to := g.dir(), g.name()
		fd, err := unix.Open(g.path(dir), unix.O_TMPFILE|unix.O_RDWR, 0o600)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		_, _ = unix.Write(fd, text(r.IntN(9000)))
		if r.IntN(2) == 0 {
			_ = unix.Fsync(fd)
		}
		if unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, g.path(to), unix.AT_SYMLINK_FOLLOW) == nil {
			g.files = append(g.files, to)
		}
	case 19:
		name := g.name()
		if os.Symlink(strings.Repeat("target", 1+r.IntN(20)), g.path(name)) == nil {
			g.files = append(g.files, name)
		}
	case 20:
		name := g.name()
		if unix.Mknod(g.path(name), unix.S_IFSOCK|0o600, 0) == nil {
			g.files = append(g.files, name)
		}
	case 21:
		_ = unix.Rmdir(g.path(g.dir()))
	case 22:
		_ = unix.Setxattr(g.path(g.dir()), fmt.Sprintf("user.%d", r.IntN(3)), text(r.IntN(100)), 0)
	case 23: // so many names that they need references of the other kind
		from, dir := g.file(), g.dir()
		for i := range 40 {
			if os.Link(g.path(from), g.path(fmt.Sprintf("%s/%s%d", dir, strings.Repeat("l", 200), i))) != nil {
				break
			}
		}
	case 24:
		for i := range 40 {
			if i%3 > 0 {
				_ = unix.Unlink(g.path(fmt.Sprintf("%s/%s%d", g.dir(), strings.Repeat("l", 200), i)))
			}
		}
	case 25:
		g.write(func(to *os.File) {
			from, err := os.OpenFile(g.path(g.file()), os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				return
			}
			defer from.Close()
			_ = unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{Src_fd: int64(from.Fd()),
				Src_offset: r.Uint64N(8) * 4096, Src_length: 4096 * (1 + r.Uint64N(4)), Dest_offset: r.Uint64N(30) * 4096})
		})
	case 16:
		if len(g.dirs) > 4 {
			from, to := g.dir(), g.name()+"d"
			if os.Rename(g.path(from), g.path(to)) == nil {
				g.dirs = append(g.dirs, to)
			}
		}
	}
}

func (g *guest) write(fn func(f *os.File)) {
	name := g.file()
	if st, err := os.Lstat(g.path(name)); err != nil || !st.Mode().IsRegular() {
		return
	}
	if f, err := os.OpenFile(g.path(name), os.O_RDWR, 0); err == nil {
		fn(f)
		f.Close()
	}
}

// dirtyConfigs are file systems that are copied without an unmount.
var dirtyConfigs = []struct{ name, args, options string }{
	{"default", "", ""},
	{"compressed", "--csum xxhash", "compress-force=zstd"},
	{"old features", "-O ^no-holes,^extref -n 4096", ""},
	{"nodatasum", "", "nodatasum"},
}

// TestDirty: a file system that was copied under a guest that syncs files shows
// what the kernel shows after it replayed the log of another copy.
func TestDirty(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i, c := range dirtyConfigs {
		for round := range *dirtyRounds {
			t.Run(fmt.Sprintf("%s %d", c.name, round), func(t *testing.T) {
				testDirty(t, c.args, c.options, seed+uint64(i+round*10))
			})
		}
	}
}

func testDirty(t *testing.T, args, options string, seed uint64) {
	t.Logf("seed %d", seed)
	v := mkfs(t, 1, 130, args)
	root, unmount := v.mount(t, false, strings.TrimPrefix(options+",commit=3000", ","))
	subvolume(t, "create", filepath.Join(root, "sub"))
	subvolume(t, "create", filepath.Join(root, "gone"))
	g := &guest{t: t, root: root, r: rand.New(rand.NewPCG(seed, 0)), dirs: []string{".", "sub", "d0", "d0/d1"}, files: []string{"f"}}
	must(t, os.MkdirAll(g.path("d0/d1"), 0o755))
	for range 200 {
		g.step()
	}
	commit(t, root)
	for range 1 + g.r.IntN(100) {
		g.step()
		switch g.r.IntN(6) {
		case 0, 1:
			g.fsync(g.file())
		case 2:
			g.fsync(g.dir())
		}
	}
	writeFile(t, g.path("last"), text(100))
	g.fsync("last")
	dirty := v.copy(t)
	unmount()

	fs := dirty.open(t)
	// Now and then Linux commits instead.
	logged := dirty.logRoot(t) != 0
	if w := strings.Join(fs.Info().Warnings, " "); strings.Contains(w, "log was replayed") != logged {
		t.Errorf("warnings: %s", w)
	}
	stale, err := btrfs.Open(dirty.devices(t), filesys.Options{IgnoreLog: true})
	must(t, err)
	if _, err := stale.Lookup(stale.Root(), "last"); logged && (!errors.Is(err, filesys.ErrNotExist) || len(stale.Info().Warnings) == 0) {
		t.Errorf("without the log: %v, %v", err, stale.Info().Warnings)
	}
	// The kernel writes while it replays: of the copy, another copy.
	kernel, _ := dirty.copy(t).mount(t, true, "")
	// It gives directories and inodes that lose names the time of its replay.
	fstest.Compare(t, fs, kernel, fstest.Ignore{Times: true, Inodes: true})
	compareTimes(t, fs, fs.Root(), kernel)
}

// compareTimes compares the times of contents, which a replay does not touch.
func compareTimes(t *testing.T, fs filesys.FS, dir uint64, kernel string) {
	t.Helper()
	must(t, fs.ReadDir(dir, 0, func(e filesys.DirEntry) bool {
		path := filepath.Join(kernel, e.Name)
		a, err := fs.Attr(e.Ino)
		must(t, err)
		st, err := os.Lstat(path)
		must(t, err)
		if e.Type == filesys.TypeDir {
			compareTimes(t, fs, e.Ino, path)
		} else if !a.Mtime.Equal(st.ModTime()) {
			t.Errorf("%s: mtime is %v, want %v", path, a.Mtime, st.ModTime())
		}
		return true
	}))
}

// TestLive: the same of file systems that were copied, as a host would, while
// their guest was at work.
func TestLive(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	host := fstest.NewHost(t, 400<<20)
	made := mkfs(t, 1, 130, "")
	v := &volume{images: []string{filepath.Join(host.Dir, "image")}}
	fstest.Run(t, "cp", made.images[0], v.images[0])
	root, unmount := v.mount(t, false, "commit=1")
	g := &guest{t: t, root: root, r: rand.New(rand.NewPCG(seed, 0)), dirs: []string{".", "d"}, files: []string{"f"}}
	must(t, os.Mkdir(g.path("d"), 0o755))
	for range 300 {
		g.step()
	}
	stop, done := make(chan struct{}), make(chan struct{})
	steps := make(chan struct{}, 1<<16)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			g.step()
			if g.r.IntN(3) == 0 {
				g.fsync(g.file())
			}
			select {
			case steps <- struct{}{}:
			default:
			}
		}
	}()
	var copies []*volume
	for range 3 {
		for range 60 {
			<-steps
		}
		copies = append(copies, &volume{images: []string{host.Copy(t, v.images[0])}})
	}
	close(stop)
	<-done
	unmount()
	logs := 0
	for _, c := range copies {
		if c.logRoot(t) != 0 {
			logs++
		}
		fs := c.open(t)
		kernel, unmount := c.copy(t).mount(t, true, "")
		fstest.Compare(t, fs, kernel, fstest.Ignore{Times: true})
		compareTimes(t, fs, fs.Root(), kernel)
		unmount()
	}
	t.Logf("%d of %d copies have a log", logs, len(copies))
}
