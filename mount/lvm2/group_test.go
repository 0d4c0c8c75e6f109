package lvm2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cairn/mount/raid/raidtest"
)

// setText makes a text current in the first metadata area of a disk. It is written
// at off of the area and goes over the end of the ring if there is no room.
func setText(d *raidtest.Disk, text []byte, off int) {
	const start = 4096
	le := binary.LittleEndian
	h := d.Data[start:][:areaHeader]
	size := int(le.Uint64(h[32:]))
	ring := d.Data[start:][:size]
	n := copy(ring[off:], text)
	copy(ring[areaHeader:], text[n:])
	le.PutUint64(h[40:], uint64(off))
	le.PutUint64(h[48:], uint64(len(text)))
	le.PutUint32(h[56:], crc(text))
	le.PutUint32(h, crc(h[4:]))
}

// currentText gives the current text of a disk.
func currentText(t *testing.T, d *raidtest.Disk) []byte {
	t.Helper()
	pv, err := Read(d.Device())
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, p := range pv.newest().parts {
		b = append(b, d.Data[p.off:][:p.size]...)
	}
	return b
}

func read(t *testing.T, disks ...*raidtest.Disk) []*VG {
	t.Helper()
	var pvs []*PV
	for _, d := range disks {
		pv, err := Read(d.Device())
		if err != nil {
			t.Fatal(err)
		}
		pvs = append(pvs, pv)
	}
	return Assemble(pvs)
}

func lvOf(t *testing.T, vg *VG, name string) LV {
	t.Helper()
	i := slices.IndexFunc(vg.LVs, func(l LV) bool { return l.Name == name })
	if i < 0 {
		t.Fatalf("no volume %s", name)
	}
	return vg.LVs[i]
}

// seqno sets the number of a text, which keeps its length.
func seqno(text []byte, change int) []byte {
	var n int
	i := bytes.Index(text, []byte("seqno = "))
	fmt.Sscanf(string(text[i:]), "seqno = %d", &n)
	return bytes.Replace(text, fmt.Appendf(nil, "seqno = %d\n", n), fmt.Appendf(nil, "seqno = %d\n", n+change), 1)
}

// TestNewest: the text with the highest number decides, wherever it is, and the
// disks that have another one are named.
func TestNewest(t *testing.T) {
	f := raidtest.Load(t, "lvm-thin")
	text := currentText(t, f.Disks[0])
	renamed := bytes.Replace(seqno(text, 1), []byte("\nthin1 {"), []byte("\nthinX {"), 1)
	setText(f.Disks[1], renamed, 4096)
	vg := read(t, f.Disks...)[0]
	want := f.Volume(t, "vg/thin1")
	raidtest.Check(t, f, want, lvOf(t, vg, "thinX").Device)
	if w := fmt.Sprint(vg.Warnings); !strings.Contains(w, vg.PVs[0].UUID) || !strings.Contains(w, "earlier state") || strings.Contains(w, vg.PVs[1].UUID) {
		t.Errorf("warnings %s", w)
	}

	// The same number and another text: nobody knows.
	setText(f.Disks[1], bytes.Replace(text, []byte("\nthin1 {"), []byte("\nthinX {"), 1), 4096)
	vg = read(t, f.Disks...)[0]
	for _, lv := range vg.LVs {
		if lv.Device != nil || !strings.Contains(lv.Reason, "two different descriptions") {
			t.Errorf("%s: %q", lv.Name, lv.Reason)
		}
	}

	// A damaged text gives way to that of the other disk.
	setText(f.Disks[1], text, 4096)
	f.Disks[1].Data[4096+4096+100] ^= 1
	vg = read(t, f.Disks...)[0]
	raidtest.Check(t, f, want, lvOf(t, vg, "thin1").Device)
	if w := fmt.Sprint(vg.Warnings); !strings.Contains(w, "checksum") {
		t.Errorf("warnings %s", w)
	}
}

// TestRing: a text that goes over the end of its ring.
func TestRing(t *testing.T) {
	f := raidtest.Load(t, "lvm-thin")
	text := currentText(t, f.Disks[0])
	size := int(binary.LittleEndian.Uint64(f.Disks[0].Data[4096+32:]))
	for _, d := range f.Disks {
		setText(d, text, size-512*(1+d.Index))
	}
	vg := read(t, f.Disks...)[0]
	if len(vg.Warnings) > 0 {
		t.Errorf("warnings %q", vg.Warnings)
	}
	raidtest.Check(t, f, f.Volume(t, "vg/snap2"), lvOf(t, vg, "snap2").Device)
}

// TestClones: one PV twice is said, and what lies on it is not read.
func TestClones(t *testing.T) {
	f := raidtest.Load(t, "lvm-raid")
	disks := append(slices.Clone(f.Disks), f.Disks[0])
	vg := read(t, disks...)[0]
	if len(vg.Missing) != 1 || !strings.Contains(vg.Missing[0], "cloned") || !strings.Contains(vg.Missing[0], "/dev/vda") {
		t.Errorf("missing %q", vg.Missing)
	}
	if lv := lvOf(t, vg, "linear"); lv.Device != nil || !strings.Contains(lv.Reason, "cloned") {
		t.Errorf("linear: %q", lv.Reason)
	}
	raidtest.Check(t, f, f.Volume(t, "vg/raid6_nc"), lvOf(t, vg, "raid6_nc").Device)
}

// TestGroups: groups of one name, and PVs that changed groups.
func TestGroups(t *testing.T) {
	a, b := raidtest.Load(t, "lvm-thin"), raidtest.Load(t, "lvm-snap")
	vgs := read(t, append(slices.Clone(a.Disks), b.Disks...)...)
	if len(vgs) != 2 || vgs[0].Name != vgs[1].Name || vgs[0].UUID == vgs[1].UUID {
		t.Fatalf("%d groups", len(vgs))
	}
	for _, vg := range vgs {
		if w := fmt.Sprint(vg.Warnings); !strings.Contains(w, "2 volume groups are called vg") || !strings.Contains(w, vg.UUID) {
			t.Errorf("warnings %s", w)
		}
	}

	// The second disk of one group has the text of the other now, which does not
	// list it.
	setText(a.Disks[1], currentText(t, b.Disks[0]), 4096)
	vgs = read(t, append(slices.Clone(a.Disks), b.Disks...)...)
	if len(vgs[0].Missing) != 1 || !strings.Contains(vgs[0].Missing[0], "belongs to another group now") {
		t.Errorf("missing %q", vgs[0].Missing)
	}
	if w := fmt.Sprint(vgs[1].Warnings); !strings.Contains(w, "is no more") {
		t.Errorf("warnings %s", w)
	}
	if lv := lvOf(t, vgs[0], "thin1"); lv.Device != nil || !strings.Contains(lv.Reason, "another group") {
		t.Errorf("thin1: %q", lv.Reason)
	}

	// No disk at all.
	if vgs := Assemble(nil); len(vgs) != 0 {
		t.Errorf("%d groups of nothing", len(vgs))
	}
}

// TestMissingFlag: a PV that lvm has noted as missing is not read though it is
// there again.
func TestMissingFlag(t *testing.T) {
	f := raidtest.Load(t, "lvm-raid")
	text := seqno(currentText(t, f.Disks[0]), 1)
	i := bytes.Index(text, []byte("pv1 {"))
	j := i + bytes.Index(text[i:], []byte("flags = []"))
	text = slices.Concat(text[:j], []byte(`flags = ["MISSING"]`), text[j+10:])
	for _, d := range f.Disks {
		setText(d, text, 65536)
	}
	vg := read(t, f.Disks...)[0]
	if len(vg.Missing) != 1 || !strings.Contains(vg.Missing[0], "may be old") {
		t.Fatalf("missing %q", vg.Missing)
	}
	if lv := lvOf(t, vg, "stripe2"); lv.Device != nil || !strings.Contains(lv.Reason, "may be old") {
		t.Errorf("stripe2: %q", lv.Reason)
	}
	raidtest.Check(t, f, f.Volume(t, "vg/raid5_ls"), lvOf(t, vg, "raid5_ls").Device)
}

// TestLegs: what the superblocks of a raid's legs say is heeded.
func TestLegs(t *testing.T) {
	le := binary.LittleEndian
	for _, test := range []struct {
		name   string
		change func(legs [][]byte)
		reason string // of the volume, or part of a warning
		lost   bool
		leg    int // that must not be read
		from   int // beyond this byte
	}{
		{"failed", func(l [][]byte) { le.PutUint64(l[0][24:], 2) }, "leg 1 of the raid1 is not read: it had failed", false, 1, 0},
		{"stale", func(l [][]byte) { le.PutUint64(l[0][16:], le.Uint64(l[1][16:])-5) }, "leg 0 of the raid1 is not read: it is out of date", false, 0, 0},
		{"rebuilt", func(l [][]byte) { le.PutUint64(l[0][32:], 100) }, "leg 0 of the raid was being rebuilt, and is read up to byte 51200", false, 0, 51200},
		{"new", func(l [][]byte) { clear(l[0][:512]) }, "leg 0 of the raid1 is not read: it was never in use", false, 0, 0},
		{"swapped", func(l [][]byte) { le.PutUint32(l[0][12:], 1) }, "says slot 1, not 0", false, 0, 0},
		{"reshape", func(l [][]byte) { le.PutUint32(l[0][60:], 1) }, "being reshaped", true, 0, 1 << 19},
		{"level", func(l [][]byte) { le.PutUint32(l[0][48:], 5) }, "superblock of level 5", true, 0, 1 << 19},
		{"both failed", func(l [][]byte) { le.PutUint64(l[0][24:], 3); le.PutUint64(l[1][24:], 3) }, "it had failed", true, 0, 1 << 19},
		{"never used", func(l [][]byte) { clear(l[0][:512]); clear(l[1][:512]) }, "", false, 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := raidtest.Load(t, "lvm-raid")
			var legs [][]byte
			for i := range 2 {
				legs = append(legs, onDisk(t, f, fmt.Sprint("raid1_rmeta_", i)))
			}
			test.change(legs)
			clear(onDisk(t, f, fmt.Sprint("raid1_rimage_", test.leg))[test.from:])
			vg := read(t, f.Disks...)[0]
			lv := lvOf(t, vg, "raid1")
			if test.lost {
				if lv.Device != nil || !strings.Contains(lv.Reason, test.reason) {
					t.Errorf("reason %q", lv.Reason)
				}
				return
			}
			if w := fmt.Sprint(lv.Warnings); !strings.Contains(w, test.reason) || test.reason == "" && len(lv.Warnings) > 0 {
				t.Errorf("warnings %s", w)
			}
			raidtest.Check(t, f, f.Volume(t, "vg/raid1"), lv.Device)
		})
	}
}

// onDisk gives what a linear volume has on the disks.
func onDisk(t *testing.T, f *raidtest.Fixture, name string) []byte {
	t.Helper()
	s, err := parseConfig(string(currentText(t, f.Disks[0])))
	if err != nil {
		t.Fatal(err)
	}
	g, err := parseGroup(s)
	if err != nil {
		t.Fatal(err)
	}
	seg := &g.lvByName[name].segments[0]
	area := seg.find("stripes").list
	var disk int
	fmt.Sscanf(area[0].s, "pv%d", &disk)
	return f.Disks[disk].Data[g.pvByKey[area[0].s].start+area[1].n*g.extentSize:][:seg.count*g.extentSize]
}

// TestBitmap: where the bitmap says that the array was being written, parity proves
// nothing; what is there is read all the same.
func TestBitmap(t *testing.T) {
	le := binary.LittleEndian
	for _, test := range []struct {
		name   string
		change func(meta []byte)
		read   bool
	}{
		{"clean", func(b []byte) {}, true},
		{"dirty", func(b []byte) { b[4096+256] |= 1 << 1 }, false},
		{"behind", func(b []byte) { le.PutUint64(b[4096+24:], 0) }, false},
		{"stale", func(b []byte) { b[4096+48] |= 2 }, false},
		{"none", func(b []byte) { clear(b[4096:][:512]) }, false},
		{"not synchronised", func(b []byte) { le.PutUint64(b[40:], 0) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := raidtest.Load(t, "lvm-raid")
			for i := range 4 {
				test.change(onDisk(t, f, fmt.Sprint("raid5_ls_rmeta_", i)))
			}
			lv := lvOf(t, read(t, f.Disks...)[0], "raid5_ls")
			raidtest.Check(t, f, f.Volume(t, "vg/raid5_ls"), lv.Device) // nothing is missing
			lv = lvOf(t, read(t, f.Disks[1:]...)[0], "raid5_ls")
			got, err := raidtest.Digest(lv.Device)
			if test.read && got != f.Volume(t, "vg/raid5_ls").SHA256 || !test.read && (err == nil || !strings.Contains(err.Error(), "parity")) {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

// TestFull: a snapshot that ran full is not shown as anything else.
func TestFull(t *testing.T) {
	f := raidtest.Load(t, "lvm-snap")
	lv := lvOf(t, read(t, f.Disks...)[0], "full")
	if lv.Device != nil || !lv.Visible || lv.Type != "snapshot" || !strings.Contains(lv.Reason, "ran full") {
		t.Errorf("%+v", lv)
	}
}

// TestHidden: what the user did not make is not visible, and pools are marked.
func TestHidden(t *testing.T) {
	f := raidtest.Load(t, "lvm-thin")
	var visible, pools []string
	for _, lv := range read(t, f.Disks...)[0].LVs {
		if lv.Visible {
			visible = append(visible, lv.Name)
		}
		if lv.Pool {
			pools = append(pools, lv.Name)
			if lv.Device != nil || lv.Reason == "" {
				t.Errorf("pool %+v", lv)
			}
		}
	}
	if got := strings.Join(visible, " "); got != "pool thin1 huge snap1 snap2 origin ext" {
		t.Errorf("visible: %s", got)
	}
	if got := strings.Join(pools, " "); got != "pool" {
		t.Errorf("pools: %s", got)
	}
	// The volume that is larger than everything is read where it was written.
	huge := lvOf(t, read(t, f.Disks...)[0], "huge")
	buf := make([]byte, 16)
	if _, err := huge.Device.ReadAt(buf, 200000001*4096); err != nil || string(buf) != "huge    bebc201\n" || huge.Size != 2<<40 {
		t.Errorf("%q, %v, %d bytes", buf, err, huge.Size)
	}
	_, n, err := huge.Device.Place(1 << 30)
	if err != nil || n < 100<<30 {
		t.Errorf("a hole of %d bytes, %v", n, err)
	}
}

func TestMapperName(t *testing.T) {
	if got := MapperName("my-vg", "a-b--c"); got != "my--vg-a--b----c" {
		t.Error(got)
	}
}
