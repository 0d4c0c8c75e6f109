package btrfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
