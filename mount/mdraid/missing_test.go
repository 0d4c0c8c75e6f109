package mdraid_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"cairn/mount/blockdev"
	"cairn/mount/mdraid"
	"cairn/mount/raid/raidtest"
)

// TestMissing takes away each member, and each pair of the same array. What is
// left is read as before, or the array says what it lacks.
func TestMissing(t *testing.T) {
	bears := map[string]int{"raid1": 1, "raid4": 1, "raid5": 1, "raid6": 2, "raid10": 1}
	for _, name := range []string{"md-levels", "md-older"} {
		f := raidtest.Load(t, name)
		for v, a := range assemble(t, f.Disks) {
			want := f.Volumes[v]
			for i := range a.Members {
				for j := i; j < len(a.Members); j++ {
					var left []*mdraid.Member
					for k, m := range a.Members {
						if k != i && k != j {
							left = append(left, m)
						}
					}
					if len(left) == 0 {
						continue
					}
					lost := len(a.Members) - len(left)
					got := mdraid.Assemble(left)[0]
					if got.Device == nil {
						if bears[got.Level] >= lost || !strings.Contains(got.Reason, "missing") {
							t.Errorf("%s %s without %d and %d: %s", name, want.Name, i, j, got.Reason)
						}
						continue
					}
					if len(got.Warnings) < lost {
						t.Errorf("%s %s without %d and %d: warnings %q", name, want.Name, i, j, got.Warnings)
					}
					if lost > 1 && got.Level != "raid6" && got.Level != "raid10" {
						t.Errorf("%s %s (%s) without %d and %d has a device", name, want.Name, got.Level, i, j)
					}
					raidtest.Check(t, f, want, got.Device)
				}
			}
		}
	}
}

// TestMedium: some sectors of one member after the other cannot be read.
func TestMedium(t *testing.T) {
	f := raidtest.Load(t, "md-levels")
	arrays := assemble(t, f.Disks)
	for _, d := range f.Disks {
		d.Fail = func(off, n int64) error {
			const from, every = 70000, 50000
			if first := max((off-from)/every, 0)*every + from; off < first+512 && first < off+n || first+every < off+n {
				return raidtest.ErrMedium
			}
			return nil
		}
		for i, a := range arrays {
			got, err := raidtest.Digest(a.Device)
			if err != nil && a.Level != "raid0" || err == nil && got != f.Volumes[i].SHA256 {
				t.Errorf("%s with a bad disk %d: %s, %v", a.Name, d.Index, got, err)
			}
		}
		d.Fail = nil
	}
}

// members reads the members of one array of a fixture.
func membersOf(t *testing.T, f *raidtest.Fixture, array int) []*mdraid.Member {
	t.Helper()
	return assemble(t, f.Disks)[array].Members
}

// super changes the superblock (version 1.2) of a disk.
func super(d *raidtest.Disk, change func(b []byte)) {
	change(d.Data[4096:])
	sumV1(d.Data[4096:])
}

// TestRefused: states in which nothing may be guessed.
func TestRefused(t *testing.T) {
	const raid5, near = 1, 4 // of md-states: degraded raid5; degraded raid10
	le := binary.LittleEndian
	for _, test := range []struct {
		name   string
		array  int
		change func(d *raidtest.Disk)
		reason string
	}{
		{"reshape", near, func(d *raidtest.Disk) { super(d, func(b []byte) { b[8] |= 4 }) }, "reshaped"},
		{"journal", near, func(d *raidtest.Disk) { super(d, func(b []byte) { b[9] |= 2 }) }, "journal"},
		{"cluster", near, func(d *raidtest.Disk) { super(d, func(b []byte) { b[9] |= 1 }) }, "cluster"},
		{"feature", near, func(d *raidtest.Disk) { super(d, func(b []byte) { b[11] |= 1 }) }, "features 0x1000000"},
		{"level", near, func(d *raidtest.Disk) { super(d, func(b []byte) { le.PutUint32(b[72:], 0xFFFFFFFC) }) }, "level -4"},
		{"layout", near, func(d *raidtest.Disk) { super(d, func(b []byte) { le.PutUint32(b[76:], 7<<17|0x102) }) }, "layout"},
		{"chunk", near, func(d *raidtest.Disk) { super(d, func(b []byte) { le.PutUint32(b[88:], 0) }) }, "chunk"},
		{"size", near, func(d *raidtest.Disk) { super(d, func(b []byte) { le.PutUint64(b[80:], 0) }) }, "uses 0 bytes"},
		{"too large", near, func(d *raidtest.Disk) { super(d, func(b []byte) { le.PutUint64(b[80:], 1<<40) }) }, "missing"},
		{"dirty", raid5, func(d *raidtest.Disk) { super(d, func(b []byte) { le.PutUint64(b[208:], 0) }) }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := raidtest.Load(t, "md-states")
			for _, m := range membersOf(t, f, test.array) {
				p, _, err := m.Device.Place(0)
				if err != nil {
					t.Fatal(err)
				}
				test.change(f.Disks[p.Disk])
			}
			a := assemble(t, f.Disks)[test.array]
			if test.reason != "" {
				if a.Device != nil || !strings.Contains(a.Reason, test.reason) {
					t.Errorf("device %v, reason %q", a.Device, a.Reason)
				}
				return
			}
			// Parity of an array in use proves nothing.
			if _, err := raidtest.Digest(a.Device); err == nil || !strings.Contains(err.Error(), "in use") {
				t.Errorf("a degraded array in use was read: %v", err)
			}
		})
	}
}

// TestTwins: one member twice, and two halves of a mirror that went their own ways.
func TestTwins(t *testing.T) {
	f := raidtest.Load(t, "md-levels")
	mirror := membersOf(t, f, 1)
	a := mdraid.Assemble([]*mdraid.Member{mirror[0], mirror[1], mirror[1]})[0]
	if a.Device != nil || !strings.Contains(a.Reason, "cloned") {
		t.Errorf("one member twice: %q", a.Reason)
	}
	if got := a.Members[0].Version; got != "1.0" {
		t.Errorf("version %s", got)
	}
	// Each half calls the other failed.
	for i, m := range mirror {
		p, _, _ := m.Device.Place(0)
		d := f.Disks[p.Disk].Data
		b := d[len(d)-8192:]
		binary.LittleEndian.PutUint16(b[256+2*(1-i):], 0xFFFE)
		sumV1(b)
	}
	a = assemble(t, f.Disks)[1]
	if a.Device != nil || !strings.Contains(a.Reason, "without each other") {
		t.Errorf("two halves: %q", a.Reason)
	}
}

// TestNone: devices that have no superblock, or one that is not theirs.
func TestNone(t *testing.T) {
	f := raidtest.Load(t, "md-levels")
	for _, d := range []blockdev.Device{
		blockdev.Section(f.Disks[0].Device(), 0, 0),
		blockdev.Section(f.Disks[0].Device(), 0, 100),
		blockdev.Section(f.Disks[0].Device(), 4096, 1<<19), // 1.2 looks like 1.1 from here
		blockdev.Section(f.Disks[3].Device(), 512, 1<<21),
	} {
		if m, err := mdraid.Read(d); err == nil {
			t.Errorf("a superblock %s in %d bytes", m.Version, d.Size())
		}
	}
}

// TestFirmware: containers of firmware raid are known by name.
func TestFirmware(t *testing.T) {
	for _, test := range []struct {
		magic  string
		off    int
		reason string
	}{
		{"Intel Raid ISM Cfg Sig. 1.3.00", 1<<20 - 1024, "Intel"},
		{"\xde\x11\xde\x11", 1<<20 - 512, "DDF"},
	} {
		d := &raidtest.Disk{Data: make([]byte, 1<<20)}
		copy(d.Data[test.off:], test.magic)
		a := assemble(t, []*raidtest.Disk{d})[0]
		if a.Device != nil || !strings.Contains(a.Reason, test.reason) {
			t.Errorf("%q: %q", test.magic, a.Reason)
		}
	}
}
