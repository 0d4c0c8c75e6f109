package qemu

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"cairn/client/source"
)

// What is read is what the disks held when the snapshot was taken, though the
// guest goes on writing; later backups read only what it wrote.
func TestFullAndIncrementals(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "raw")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	v.write(0, 4*mib, 100_000, 2)
	v.write(1, mib, mib, 3)

	before := [][]byte{v.want(0), v.want(1)}
	snap := b.take(v, source.SnapshotOptions{})
	v.write(0, 512<<10, 2*mib, 9)
	v.write(1, 0, 8*mib, 9)
	if n := len(snap.Disks()); n != 2 {
		t.Fatalf("%d disks", n)
	}
	var stored [2][]byte
	for n, d := range snap.Disks() {
		if d.Incremental() {
			t.Errorf("disk %d is incremental without a checkpoint", n)
		}
		var read int64
		stored[n], read = apply(t, d, nil)
		same(t, d.Info().Target, stored[n], before[n])
		if read > 2*mib {
			t.Errorf("%s: %d bytes were read: holes, too", d.Info().Target, read)
		}
	}
	checkpoint := b.keep(snap)
	b.clean(v, checkpoint, 2)

	for round := range 3 {
		v.write(0, int64(round)*mib+12345, 100, byte(20+round))
		v.write(1, int64(2+round)*mib, 64<<10, 0) // zeros are changes, too
		before = [][]byte{v.want(0), v.want(1)}
		snap := b.take(v, source.SnapshotOptions{Since: checkpoint, Continues: true})
		v.write(0, 0, 8*mib, byte(40+round))
		v.write(0, 0, 8*mib, before[0][5*mib]) // all is dirty by the next round
		for n, d := range snap.Disks() {
			if !d.Incremental() {
				t.Fatalf("round %d: disk %d is not incremental: %+v", round, n, snap.Info().Warnings)
			}
			dirty := d.(interface{ DirtyBytes() int64 }).DirtyBytes()
			var read int64
			stored[n], read = apply(t, d, stored[n])
			same(t, d.Info().Target, stored[n], before[n])
			if read > dirty {
				t.Errorf("round %d: disk %d: %d bytes were read, %d are dirty", round, n, read, dirty)
			}
			if n == 1 && round > 0 && dirty != 64<<10 {
				t.Errorf("round %d: disk %d: %d bytes are dirty", round, n, dirty)
			}
		}
		next := b.keep(snap)
		if next == checkpoint {
			t.Fatal("the same checkpoint again")
		}
		checkpoint = next
		b.clean(v, checkpoint, 2)
	}
}

// A backup that is given up takes nothing from the next one.
func TestNotKept(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	snap := b.take(v, source.SnapshotOptions{})
	stored, _ := apply(t, snap.Disks()[0], nil)
	first := b.keep(snap)

	v.write(0, 2*mib, mib, 2)
	b.drop(b.take(v, source.SnapshotOptions{Since: first, Continues: true}))
	b.clean(v, first, 1)
	v.write(0, 5*mib, mib, 3)
	snap = b.take(v, source.SnapshotOptions{Since: first, Continues: true})
	stored, read := apply(t, snap.Disks()[0], stored)
	same(t, "vda", stored, v.want(0))
	if read != 2*mib {
		t.Errorf("%d bytes read", read)
	}
	b.clean(v, b.keep(snap), 1)
}

// A disk whose tracking is not trusted gives all that it holds.
func TestDistrust(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	v.write(0, 2*mib, mib, 2)
	snap := b.take(v, source.SnapshotOptions{Since: first, Continues: true})
	d := snap.Disks()[0]
	d.Distrust()
	if d.Incremental() {
		t.Error("still incremental")
	}
	stored, read := apply(t, d, nil)
	same(t, "vda", stored, v.want(0))
	if read != 2*mib {
		t.Errorf("%d bytes read", read)
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "raw")
	b := newSource(t, v)
	snap := b.take(v, source.SnapshotOptions{Exclude: []string{"vdb", "vdz"}})
	info := snap.Info()
	if len(snap.Disks()) != 1 || len(info.Machine.Disks) != 2 {
		t.Errorf("%d of %d disks", len(snap.Disks()), len(info.Machine.Disks))
	}
	if info.Consistency != source.CrashConsistent || info.FrozenFor != 0 || info.Time.IsZero() {
		t.Errorf("%+v", info)
	}
	warned(t, snap, source.WarnMachineState, "paused")
	var def struct {
		Descriptor map[string]string
		Answers    map[string]json.RawMessage
	}
	if err := json.Unmarshal(info.Definition, &def); err != nil || info.DefinitionKind != DefinitionKind {
		t.Fatalf("%s: %v", info.DefinitionKind, err)
	}
	if def.Descriptor["name"] != "web" || !strings.Contains(string(def.Answers["query-block"]), "drive-vdb") {
		t.Errorf("definition %s", info.Definition)
	}
	b.clean(v, b.keep(snap), 1)
}

// 33 disks are one moment: a transaction has all of them or none.
func TestManyDisks(t *testing.T) {
	t.Parallel()
	v := newVM(t, "big", slices.Repeat([]string{"raw"}, 33)...)
	b := newSource(t, v)
	for n := range v.images {
		v.write(n, int64(n)<<16, 64<<10, byte(n+1))
	}
	snap := b.take(v, source.SnapshotOptions{})
	for n, d := range snap.Disks() {
		want := v.want(n)
		v.write(n, 0, 4*mib, 99)
		got, _ := apply(t, d, nil)
		same(t, d.Info().Target, got, want)
	}
	b.clean(v, b.keep(snap), 33)
}

// What cannot be as consistent as wanted is not taken.
func TestMinimum(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	_, err := b.Snapshot(t.Context(), "web", source.SnapshotOptions{Minimum: source.FileSystemConsistent})
	var low *source.ConsistencyError
	if !errors.As(err, &low) || len(low.Causes) != 1 || low.Causes[0].Kind != source.WarnMachineState {
		t.Fatalf("%v", err)
	}
	b.clean(v, "", 0)
}
