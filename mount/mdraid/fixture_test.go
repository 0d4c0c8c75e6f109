package mdraid_test

import (
	"testing"

	"cairn/mount/mdraid"
	"cairn/mount/raid/raidtest"
)

// assemble reads the given disks as members; those that are none are passed over.
func assemble(t testing.TB, disks []*raidtest.Disk) []*mdraid.Array {
	t.Helper()
	var members []*mdraid.Member
	for _, d := range disks {
		m, err := mdraid.Read(d.Device())
		if err != nil {
			t.Logf("disk %d: %v", d.Index, err)
			continue
		}
		members = append(members, m)
	}
	return mdraid.Assemble(members)
}

// TestKernel: each array has the bytes that the kernel reads from it.
func TestKernel(t *testing.T) {
	for _, name := range []string{"md-levels", "md-older", "md-states"} {
		t.Run(name, func(t *testing.T) {
			f := raidtest.Load(t, name)
			arrays := assemble(t, f.Disks)
			if len(arrays) != len(f.Volumes) {
				t.Errorf("%d arrays", len(arrays))
			}
			for i, a := range arrays {
				t.Logf("%s %s %s %q %q", a.Name, a.UUID, a.Level, a.Reason, a.Warnings)
				if a.Device == nil {
					t.Errorf("%s: %s", a.Name, a.Reason)
					continue
				}
				raidtest.Check(t, f, f.Volumes[i], a.Device)
			}
		})
	}
}
