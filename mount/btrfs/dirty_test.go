package btrfs_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// dirtyConfigs are file systems that are copied without an unmount.
var dirtyConfigs = []struct{ name, args, options string }{
	{"default", "", ""},
	{"compressed", "--csum xxhash", "compress-force=zstd"},
	{"old features", "-O ^no-holes,^extref -n 4096", ""},
	{"nodatasum", "", "nodatasum"},
}

var dirtyRounds = flag.Int("dirty-rounds", 1, "how often TestDirty makes a file system of each kind")

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
