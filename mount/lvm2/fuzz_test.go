package lvm2

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"time"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid/raidtest"
)

var fixtures = []string{"lvm-snap", "lvm-thin", "lvm-cache", "lvm-states", "lvm-deep"}

// repair makes checksums right again, so that damage gets behind them.
func repair(f *raidtest.Fixture, blocks []blockdev.Place) (undo func()) {
	type word struct {
		b   []byte
		old uint32
	}
	var words []word
	le := binary.LittleEndian
	set := func(b []byte, sum uint32) {
		if old := le.Uint32(b); old != sum {
			words = append(words, word{b, old})
			le.PutUint32(b, sum)
		}
	}
	for _, d := range f.Disks {
		l := d.Data[sectorSize:][:sectorSize]
		set(l[16:], crc(l[20:]))
		h := d.Data[4096:][:areaHeader]
		if string(h[4:20]) == areaMagic {
			off, n := le.Uint64(h[40:]), le.Uint64(h[48:])
			if off < 1<<20 && n < 1<<20 && off >= areaHeader {
				set(h[56:], crc(d.Data[4096+off:][:n]))
			}
			set(h, crc(h[4:]))
		}
	}
	for _, p := range blocks {
		b := f.Disks[p.Disk].Data[p.Off:][:4096]
		for _, kind := range []blockKind{thinSuper, cacheSuper, treeNode, arrayBlock} {
			// What was once right is made right again; which kind that was, the
			// fields tell that are not touched often.
			sum := ^crc32.Checksum(b[4:], castagnoli) ^ kind.salt
			switch {
			case kind == thinSuper && le.Uint64(b[32:]) != thinMagic, kind == cacheSuper && le.Uint64(b[32:]) != cacheMagic:
				continue
			case kind == treeNode && (le.Uint32(b[4:]) == 0 || le.Uint32(b[4:]) > 3 || le.Uint32(b[20:]) == 0 || le.Uint32(b[20:]) > 512):
				continue
			case kind == arrayBlock && (le.Uint32(b[12:]) != 8 || le.Uint32(b[4:]) != perArrayBlock):
				continue
			}
			set(b, sum)
		}
	}
	return func() {
		for i := len(words) - 1; i >= 0; i-- {
			le.PutUint32(words[i].b, words[i].old)
		}
	}
}

// exercise assembles what there is and reads all of it a little.
func exercise(t testing.TB, f *raidtest.Fixture) (devices int) {
	t.Helper()
	var pvs []*PV
	for _, d := range f.Disks {
		pv, err := Read(d.Device())
		if err != nil {
			if !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrWrongType) && !errors.Is(err, filesys.ErrUnsupported) {
				t.Fatalf("an error of no known kind: %v", err)
			}
			continue
		}
		pvs = append(pvs, pv)
	}
	for _, vg := range Assemble(pvs) {
		for i, lv := range vg.LVs {
			if i == 100 {
				break
			}
			if (lv.Device == nil) != (lv.Reason != "") {
				t.Fatalf("%s: device %v, reason %q", lv.Name, lv.Device, lv.Reason)
			}
			if lv.Device != nil {
				devices++
				raidtest.Exercise(t, f, lv.Device)
			}
		}
	}
	return devices
}

// TestDamage is the fuzzer's quick and blind sister.
func TestDamage(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, name := range append(fixtures, "lvm-raid") {
		f := raidtest.Load(t, name)
		blocks := f.Metadata()
		if n := exercise(t, f); n < 3 {
			t.Errorf("%s: %d volumes", name, n)
		}
		for range 60 {
			patches := make([]byte, 5*(1+random.IntN(20)))
			for i := range patches {
				patches[i] = byte(random.Uint32() >> random.IntN(8))
			}
			undo := f.Damage(blocks, patches)
			undoSums := repair(f, blocks)
			exercise(t, f)
			undoSums()
			undo()
		}
	}
}

// FuzzRead damages the metadata of the fixtures, with checksums made right again.
func FuzzRead(f *testing.F) {
	var loaded []*raidtest.Fixture
	var blocks [][]blockdev.Place
	for i, name := range fixtures {
		loaded = append(loaded, raidtest.Load(f, name))
		blocks = append(blocks, loaded[i].Metadata())
		f.Add(uint8(i), true, []byte{0, 0, 0, 0, 0})
		f.Add(uint8(i), false, []byte("0123456789abcde"))
	}
	f.Fuzz(func(t *testing.T, which uint8, sums bool, patches []byte) {
		i := int(which) % len(loaded)
		defer loaded[i].Damage(blocks[i], patches)()
		if sums {
			defer repair(loaded[i], blocks[i])()
		}
		exercise(t, loaded[i])
	})
}

// onText makes PVs of a group that has this text, with nothing on them.
func onText(t testing.TB, text string) []*VG {
	t.Helper()
	s, err := parseConfig(text)
	if err == nil {
		var g *group
		if g, err = parseGroup(s); err == nil {
			a := assembly{byID: map[string][]*PV{}}
			for i, p := range g.pvs {
				if i == 64 {
					break
				}
				a.byID[p.id] = []*PV{{UUID: p.id, label: label{uuid: p.id}, Device: &raidDisk{1 << 24}}}
			}
			vg := &VG{Name: g.name, UUID: g.id}
			a.fill(vg, g)
			return []*VG{vg}
		}
	}
	if !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrUnsupported) {
		t.Fatalf("an error of no known kind: %v", err)
	}
	return nil
}

// raidDisk is an empty disk.
type raidDisk struct{ zeros }

func (d *raidDisk) Place(off int64) (blockdev.Place, int64, error) {
	_, n, err := d.zeros.Place(off)
	return blockdev.Place{Disk: 0, Off: off}, n, err
}

// FuzzText makes groups of any text.
func FuzzText(f *testing.F) {
	linear := `type = "striped" stripe_count = 1 stripes = [ "pv0", 5 ]`
	for _, lvs := range []string{
		lvText("a", 2, linear),
		lvText("a", 2, `type = "striped" stripe_count = 2 stripe_size = 16 stripes = [ "pv0", 0, "pv0", 100 ]`),
		lvText("i0", 1, linear) + lvText("i1", 1, linear) + lvText("a", 1, `type = "raid0" stripe_count = 2 stripe_size = 8 raid0_lvs = [ "i0", "i1" ]`),
		lvText("m", 1, linear) + lvText("i", 1, linear) + lvText("a", 2, `type = "raid5_ls" device_count = 3 stripe_size = 8 raids = [ "m", "i", "m", "i", "m", "i" ]`),
		lvText("m", 1, linear) + lvText("i", 1, linear) + lvText("a", 1, `type = "raid10" data_copies = 2 device_count = 2 stripe_size = 8 raids = [ "m", "i", "m", "i" ]`),
		lvText("m", 1, linear) + lvText("a", 1, `type = "mirror" mirror_count = 2 region_size = 8 mirror_log = "m" mirrors = [ "pv0", 1, "m", 0 ]`),
		lvText("m", 1, linear) + lvText("d", 1, linear) + lvText("p", 1, `type = "thin-pool" metadata = "m" pool = "d" chunk_size = 128`) + lvText("a", 1, `type = "thin" thin_pool = "p" device_id = 1 external_origin = "d"`),
		lvText("o", 1, linear) + lvText("c", 1, linear) + lvText("s", 1, `type = "snapshot" chunk_size = 8 origin = "o" cow_store = "c"`),
		lvText("o", 1, linear) + lvText("c", 1, linear) + lvText("s", 1, `type = "cache" origin = "o" cache_pool = "c" cache_mode = "writethrough" metadata_start = 0 metadata_len = 64 data_start = 64 data_len = 64`),
		lvText("z", 9, `type = "zero"`) + lvText("e", 9, `type = "error"`),
	} {
		f.Add(groupText(lvs))
	}
	fix := &raidtest.Fixture{Disks: []*raidtest.Disk{{Data: make([]byte, 1<<24)}}}
	f.Fuzz(func(t *testing.T, text string) {
		for _, vg := range onText(t, text) {
			for i, lv := range vg.LVs {
				if i == 100 {
					break
				}
				if (lv.Device == nil) != (lv.Reason != "") {
					t.Fatalf("%s: device %v, reason %q", lv.Name, lv.Device, lv.Reason)
				}
				if lv.Device != nil {
					raidtest.Exercise(t, fix, lv.Device)
				}
			}
		}
	})
}
