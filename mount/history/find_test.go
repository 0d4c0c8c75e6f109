package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/mount/filesys"
)

// TestFindRandom: what Find says of a row of points is what a walk through each
// of them says.
func TestFindRandom(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	image := mke2fs(t, 24<<20, "-t", "ext4", "-b", "1024")
	w := &work{t: t, rng: rng}
	v := newVault(t)
	change(t, image, func(dir string) { w.run(dir, 300) })
	points := []saved{v.backUp("vda=" + image)}
	for range 5 {
		change(t, image, func(dir string) { w.run(dir, 40) })
		points = append(points, v.backUp("vda="+image))
	}
	name, err := NewPattern("n*[13579]", false)
	must(t, err)
	q := Query{Name: name}
	type row struct {
		first, last string
		points      int
	}
	want := map[string]row{}
	for _, s := range points {
		for p := range describe(t, v.open(s), "vda") {
			if p == "/volumes/vda" || !name.Match(path.Base(p)) {
				continue
			}
			r, ok := want[p]
			if !ok {
				r.first = s.id
			}
			r.last = s.id
			r.points++
			want[p] = r
		}
	}
	for _, walk := range []bool{false, true} {
		got := map[string]row{}
		var order []string
		must(t, Find(ctx, v.item(points...), q, Options{Walk: walk}, func(h Hit) error {
			got[h.Path] = row{h.First.ID, h.Last.ID, h.Points}
			order = append(order, h.Path)
			return nil
		}))
		if !slices.IsSorted(order) || len(order) != len(got) {
			t.Error("not ordered, or told twice")
		}
		for p, r := range want {
			if got[p] != r {
				t.Errorf("%s: %+v, must be %+v", p, got[p], r)
			}
		}
		if len(got) != len(want) || len(want) < 20 {
			t.Errorf("%d paths, must be %d", len(got), len(want))
		}
	}
	last := v.open(points[len(points)-1])
	n := 0
	must(t, FindIn(ctx, last, q, Options{}, func(h Hit) error {
		n++
		if h.First.ID != last.ID || want[h.Path].last != last.ID {
			t.Errorf("in the last point: %+v", h)
		}
		return nil
	}))
	if n == 0 {
		t.Error("nothing in the last point")
	}
}

// TestFindReadsDifferences: a search through ten points costs little more than
// one through the first.
func TestFindReadsDifferences(t *testing.T) {
	t.Parallel()
	image := mke2fs(t, 64<<20, "-t", "ext4", "-b", "1024", "-N", "16384")
	change(t, image, func(dir string) {
		for i := range 5000 {
			d := filepath.Join(dir, fmt.Sprintf("d%d", i%50))
			if i < 50 {
				must(t, os.Mkdir(d, 0o755))
			}
			must(t, os.WriteFile(filepath.Join(d, fmt.Sprintf("file-%d", i)), nil, 0o644))
		}
	})
	v := newVault(t)
	points := []saved{v.backUp("vda=" + image)}
	for i := range 9 {
		change(t, image, func(dir string) {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("d7/new-%d", i)), nil, 0o644))
		})
		points = append(points, v.backUp("vda="+image))
	}
	name, err := NewPattern("*-3", false)
	must(t, err)
	search := func(points ...saved) (reads, hits int) {
		v.cold()
		must(t, Find(ctx, v.item(points...), Query{Name: name}, Options{}, func(Hit) error { hits++; return nil }))
		return v.reads, hits
	}
	one, hits := search(points[0])
	if hits != 1 {
		t.Errorf("%d hits in the first point", hits)
	}
	all, hits := search(points...)
	if hits != 2 {
		t.Errorf("%d hits in all points", hits)
	}
	t.Logf("%d blocks read for one point, %d for ten", one, all)
	if all > one+9*20 {
		t.Errorf("%d blocks read for one point, %d for ten", one, all)
	}
}

// TestFindGaps: a volume that cannot be read for a while is said, and keeps what
// it had; a disk that is gone takes its files along.
func TestFindGaps(t *testing.T) {
	t.Parallel()
	image, second := mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024"), mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024")
	broken := broken(t, image)
	v := newVault(t)
	points := []saved{v.backUp("vda="+image, "vdb="+second), v.backUp("vda="+broken, "vdb="+second), v.backUp("vda=" + image)}
	var got []string
	problems := 0
	err := Find(ctx, v.item(points...), Query{Type: filesys.TypeDir}, Options{Problem: func(point, p string, err error) {
		problems++
		if point != "p1" || p != "/volumes/vda" || !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("problem of %s in %s: %v", p, point, err)
		}
	}}, func(h Hit) error {
		got = append(got, fmt.Sprint(h.Path, h.First.ID, h.Last.ID, h.Points))
		return nil
	})
	if err != ErrIncomplete || problems != 1 || fmt.Sprint(got) != "[/volumes/vda/lost+foundp0p23 /volumes/vdb/lost+foundp0p12]" {
		t.Errorf("%v, %d problems, %q", err, problems, got)
	}
}

// TestLostDisk: that a disk cannot be looked into does not mean that its files
// are gone.
func TestLostDisk(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "disk")
	b := make([]byte, 9<<20)
	part, err := os.ReadFile(mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024"))
	must(t, err)
	copy(b[1<<20:], part)
	b[510], b[511], b[446+4] = 0x55, 0xAA, 0x83
	binary.LittleEndian.PutUint32(b[446+8:], 2048)
	binary.LittleEndian.PutUint32(b[446+12:], 8<<20/512)
	must(t, os.WriteFile(image, b, 0o600))
	v := newVault(t)
	points := []saved{v.backUp("vda=" + image), v.backUp("vda=" + image), v.backUp("vda=" + image)}
	v.fail = func(point string) bool { return point == "p1" }
	it := v.item(points...)
	problems := 0
	o := Options{Problem: func(point, _ string, err error) {
		problems++
		if point != "p1" || !strings.Contains(err.Error(), "the server is gone") {
			t.Errorf("problem in %s: %v", point, err)
		}
	}}
	var got []string
	if err := Find(ctx, it, Query{Type: filesys.TypeDir}, o, func(h Hit) error {
		got = append(got, fmt.Sprint(h.Path, h.First.ID, h.Last.ID))
		return nil
	}); err != ErrIncomplete || fmt.Sprint(got) != "[/volumes/vda1/lost+foundp0p2]" {
		t.Errorf("find: %v, %q", err, got)
	}
	for _, pair := range [][2]int{{0, 1}, {1, 2}} {
		if err := Diff(ctx, v.open(points[pair[0]]), v.open(points[pair[1]]), "", o, func(c Change) error {
			t.Errorf("%+v", c)
			return nil
		}); err != ErrIncomplete {
			t.Errorf("diff: %v", err)
		}
	}
	for _, p := range []string{"/lost+found", "/volumes/vda1/lost+found"} {
		var got []string
		if err := Versions(ctx, it, p, VersionOptions{Options: o}, func(v Version) error {
			got = append(got, fmt.Sprint(v.First.ID, v.Present(), v.Err != nil))
			return nil
		}); err != ErrIncomplete || fmt.Sprint(got) != "[p0true false p1false true p2true false]" {
			t.Errorf("versions: %v, %q", err, got)
		}
	}
	if problems == 0 {
		t.Error("nothing was said")
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		p, s string
		fold bool
		want bool
	}{
		{"a*", "abc", false, true}, {"a*", "bac", false, false}, {"*", "", false, true}, {"?", "é", false, true}, {"??", "é", false, false},
		{"[a-c]x", "bx", false, true}, {"[!a-c]x", "bx", false, false}, {"[]]", "]", false, true}, {"[!]]", "]", false, false},
		{"[a-]", "-", false, true}, {`\*`, "*", false, true}, {`\*`, "x", false, false}, {"a.b", "axb", false, false}, {"A*", "abc", true, true},
		{"(a|b)+$^", "(a|b)+$^", false, true}, {"/home/*/x", "/home/a/b/x", false, true}, {"*.txt", "a\nb.txt", false, true},
		{`[\d]x`, "dx", false, true}, {`[\d]x`, "5x", false, false}, {`[\é]`, "é", false, true}, {`[a\-c]`, "b", false, false},
		{"[[:digit:]]x", "5x", false, true}, {"[[:digit:]]x", "dx", false, false}, {"[![:digit:]_]", "_", false, false}, {"[[:]", ":", false, true},
		{`[\]]`, "]", false, true}, {"[한국]", "국", false, true}, {"a*", "a\xff", false, true},
	} {
		p, err := NewPattern(c.p, c.fold)
		if err != nil || p.Match(c.s) != c.want {
			t.Errorf("%q on %q: %t, %v", c.p, c.s, !c.want, err)
		}
	}
	for _, bad := range []string{"[", "[a", "[]", `x\`, "[z-a]", "[[:nothing:]]", "\xff"} {
		if _, err := NewPattern(bad, false); !errors.Is(err, ErrPattern) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if !(Pattern{}).Match("anything") {
		t.Error("no pattern matches nothing")
	}
}
