package lvm2_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/mount/filesys"
	"cairn/mount/raid/raidtest"
)

// redundancy is how many disks a volume of a type may lose.
func redundancy(lvType string) int {
	switch {
	case strings.HasPrefix(lvType, "raid6"):
		return 2
	case strings.HasPrefix(lvType, "raid0"):
		return 0
	case strings.HasPrefix(lvType, "raid"):
		return 1
	}
	return 0
}

// TestMissing takes away each pair of disks. Volumes that can bear it are read as
// before, and the others say what is missing or never used those disks.
func TestMissing(t *testing.T) {
	f := raidtest.Load(t, "lvm-raid")
	for i := range f.Disks {
		for j := i; j < len(f.Disks); j++ {
			var disks []*raidtest.Disk
			for k, d := range f.Disks {
				if k != i && k != j {
					disks = append(disks, d)
				}
			}
			lost := len(f.Disks) - len(disks)
			vgs := assemble(t, disks)
			if len(vgs) != 1 || len(vgs[0].Missing) != lost {
				t.Fatalf("without %d and %d: missing %q", i, j, vgs[0].Missing)
			}
			for _, want := range f.Volumes {
				lv := find(t, vgs, want.Name)
				if lv.Device == nil {
					if redundancy(lv.Type) >= lost {
						t.Errorf("without disks %d and %d: %s: %s", i, j, want.Name, lv.Reason)
					}
					if !strings.Contains(lv.Reason, "missing") {
						t.Errorf("%s: reason %q", want.Name, lv.Reason)
					}
					continue
				}
				if got, err := raidtest.Digest(lv.Device); err != nil || got != want.SHA256 {
					t.Errorf("without disks %d and %d: %s: %s, %v; warnings %q", i, j, want.Name, got, err, lv.Warnings)
				}
				if i == j {
					raidtest.CheckPlaces(t, f, want.Name, lv.Device)
				}
			}
		}
	}
}

// TestMedium: a disk cannot be read in places. Volumes that have the bytes twice
// are read as before, the others give errors and never wrong bytes.
func TestMedium(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f := raidtest.Load(t, "lvm-raid")
	vgs := assemble(t, f.Disks)
	for i, d := range f.Disks {
		var bad []int64
		for range 40 {
			bad = append(bad, 1<<20+random.Int64N(6<<20)/512*512)
		}
		d.Fail = func(off, n int64) error {
			for _, b := range bad {
				if off < b+512 && b < off+n {
					return raidtest.ErrMedium
				}
			}
			return nil
		}
		failed := 0
		for _, want := range f.Volumes {
			lv := find(t, vgs, want.Name)
			got, err := raidtest.Digest(lv.Device)
			switch {
			case err == nil && got != want.SHA256:
				t.Errorf("disk %d: %s: wrong bytes", i, want.Name)
			case err != nil && (redundancy(lv.Type) > 0 || want.Name == "vg/mirror"):
				t.Errorf("disk %d: %s: %v", i, want.Name, err)
			case err != nil && !errors.Is(err, raidtest.ErrMedium):
				t.Errorf("disk %d: %s: %v", i, want.Name, err)
			case err != nil:
				failed++
			}
		}
		if i < 3 && failed == 0 {
			t.Errorf("disk %d: nothing noticed that it has bad places", i)
		}
		d.Fail = nil
	}
}

// TestFlip changes single bits of the metadata that has checksums. Volumes are
// then read as before or not at all.
func TestFlip(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	f := raidtest.Load(t, "lvm-thin")
	// The pool's metadata: pv1, extents of 64 KiB from the 48th on.
	const tmeta = 1<<20 + 48<<16
	var used []int64
	for off := int64(tmeta); off < tmeta+2<<20; off += 4096 {
		if b := f.Disks[1].Data[off:][:4096]; !strings.HasPrefix(string(b[64:]), "stale") && slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
			used = append(used, off)
		}
	}
	if len(used) < 8 {
		t.Fatalf("%d blocks of metadata", len(used))
	}
	lost := 0
	for range 150 {
		d := f.Disks[random.IntN(2)]
		off := random.Int64N(64 << 10)
		if d == f.Disks[1] && random.IntN(3) > 0 {
			off = used[random.IntN(len(used))] + random.Int64N(4096)
		}
		bit := byte(1) << random.IntN(8)
		d.Data[off] ^= bit
		// A damaged label takes the whole PV away.
		vgs, err := tryAssemble(f.Disks)
		if err != nil && !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrWrongType) {
			t.Errorf("bit at %d of disk %d: %v", off, d.Index, err)
		}
		for _, want := range f.Volumes {
			if len(vgs) == 0 {
				break
			}
			lv := find(t, vgs, want.Name)
			if lv.Device == nil {
				lost++
				continue
			}
			got, err := raidtest.Digest(lv.Device)
			if err == nil && got != want.SHA256 {
				t.Errorf("bit at %d of disk %d: %s has other bytes", off, d.Index, want.Name)
			}
			if err != nil && !errors.Is(err, filesys.ErrCorrupt) {
				t.Errorf("bit at %d of disk %d: %s: %v", off, d.Index, want.Name, err)
			}
			if err != nil {
				lost++
			}
		}
		d.Data[off] ^= bit
	}
	t.Logf("%d volumes lost", lost)
}

// TestReachable: that the disks could not be reached when the store of a snapshot
// or the mappings of a cache were to be read is not remembered.
func TestReachable(t *testing.T) {
	gone := errors.New("the server is gone")
	for _, name := range []string{"lvm-snap", "lvm-cache"} {
		f := raidtest.Load(t, name)
		vgs := assemble(t, f.Disks)
		for _, want := range f.Volumes {
			dev := find(t, vgs, want.Name).Device
			for _, d := range f.Disks {
				d.Fail = func(int64, int64) error { return gone }
			}
			if _, err := raidtest.Digest(dev); !errors.Is(err, gone) {
				t.Errorf("%s: %v", want.Name, err)
			}
			for _, d := range f.Disks {
				d.Fail = nil
			}
			if got, err := raidtest.Digest(dev); err != nil || got != want.SHA256 {
				t.Errorf("%s, when the disks can be reached again: %v", want.Name, err)
			}
		}
	}
}
