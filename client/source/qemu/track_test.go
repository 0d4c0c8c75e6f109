package qemu

import (
	"encoding/json"
	"fmt"
	"testing"

	"cairn/client/source"
)

// full fails unless a disk is read in full, with a reason that has these words,
// and right.
func full(t *testing.T, v *vm, snap source.Snapshot, n int, words ...string) {
	t.Helper()
	d := snap.Disks()[n]
	if d.Incremental() {
		t.Errorf("%s is incremental", d.Info().Target)
	}
	got, _ := apply(t, d, nil)
	same(t, d.Info().Target, got, v.want(n))
	if words != nil {
		warned(t, snap, source.WarnTracking, append(words, d.Info().Target)...)
	}
}

// incremental fails unless a disk is read as what changed since base, and right.
func incremental(t *testing.T, v *vm, snap source.Snapshot, n int, base []byte, most int64) {
	t.Helper()
	d := snap.Disks()[n]
	if !d.Incremental() {
		t.Fatalf("%s is not incremental: %+v", d.Info().Target, snap.Info().Warnings)
	}
	got, read := apply(t, d, base)
	same(t, d.Info().Target, got, v.want(n))
	if read > most {
		t.Errorf("%s: %d bytes read, at most %d have changed", d.Info().Target, read, most)
	}
}

// A qcow2 keeps its bitmap when QEMU ends in good order, a raw image doesn't.
func TestRestart(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "raw")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	v.write(1, 0, mib, 1)
	base := v.want(0)
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	v.write(0, 3*mib, mib, 2)
	v.write(1, 3*mib, mib, 2)
	v.quit()
	v.start()
	v.write(0, 5*mib, mib, 3)
	snap := b.take(v, source.SnapshotOptions{Since: first, Continues: true})
	incremental(t, v, snap, 0, base, 2*mib)
	full(t, v, snap, 1, "started anew")
	b.clean(v, b.keep(snap), 2)
}

// A QEMU that was killed leaves bitmaps that nobody believes; they are removed.
func TestKilledQEMU(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	v.quit()
	v.start() // now the bitmap is in the file, marked as in use
	v.kill()
	v.start()
	snap := b.take(v, source.SnapshotOptions{Since: first, Continues: true})
	full(t, v, snap, 0, "inconsistent")
	second := b.keep(snap)
	b.clean(v, second, 1)
	base := v.want(0)
	v.write(0, 3*mib, mib, 2)
	snap = b.take(v, source.SnapshotOptions{Since: second, Continues: true})
	incremental(t, v, snap, 0, base, mib)
}

// Bitmaps that were tampered with, one way per disk.
func TestUnusableBitmaps(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "qcow2", "qcow2", "qcow2")
	b := newSource(t, v)
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	node := func(n int) args {
		return args{"node": fmt.Sprintf("drive-%s", v.images[n].id), "name": checkpoint(first).bitmap(8 * mib)}
	}
	v.do("block-dirty-bitmap-remove", node(0))
	v.do("block-dirty-bitmap-disable", node(1))
	v.do("block-dirty-bitmap-remove", node(2))
	coarse := node(2)
	coarse["granularity"] = 1 << 20
	v.do("block-dirty-bitmap-add", coarse)
	for n := range v.images {
		v.write(n, mib, mib, 7)
	}
	snap := b.take(v, source.SnapshotOptions{Since: first, Continues: true})
	full(t, v, snap, 0, "no record")
	full(t, v, snap, 1, "switched off")
	full(t, v, snap, 2, "granularity")
	incremental(t, v, snap, 3, make([]byte, 8*mib), mib)
	b.clean(v, b.keep(snap), 4)
}

func TestNoCheckpoint(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	snap := b.take(v, source.SnapshotOptions{Continues: true})
	warned(t, snap, source.WarnTracking, "no checkpoint")
	b.drop(snap)
	snap = b.take(v, source.SnapshotOptions{})
	for _, w := range snap.Info().Warnings {
		if w.Kind == source.WarnTracking {
			t.Errorf("the first backup warns: %s", w.Text)
		}
	}
	b.drop(snap)
	snap = b.take(v, source.SnapshotOptions{Since: "cairn-00000000000000ff", Continues: true})
	full(t, v, snap, 0, "no record of the changes since cairn-00000000000000ff")
}

// A disk that was resized is read in full, whichever way: QEMU's bitmap says
// nothing of what was cut off or added.
func TestResize(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{12 * mib, 4 * mib} {
		t.Run(fmt.Sprint(size/mib), func(t *testing.T) {
			v := newVM(t, "web", "qcow2", "raw")
			b := newSource(t, v)
			v.write(0, 0, 8*mib, 1)
			v.write(1, 0, 8*mib, 1)
			first := b.keep(b.take(v, source.SnapshotOptions{}))
			for n, im := range v.images {
				v.do("block_resize", args{"device": "drive-" + im.id, "size": size})
				im.want = append(im.want, make([]byte, 8*mib)...)[:size]
				v.write(n, 3*mib, mib, 2)
			}
			snap := b.take(v, source.SnapshotOptions{Since: first, Continues: true})
			for n, d := range snap.Disks() {
				if d.Info().Size != size {
					t.Errorf("size %d", d.Info().Size)
				}
				full(t, v, snap, n, "resized", fmt.Sprint(size))
			}
			second := b.keep(snap)
			b.clean(v, second, 2)
			base := v.want(0)
			v.write(0, 0, mib, 3)
			incremental(t, v, b.take(v, source.SnapshotOptions{Since: second, Continues: true}), 0, base, mib)
		})
	}
}

// A disk that came is read in full, beside one that stayed; one that went does
// not matter.
func TestDisksComeAndGo(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "qcow2")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	v.write(1, 0, mib, 1)
	base := v.want(0)
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	v.quit()
	v.images = append(v.images[:1], v.newImage("vdc", "qcow2"))
	v.start()
	v.write(0, 3*mib, mib, 2)
	v.write(1, 3*mib, mib, 2)
	snap := b.take(v, source.SnapshotOptions{Since: first, Continues: true})
	incremental(t, v, snap, 0, base, mib)
	full(t, v, snap, 1, "no record")
	b.clean(v, b.keep(snap), 2)
}

// A disk that was excluded has no bitmap, and is read in full when it is back.
func TestExcludedDisk(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "qcow2")
	b := newSource(t, v)
	first := b.keep(b.take(v, source.SnapshotOptions{Exclude: []string{"vdb"}}))
	b.clean(v, first, 1)
	second := b.keep(b.take(v, source.SnapshotOptions{Since: first}))
	b.clean(v, second, 2)
	// Excluded again: the bitmap would be of no use, and goes.
	third := b.keep(b.take(v, source.SnapshotOptions{Since: second, Exclude: []string{"vdb"}}))
	b.clean(v, third, 1)
}

// Others' bitmaps are none of our business.
func TestForeignBitmap(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	v.do("block-dirty-bitmap-add", args{"node": "drive-vda", "name": "theirs"})
	v.do("block-dirty-bitmap-add", args{"node": "drive-vda", "name": "cairn-0000000000000001-8388608"})
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	b.keep(b.take(v, source.SnapshotOptions{Since: first}))
	_, bitmaps := v.ours()
	if len(bitmaps) != 3 || bitmaps["theirs"] != 1 || bitmaps["cairn-0000000000000001-8388608"] != 1 {
		b, _ := json.Marshal(bitmaps)
		t.Errorf("%s", b)
	}
}
