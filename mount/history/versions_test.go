package history

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/mount/filesys"
)

// versions gives what Versions says, a line each.
func versions(t *testing.T, it Item, p string, o VersionOptions) (list []Version, text string) {
	t.Helper()
	o.Problem = func(point, p string, err error) { t.Errorf("problem in %s: %s: %v", point, p, err) }
	must(t, Versions(ctx, it, p, o, func(v Version) error {
		list = append(list, v)
		text += fmt.Sprintf("%s-%s %d ", v.First.ID, v.Last.ID, v.Points)
		if v.Present() {
			text += fmt.Sprintf("%d bytes: %s\n", v.Attr.Size, v.What)
		} else {
			text += "absent\n"
		}
		return nil
	}))
	return list, text
}

func TestVersions(t *testing.T) {
	t.Parallel()
	image := mke2fs(t, 16<<20, "-t", "ext4", "-b", "1024")
	v := newVault(t)
	var points []saved
	step := func(fn func(in func(string) string)) {
		change(t, image, func(dir string) { fn(func(p string) string { return filepath.Join(dir, p) }) })
		points = append(points, v.backUp("vda="+image))
	}
	at := time.Unix(1e9, 0)
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	step(func(in func(string) string) { // 0
		must(t, os.MkdirAll(in("etc/dir"), 0o755))
		must(t, os.WriteFile(in("etc/hosts"), []byte("one"), 0o644))
		must(t, os.WriteFile(in("etc/big"), big, 0o644))
		must(t, os.Symlink("hosts", in("etc/link")))
		must(t, os.Symlink("etc", in("way")))
	})
	step(func(in func(string) string) { // 1: a neighbour in the same block of the disk
		must(t, os.WriteFile(in("etc/neighbour"), []byte("x"), 0o644))
	})
	step(func(in func(string) string) { must(t, os.WriteFile(in("etc/hosts"), []byte("two!"), 0o644)) }) // 2
	step(func(in func(string) string) { must(t, os.Chmod(in("etc/hosts"), 0o600)) })                     // 3
	step(func(in func(string) string) { must(t, os.Rename(in("etc/hosts"), in("etc/away"))) })           // 4
	step(func(in func(string) string) {                                                                  // 5: as in the beginning
		must(t, os.WriteFile(in("etc/hosts"), []byte("one"), 0o644))
		must(t, os.Remove(in("etc/link")))
		must(t, os.Symlink("away", in("etc/link")))
	})
	step(func(in func(string) string) { // 6: one byte of many, at no other time
		f, err := os.OpenFile(in("etc/big"), os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("!"), 200000)
		must(t, err)
		must(t, f.Close())
		must(t, os.Chtimes(in("etc/big"), at, at))
	})
	step(func(in func(string) string) { must(t, os.Chmod(in("etc/dir"), 0o700)) }) // 7
	it := v.item(points...)

	for _, c := range []struct{ path, want string }{
		{"/etc/hosts", "p0-p1 2 3 bytes: \np2-p2 1 4 bytes: content, mtime\np3-p3 1 4 bytes: mode\np4-p4 1 absent\np5-p7 3 3 bytes: \n"},
		{"/volumes/vda/way/hosts", "p0-p1 2 3 bytes: \np2-p2 1 4 bytes: content, mtime\np3-p3 1 4 bytes: mode\np4-p4 1 absent\np5-p7 3 3 bytes: \n"},
		{"/etc/big", "p0-p5 6 320000 bytes: \np6-p7 2 320000 bytes: content, mtime\n"},
		{"/etc/link", "p0-p4 5 5 bytes: \np5-p7 3 4 bytes: target, mtime\n"},
		{"/etc/dir", "p0-p6 7 1024 bytes: \np7-p7 1 1024 bytes: mode\n"},
		{"/nothing", "p0-p7 8 absent\n"},
	} {
		if _, got := versions(t, it, c.path, VersionOptions{}); got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.path, got, c.want)
		}
	}
	list, _ := versions(t, it, "/etc/hosts", VersionOptions{SHA256: true})
	if list[0].SHA256 != digestOf([]byte("one")) || list[4].SHA256 != list[0].SHA256 || list[1].SHA256 != digestOf([]byte("two!")) {
		t.Errorf("digests %+v", list)
	}
	if list[1].Digest == list[0].Digest || list[1].Digest == "" || list[0].Path != "/volumes/vda/etc/hosts" {
		t.Errorf("digests %+v", list)
	}
	list, _ = versions(t, it, "/etc/link", VersionOptions{})
	if list[1].Target != "away" {
		t.Errorf("target %q", list[1].Target)
	}
}

// TestVersionsReadLittle: over a hundred points of a disk, of which each has
// something new, the versions of a file cost a few blocks for each.
func TestVersionsReadLittle(t *testing.T) {
	t.Parallel()
	image := mke2fs(t, 24<<20, "-t", "ext4", "-b", "4096")
	v := newVault(t)
	var points []saved
	for i := range 100 {
		change(t, image, func(dir string) {
			if i == 0 {
				must(t, os.MkdirAll(filepath.Join(dir, "var/lib/app"), 0o755))
				must(t, os.WriteFile(filepath.Join(dir, "var/lib/app/data"), bytes.Repeat([]byte("x"), 3<<20), 0o644))
			}
			if i == 50 {
				must(t, os.WriteFile(filepath.Join(dir, "var/lib/app/data"), bytes.Repeat([]byte("y"), 3<<20), 0o644))
			}
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("log-%d", i%5)), bytes.Repeat([]byte{byte(i)}, 300000), 0o644))
		})
		points = append(points, v.backUp("vda="+image))
	}
	v.cold()
	list, text := versions(t, v.item(points...), "/var/lib/app/data", VersionOptions{})
	if len(list) != 2 || list[0].Points != 50 || list[1].Points != 50 {
		t.Errorf("%s", text)
	}
	_, read := v.cache.Fetched()
	t.Logf("%d blocks, %d KiB", v.reads, read>>10)
	if v.reads > 100*12 {
		t.Errorf("%d blocks read for 100 points", v.reads)
	}
}

// TestVersionsVolumes: a path on several volumes is refused with their names, and
// a volume that cannot be read is never taken for one without the file.
func TestVersionsVolumes(t *testing.T) {
	t.Parallel()
	one, two := mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024"), mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024")
	for _, im := range []string{one, two} {
		change(t, im, func(dir string) { must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)) })
	}
	broken := broken(t, one)
	v := newVault(t)
	it := v.item(v.backUp("vda="+one, "vdb="+two))
	err := Versions(ctx, it, "/f", VersionOptions{}, func(Version) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "write /volumes/vda/f or /volumes/vdb/f") {
		t.Errorf("on two volumes: %v", err)
	}
	_, text := versions(t, it, "/volumes/vdb/f", VersionOptions{})
	if text != "p0-p0 1 0 bytes: \n" {
		t.Error(text)
	}
	// A broken volume beside the one that has the file does no harm; where it is
	// the one, it is said.
	for _, c := range []struct {
		points []saved
		want   string
	}{
		{[]saved{v.backUp("vda="+broken, "vdb="+two)}, "p1 true"},
		{[]saved{v.backUp("vda=" + one), v.backUp("vda=" + broken), v.backUp("vda=" + broken), v.backUp("vda=" + one)}, "p2 true p3 false p5 true"},
		{[]saved{v.backUp("vda=" + broken)}, "p6 false"},
	} {
		var got []string
		err := Versions(ctx, v.item(c.points...), "/f", VersionOptions{}, func(v Version) error {
			got = append(got, fmt.Sprint(v.First.ID, " ", v.Present()))
			if !v.Present() && v.Err == nil {
				t.Error("taken for absent")
			}
			return nil
		})
		if strings.Join(got, " ") != c.want || (err == ErrIncomplete) != strings.Contains(c.want, "false") {
			t.Errorf("%q, %v; want %q", got, err, c.want)
		}
	}
}

// TestSame: contents are compared without reading, but for what the places of
// blocks do not tell.
func TestSame(t *testing.T) {
	t.Parallel()
	image := mke2fs(t, 32<<20, "-t", "ext4", "-b", "1024")
	v := newVault(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 200000)
	change(t, image, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, "big"), big, 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "next"), big[:5000], 0o644))
	})
	a := v.backUp("vda=" + image)
	change(t, image, func(dir string) {
		f, err := os.OpenFile(filepath.Join(dir, "next"), os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("other"), 100)
		must(t, err)
		must(t, f.Close())
	})
	b := v.backUp("vda=" + image)
	open := func(s saved, name string) (*volume, filesys.File) {
		vols, err := v.open(s).volumes(ctx, "vda")
		must(t, err)
		ino, err := vols[0].fs.Lookup(vols[0].fs.Root(), name)
		must(t, err)
		f, err := vols[0].fs.Open(ino)
		must(t, err)
		return vols[0], f
	}
	for _, c := range []struct {
		name string
		same bool
		most int64
	}{{"big", true, 2 * 64 << 10}, {"next", false, 64 << 10}} {
		x, f := open(a, c.name)
		y, g := open(b, c.name)
		cmp := &comparer{ctx: ctx, changed: func(off, n int64) ([]filesys.Range, error) { return part(ctx, x, y, off, n) }}
		same, err := cmp.same(f, g)
		if err != nil || same != c.same || cmp.read > c.most {
			t.Errorf("%s: %t, %v, %d bytes compared", c.name, same, err, cmp.read)
		}
		whole := &comparer{ctx: ctx}
		if same, err := whole.same(f, g); err != nil || same != c.same {
			t.Errorf("%s, read: %t, %v", c.name, same, err)
		}
	}
}
