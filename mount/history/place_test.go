package history

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cairn/blockstore/block"
	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/tree"
)

// noPlace is a device that cannot tell where its bytes are, as an array of which a
// part is computed from parity.
type noPlace struct{ blockdev.Device }

func (noPlace) Place(int64) (blockdev.Place, int64, error) {
	return blockdev.Place{}, 0, filesys.ErrUnsupported
}

// TestNoPlace: volumes are compared, and files have versions, also where changes of
// the disks cannot be carried over to them.
func TestNoPlace(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	image := mke2fs(t, 16<<20, "-t", "ext4", "-b", "1024")
	w := &work{t: t, rng: rand.New(rand.NewPCG(seed, 0))}
	v := newVault(t)
	change(t, image, func(dir string) {
		must(t, os.Mkdir(filepath.Join(dir, "work"), 0o755))
		w.run(filepath.Join(dir, "work"), 100)
		must(t, os.WriteFile(filepath.Join(dir, "same"), []byte("same"), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "other"), []byte("one"), 0o644))
	})
	first := v.backUp("vda=" + image)
	change(t, image, func(dir string) {
		w.run(filepath.Join(dir, "work"), 30)
		must(t, os.WriteFile(filepath.Join(dir, "other"), []byte("two"), 0o644))
	})
	second := v.backUp("vda=" + image)
	a, b := v.open(first), v.open(second)
	var vols [2]*volume
	var states [2]map[string]described
	for i, p := range []*Point{a, b} {
		list, err := p.volumes(ctx, "vda")
		must(t, err)
		vols[i] = list[0]
		states[i] = describe(t, p, "vda")
		vols[i].dev = noPlace{vols[i].dev}
	}
	d := &diffing{ctx: ctx, a: a, b: b, delta: newDelta(a, b)}
	list, err := d.volume(vols[0], vols[1])
	must(t, err)
	checkDiff(t, states[0], states[1], list)

	for name, want := range map[string]What{"same": 0, "other": Content | Mtime} {
		var spots [2]spot
		for i, p := range []*Point{a, b} {
			f, err := p.Tree.Resolve(ctx, "/volumes/vda/"+name, false)
			must(t, err)
			fs, ino, _ := tree.Guest(f.Node)
			f.Attr.Ino = ino
			spots[i] = spot{vol: vols[i], path: f.Path, fs: fs, ino: ino, attr: f.Attr}
		}
		if got, err := (&versioner{ctx: ctx}).differ(&spots[0], &spots[1]); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		f, err := spots[0].fs.Open(spots[0].ino)
		must(t, err)
		if s, err := digest(ctx, vols[0], f); s != "" || err != nil {
			t.Errorf("%s: digest %q, %v", name, s, err)
		}
	}
}

// TestDamagedMap: a page of a disk's map that is damaged in the vault hides what
// changed there, and nothing of what can be read.
func TestDamagedMap(t *testing.T) {
	t.Parallel()
	image := mke2fs(t, 24<<20, "-t", "ext4", "-b", "1024")
	v := newVault(t)
	change(t, image, func(dir string) { must(t, os.WriteFile(filepath.Join(dir, "f1"), []byte("1"), 0o644)) })
	first := v.backUp("vda=" + image)
	change(t, image, func(dir string) { must(t, os.WriteFile(filepath.Join(dir, "f2"), []byte("2"), 0o644)) })
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("x"), 24<<20-1)
	must(t, err)
	must(t, f.Close())
	second := v.backUp("vda=" + image)
	root := v.blocks[second.disks[0].Map.Root]
	v.damaged = block.Digest(root[32:64]) // of the blocks from 16 MiB on

	if got := lines(diff(t, v.open(first), v.open(second), false)); !slices.Equal(got, []string{"A /volumes/vda/f2"}) {
		t.Errorf("diff: %q", got)
	}
	name, err := NewPattern("f*", false)
	must(t, err)
	found := map[string]int{}
	must(t, Find(ctx, v.item(first, second), Query{Name: name}, Options{}, func(h Hit) error {
		found[h.Path] = h.Points
		return nil
	}))
	if len(found) != 2 || found["/volumes/vda/f1"] != 2 || found["/volumes/vda/f2"] != 1 {
		t.Errorf("found %v", found)
	}
}

// TestLostVolume: a partition of which nothing can be told, since its first block is
// damaged in the vault, may hold what it held.
func TestLostVolume(t *testing.T) {
	t.Parallel()
	part := mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024")
	image := filepath.Join(t.TempDir(), "disk")
	v := newVault(t)
	var points []saved
	for _, name := range []string{"f1", "f2"} {
		change(t, part, func(dir string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644)) })
		b, err := os.ReadFile(part)
		must(t, err)
		disk := make([]byte, 1<<20, 9<<20)
		copy(disk[446+4:], "\x83\x00\x00\x00\x00\x08\x00\x00\x00\x40\x00\x00")
		copy(disk[510:], "\x55\xaa")
		must(t, os.WriteFile(image, append(disk, b...), 0o644))
		points = append(points, v.backUp("vda="+image))
		v.damaged = block.Sum(b[:block.DefaultSize]) // in the end, of the second point
	}
	problems := 0
	o := Options{Problem: func(point, p string, err error) {
		if problems++; point != points[1].id || p != "/volumes/vda1" {
			t.Errorf("problem of %s %s: %v", point, p, err)
		}
	}}
	err := Diff(ctx, v.open(points[0]), v.open(points[1]), "", o, func(c Change) error { t.Errorf("diff: %+v", c); return nil })
	if err != ErrIncomplete || problems != 1 {
		t.Errorf("diff: %v, %d problems", err, problems)
	}
	name, err := NewPattern("f*", false)
	must(t, err)
	err = Find(ctx, v.item(points...), Query{Name: name}, o, func(h Hit) error {
		if h.Path != "/volumes/vda1/f1" || h.Last.ID != points[1].id {
			t.Errorf("found %+v", h)
		}
		return nil
	})
	if err != ErrIncomplete || problems != 2 {
		t.Errorf("find: %v, %d problems", err, problems)
	}
}

// TestUnlinkedInUse: a file that was deleted while a program had it open has an inode
// and no name. It is gone, and nothing is damaged.
func TestUnlinkedInUse(t *testing.T) {
	t.Parallel()
	image := mke2fs(t, 8<<20, "-t", "ext4", "-b", "1024")
	v := newVault(t)
	change(t, image, func(dir string) { must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("1"), 0o644)) })
	first := v.backUp("vda=" + image)
	for _, cmd := range []string{"set_inode_field /f links_count 0", "unlink /f", "set_inode_field / mtime @1767225601"} {
		fstest.Run(t, "debugfs", "-w", "-R", cmd, image)
	}
	second := v.backUp("vda=" + image)
	if got := lines(diff(t, v.open(first), v.open(second), false)); !slices.Equal(got, []string{"D /volumes/vda/f"}) {
		t.Errorf("diff: %q", got)
	}
	if got := lines(diff(t, v.open(second), v.open(first), false)); !slices.Equal(got, []string{"A /volumes/vda/f"}) {
		t.Errorf("and back: %q", got)
	}
}
