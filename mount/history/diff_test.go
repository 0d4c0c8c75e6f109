package history

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/jbd2/dirtytest"
)

// TestDiff: each kind of change, told in one line.
func TestDiff(t *testing.T) {
	t.Parallel()
	image := mke2fs(t, 24<<20, "-t", "ext4", "-b", "1024")
	write := func(p, s string) { must(t, os.WriteFile(p, []byte(s), 0o644)) }
	var dir string
	in := func(p string) string { return filepath.Join(dir, p) }
	change(t, image, func(d string) {
		dir = d
		for _, p := range []string{"etc/conf.d", "var/log", "home/a/deep/er", "old", "swap"} {
			must(t, os.MkdirAll(in(p), 0o755))
		}
		for _, p := range []string{"etc/hosts", "etc/fstab", "etc/conf.d/one", "etc/conf.d/two", "var/log/x", "home/a/deep/er/f", "old/gone", "old/kept", "type", "touched", "copied", "swap/1", "swap/2", "mode", "same"} {
			write(in(p), "content of "+p)
		}
		must(t, os.Symlink("hosts", in("etc/link")))
		must(t, os.Link(in("mode"), in("etc/mode2")))
		must(t, os.Chtimes(in("swap/2"), time.Time{}, time.Unix(1e9, 0)))
	})
	v := newVault(t)
	a := v.backUp("vda=" + image)
	change(t, image, func(d string) {
		dir = d
		write(in("etc/hosts"), "content of ETC/HOSTS")                     // same size
		must(t, os.Chmod(in("mode"), 0o600))                               // of both names
		must(t, os.Rename(in("etc/fstab"), in("etc/fstab.bak")))           // a name
		must(t, os.Rename(in("home/a"), in("home/b")))                     // a directory
		must(t, os.Remove(in("home/b/deep/er/f")))                         // below it
		write(in("home/b/deep/er/g"), "new")                               // and there
		must(t, os.RemoveAll(in("etc/conf.d")))                            // with all in it
		must(t, os.MkdirAll(in("new/dir"), 0o755))                         // with all in it
		write(in("new/dir/file"), "x")                                     //
		must(t, os.Rename(in("old/kept"), in("new/kept")))                 // out of what goes
		must(t, os.RemoveAll(in("old")))                                   //
		must(t, os.Remove(in("type")))                                     // another type
		must(t, os.Mkdir(in("type"), 0o755))                               //
		must(t, os.Chtimes(in("touched"), time.Time{}, time.Unix(1e9, 5))) // no content
		write(in("copied.tmp"), "content of copied!")                      // replaced, as editors do
		must(t, os.Rename(in("copied.tmp"), in("copied")))                 //
		must(t, os.Rename(in("swap/1"), in("swap/3")))                     // exchanged
		must(t, os.Rename(in("swap/2"), in("swap/1")))                     //
		must(t, os.Rename(in("swap/3"), in("swap/2")))                     //
		must(t, os.Remove(in("etc/link")))                                 // a target
		must(t, os.Symlink("fstab", in("etc/link")))                       //
		must(t, unix.Setxattr(in("var"), "user.note", []byte("x"), 0))     // of a directory
		_, err := os.ReadFile(in("same"))                                  // nothing
		must(t, err)
	})
	b := v.backUp("vda=" + image)
	want := `M copied: content, mtime
D etc/conf.d
D etc/conf.d/one
D etc/conf.d/two
R etc/fstab.bak from etc/fstab
M etc/hosts: content, mtime
M etc/link: target, mtime
M etc/mode2: mode
R home/b from home/a
D home/a/deep/er/f
A home/b/deep/er/g
M mode: mode
A new
A new/dir
A new/dir/file
R new/kept from old/kept
D old
D old/gone
M swap/1: content, mtime
M swap/2: content, mtime
M touched: mtime
D type
A type
M var: xattrs`
	pa, pb := v.open(a), v.open(b)
	old, now := describe(t, pa, "vda"), describe(t, pb, "vda")
	for _, walk := range []bool{false, true} {
		list := diff(t, pa, pb, walk)
		got := strings.ReplaceAll(strings.Join(lines(list), "\n"), "/volumes/vda/", "")
		x, y := strings.Split(got, "\n"), strings.Split(want, "\n")
		slices.Sort(x)
		slices.Sort(y)
		if !slices.Equal(x, y) {
			t.Errorf("walked: %t\n%s", walk, got)
		}
		checkDiff(t, old, now, list)
	}
	var below []string
	must(t, Diff(ctx, pa, pb, "/volumes/vda/etc/", Options{}, func(c Change) error {
		below = append(below, string(c.Kind)+" "+c.Path)
		return nil
	}))
	if len(below) != 7 || below[0] != "D /volumes/vda/etc/conf.d" {
		t.Errorf("below etc: %q", below)
	}
}

// TestDiffRandom: a long row of random changes, told as what they come to, by
// inodes and by walking.
func TestDiffRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i, args := range []string{"-t ext4 -b 1024", "-t ext4 -b 4096 -O inline_data,ea_inode", "-t ext3 -b 1024 -I 128", "-t ext4 -b 1024 -O ^flex_bg -N 4000"} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			image := mke2fs(t, 32<<20, strings.Fields(args)...)
			w := &work{t: t, rng: rng}
			v := newVault(t)
			change(t, image, func(dir string) { w.run(dir, 800) })
			points := []saved{v.backUp("vda=" + image)}
			last := v.open(points[0])
			states := []map[string]described{describe(t, last, "vda")}
			for i := range 3 {
				change(t, image, func(dir string) { w.run(dir, 60) })
				points = append(points, v.backUp("vda="+image))
				next := v.open(points[i+1])
				states = append(states, describe(t, next, "vda"))
				old, now := states[i], states[i+1]
				checkDiff(t, old, now, diff(t, last, next, false))
				checkDiff(t, old, now, diff(t, last, next, true))
				checkDiff(t, now, old, diff(t, next, last, false)) // and back
				last = next
			}
			checkVersions(t, v, rng, points, states)
		})
	}
}

// work changes a tree at random.
type work struct {
	t     *testing.T
	rng   *rand.Rand
	count int
}

func (w *work) run(root string, steps int) {
	for range steps {
		var dirs, files []string
		must(w.t, filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
			if e.Name() == "lost+found" {
				return filepath.SkipDir
			}
			if e.IsDir() {
				dirs = append(dirs, p)
			} else {
				files = append(files, p)
			}
			return err
		}))
		dir := dirs[w.rng.IntN(len(dirs))]
		file := ""
		if len(files) > 0 {
			file = files[w.rng.IntN(len(files))]
		}
		fresh := filepath.Join(dir, fmt.Sprintf("n%d", w.count))
		w.count++
		op := w.rng.IntN(16)
		if file == "" {
			op = 0
		}
		isLink := func() bool { st, err := os.Lstat(file); return err != nil || !st.Mode().IsRegular() }
		switch {
		case op < 4:
			must(w.t, os.WriteFile(fresh, bytes.Repeat([]byte{byte(w.count)}, w.rng.IntN(20000)), 0o644))
		case op < 6:
			must(w.t, os.Mkdir(fresh, 0o755))
		case op == 6:
			must(w.t, os.Symlink(fmt.Sprint(w.count), fresh))
		case op == 7:
			must(w.t, os.Link(file, fresh))
		case op == 8:
			must(w.t, os.Remove(file))
		case op == 9:
			must(w.t, os.Rename(file, fresh))
		case op == 10 && len(dirs) > 1:
			from := dirs[1+w.rng.IntN(len(dirs)-1)]
			if !strings.HasPrefix(fresh, from+"/") {
				must(w.t, os.Rename(from, fresh))
			}
		case op == 11 && len(dirs) > 20:
			must(w.t, os.RemoveAll(dirs[1+w.rng.IntN(len(dirs)-1)]))
		case op == 12 && !isLink():
			must(w.t, os.Chmod(file, os.FileMode(w.rng.IntN(0o1000))))
		case op == 13 && !isLink():
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			must(w.t, err)
			_, err = f.WriteAt([]byte("changed"), int64(w.rng.IntN(30000)))
			must(w.t, err)
			must(w.t, f.Close())
			w.later(file)
		case op == 14 && !isLink():
			must(w.t, unix.Setxattr(file, "user.x", []byte(fmt.Sprint(w.count)), 0))
			w.later(file)
		case op == 15:
			must(w.t, os.WriteFile(fresh, []byte("replaces"), 0o600))
			must(w.t, os.Rename(fresh, file))
		}
	}
}

// later gives a file a time of its own: no two backups of a guest are taken
// within the second that is all that old inodes can tell.
func (w *work) later(file string) {
	must(w.t, os.Chtimes(file, time.Time{}, time.Unix(int64(1e9+w.count), 0)))
}

// TestDiffLive: the same between two moments of a guest at work, whose changes
// are half in the log.
func TestDiffLive(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, c := range dirtytest.Configs {
		switch c.Name {
		case "ext4", "ext4, small log that wraps", "inline data, bigalloc":
			t.Run(c.Name, func(t *testing.T) {
				images := dirtytest.Live(t, c, 3, rand.New(rand.NewPCG(seed, 1)))
				v := newVault(t)
				var points []*Point
				for _, im := range images {
					points = append(points, v.open(v.backUp("vda="+im)))
				}
				for i := range len(points) - 1 {
					old, now := describe(t, points[i], "vda"), describe(t, points[i+1], "vda")
					list, walked := diff(t, points[i], points[i+1], false), diff(t, points[i], points[i+1], true)
					checkDiff(t, old, now, walked)
					// Data reach the disk before the inode does; see the package's comment.
					for _, c := range walked {
						if c.Kind == Changed && c.What == Content && !slices.ContainsFunc(list, func(x Change) bool { return x.Path == c.Path }) {
							t.Logf("written ahead of its inode: %s", c.Path)
							list = append(list, c)
						}
					}
					checkDiff(t, old, now, list)
				}
			})
		}
	}
}

// TestDiffReadsLittle: of 20,000 files three are changed, and not a tenth of
// what a walk through the trees takes is read.
func TestDiffReadsLittle(t *testing.T) {
	t.Parallel()
	image := mke2fs(t, 192<<20, "-t", "ext4", "-b", "4096", "-N", "49152")
	change(t, image, func(dir string) {
		for i := range 20000 {
			d := filepath.Join(dir, fmt.Sprintf("d%d/s%d", i%10, i/10%20))
			if i < 200 {
				must(t, os.MkdirAll(d, 0o755))
			}
			must(t, os.WriteFile(filepath.Join(d, fmt.Sprintf("file-%d", i)), []byte(fmt.Sprint(i)), 0o644))
		}
	})
	v := newVault(t)
	a := v.backUp("vda=" + image)
	change(t, image, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "d3/s7/file-73"), []byte("changed"), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "d5/s1/new"), []byte("new"), 0o644))
		must(t, os.Remove(filepath.Join(dir, "d8/s2/file-28")))
	})
	b := v.backUp("vda=" + image)
	want := []string{"M /volumes/vda/d3/s7/file-73: content, mtime", "A /volumes/vda/d5/s1/new", "D /volumes/vda/d8/s2/file-28"}
	cost := map[bool]int{}
	for _, walk := range []bool{false, true} {
		v.cold()
		if got := lines(diff(t, v.open(a), v.open(b), walk)); !slices.Equal(got, want) {
			t.Errorf("walked: %t: %q", walk, got)
		}
		cost[walk] = v.reads
	}
	t.Logf("%d blocks read, %d by walking", cost[false], cost[true])
	if cost[false] > 60 {
		t.Errorf("%d blocks read", cost[false])
	}
	// Equal points cost two look-ups of roots.
	v.cold()
	if got := diff(t, v.open(b), v.open(b), false); len(got) != 0 || v.reads > 8 {
		t.Errorf("%d changes of nothing, %d blocks read", len(got), v.reads)
	}
}

// TestDiffVolumes: volumes that come and go, are made anew, or cannot be read.
func TestDiffVolumes(t *testing.T) {
	t.Parallel()
	first, second := mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024"), mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024")
	for _, im := range []string{first, second} {
		change(t, im, func(dir string) {
			must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "d/f"), []byte("x"), 0o644))
			must(t, os.Chtimes(filepath.Join(dir, "d/f"), time.Time{}, time.Unix(1e9, 0)))
		})
	}
	v := newVault(t)
	one, two, anew := v.backUp("vda="+first), v.backUp("vda="+first, "vdb="+second), v.backUp("vda="+second)
	if got := strings.Join(lines(diff(t, v.open(one), v.open(two), false)), "\n"); got != "A /volumes/vdb/d\nA /volumes/vdb/d/f\nA /volumes/vdb/lost+found" {
		t.Errorf("a disk more: %s", got)
	}
	if got := strings.Join(lines(diff(t, v.open(two), v.open(one), false)), "\n"); got != "D /volumes/vdb/d\nD /volumes/vdb/d/f\nD /volumes/vdb/lost+found" {
		t.Errorf("a disk less: %s", got)
	}
	if got := lines(diff(t, v.open(one), v.open(anew), false)); len(got) != 0 {
		t.Errorf("made anew with the same files: %q", got)
	}
	bad := v.backUp("vda=" + broken(t, first))
	for _, other := range []saved{one, bad} {
		problems := 0
		err := Diff(ctx, v.open(other), v.open(bad), "", Options{Problem: func(_, p string, err error) {
			problems++
			if p != "/volumes/vda" {
				t.Errorf("problem of %s: %v", p, err)
			}
		}}, func(c Change) error { t.Errorf("%+v", c); return nil })
		if want := other.id != bad.id; (err == ErrIncomplete) != want || (problems > 0) != want {
			t.Errorf("from %s to a broken volume: %v, %d problems", other.id, err, problems)
		}
	}
}
