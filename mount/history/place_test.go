package history

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
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
