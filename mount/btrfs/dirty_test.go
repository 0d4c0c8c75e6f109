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
	f, err := os.Open(g.path(name))
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && (st.Mode().IsRegular() || st.IsDir()) {
		must(g.t, f.Sync())
	}
}

// step does one thing, which may fail, as names are taken or gone.
func (g *guest) step() {
	switch r := g.r; r.IntN(17) {
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
	if f, err := os.OpenFile(g.path(g.file()), os.O_WRONLY, 0); err == nil {
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
	sync(t, root)
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
}
