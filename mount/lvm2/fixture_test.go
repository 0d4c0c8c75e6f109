package lvm2_test

import (
	"errors"
	"strings"
	"testing"

	"cairn/mount/lvm2"
	"cairn/mount/raid/raidtest"
)

// assemble reads the given disks as PVs.
func assemble(t testing.TB, disks []*raidtest.Disk) []*lvm2.VG {
	t.Helper()
	var pvs []*lvm2.PV
	for _, d := range disks {
		pv, err := lvm2.Read(d.Device())
		if err != nil {
			t.Fatal(err)
		}
		pvs = append(pvs, pv)
	}
	return lvm2.Assemble(pvs)
}

// tryAssemble leaves out what is no PV.
func tryAssemble(disks []*raidtest.Disk) ([]*lvm2.VG, error) {
	var pvs []*lvm2.PV
	var errs []error
	for _, d := range disks {
		pv, err := lvm2.Read(d.Device())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		pvs = append(pvs, pv)
	}
	return lvm2.Assemble(pvs), errors.Join(errs...)
}

func find(t testing.TB, vgs []*lvm2.VG, name string) lvm2.LV {
	t.Helper()
	vgName, lvName, _ := strings.Cut(name, "/")
	for _, vg := range vgs {
		for _, lv := range vg.LVs {
			if vg.Name == vgName && lv.Name == lvName {
				return lv
			}
		}
	}
	t.Fatalf("no volume %s", name)
	return lvm2.LV{}
}

// TestKernel: each volume has the bytes that the kernel reads from it.
func TestKernel(t *testing.T) {
	for _, name := range []string{"lvm-raid", "lvm-thin", "lvm-snap", "lvm-cache", "lvm-deep", "lvm-states"} {
		t.Run(name, func(t *testing.T) {
			f := raidtest.Load(t, name)
			vgs := assemble(t, f.Disks)
			if len(vgs) != 1 || len(vgs[0].Missing) != 0 || len(vgs[0].Warnings) != 0 || len(vgs[0].PVs) != len(f.Disks) {
				t.Fatalf("%d groups, %+v", len(vgs), vgs[0])
			}
			for _, want := range f.Volumes {
				lv := find(t, vgs, want.Name)
				if lv.Device == nil || !lv.Visible || lv.Size != want.Size || (len(lv.Warnings) != 0) != (want.Name == "vg/merging") {
					t.Errorf("%s: %+v", want.Name, lv)
					continue
				}
				raidtest.Check(t, f, want, lv.Device)
			}
		})
	}
}
