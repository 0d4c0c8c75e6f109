package lvm2

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cairn/mount/filesys"
)

func TestConfig(t *testing.T) {
	s, err := parseConfig("# a comment\na = 1 b=-2\nc = \"x\\\"y\\\\z\" # another\nd = []\ne=[ 1, \"two\" ,3,]\nf { g { h = 4 } }\x00\x00")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.number("a", 10); n != 1 || err != nil {
		t.Error(n, err)
	}
	if _, err := s.number("b", 10); !errors.Is(err, filesys.ErrCorrupt) {
		t.Error("a negative number")
	}
	if _, err := s.number("c", 10); err == nil {
		t.Error("a string as a number")
	}
	if got := s.str("c"); got != `x"y\z` {
		t.Error(got)
	}
	if got := s.find("d").list; len(got) != 0 {
		t.Error(got)
	}
	if got := fmt.Sprint(s.find("e").list); got != "[{ 1 true} {two 0 false} { 3 true}]" {
		t.Error(got)
	}
	if n, err := s.sub("f").sub("g").number("h", 4); n != 4 || err != nil {
		t.Error(n, err)
	}
	if n, err := s.optional("none", 4, 7); n != 7 || err != nil {
		t.Error(n, err)
	}
	if !s.has("e", "two") || s.has("e", "three") || s.has("none", "two") {
		t.Error("has")
	}
	for _, bad := range []string{
		"a", "a =", "a = [", "a = [1", `a = "`, `a = "x`, "a {", "a { b = 1", "}", "= 1", "a = b", "a = 99999999999999999999", "a = [[1]]",
		strings.Repeat("a {", 1000), "a = \"\\", "{}", "a = 1 = 2", "a { } }",
	} {
		if _, err := parseConfig(bad); !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	for _, large := range []string{strings.Repeat("a=1 ", maxEntries+1), "a=[" + strings.Repeat("1,", maxValues+1) + "]"} {
		if _, err := parseConfig(large); !errors.Is(err, filesys.ErrUnsupported) {
			t.Errorf("%.20q: %v", large, err)
		}
	}
}

// groupText makes the text of a group with one PV and these volumes.
func groupText(lvs string) string {
	return `vg { id = "cCVUGu-ND1i-9hHb-DowI-iYiq-Rx63-CXC904" seqno = 1 extent_size = 128
physical_volumes { pv0 { id = "pIGNnP-B7Tf-5nLg-3967-BBWP-TIXq-WoMDHv" dev_size = 32768 pe_start = 2048 pe_count = 200 } }
logical_volumes { ` + lvs + ` } } contents = "Text Format Volume Group" version = 1`
}

// lvText makes the text of a volume with one segment.
func lvText(name string, extents int, rest string) string {
	return fmt.Sprintf("%s { id = \"x\" status = [\"VISIBLE\"] segment_count = 1 segment1 { start_extent = 0 extent_count = %d %s } }\n", name, extents, rest)
}

// TestRefused: volumes that cannot be read say why.
func TestRefused(t *testing.T) {
	linear := func(pv string, start int) string {
		return fmt.Sprintf(`type = "striped" stripe_count = 1 stripes = [ "%s", %d ]`, pv, start)
	}
	nested := lvText("a0", 1, linear("pv0", 0))
	for i := range 40 {
		nested += lvText(fmt.Sprint("a", i+1), 1, linear(fmt.Sprint("a", i), 0))
	}
	raids := lvText("r0", 1, linear("pv0", 0))
	for i := range 4 {
		raids += lvText(fmt.Sprint("r", i+1), 1, fmt.Sprintf(`type = "mirror" mirror_count = 2 mirrors = [ "r%d", 0, "r%d", 0 ]`, i, i))
	}
	for _, test := range []struct{ name, lvs, lv, reason string }{
		{"itself", lvText("a", 1, linear("b", 0)) + lvText("b", 1, linear("a", 0)), "a", "made of itself"},
		{"nested", nested, "a40", "nested too deeply"},
		{"raids", raids, "r4", "raids inside of each other"},
		{"no such volume", lvText("a", 1, linear("b", 0)), "a", "no volume b"},
		{"beyond the PV", lvText("a", 2, linear("pv0", 199)), "a", "extents 199 to 201"},
		{"beyond a volume", lvText("b", 2, linear("pv0", 0)) + lvText("a", 2, linear("b", 1)), "a", "beyond its end"},
		{"vdo", lvText("a", 1, `type = "vdo"`), "a", `type "vdo"`},
		{"writecache", lvText("a", 1, `type = "writecache"`), "a", `type "writecache"`},
		{"integrity", lvText("a", 1, `type = "integrity"`), "a", `type "integrity"`},
		{"flagged", lvText("a", 1, `type = "new+THING"`), "a", `type "new+THING"`},
		{"stripes", lvText("a", 3, `type = "striped" stripe_count = 2 stripe_size = 8 stripes = ["pv0", 0, "pv0", 9]`), "a", "does not divide"},
		{"stripe size", lvText("a", 2, `type = "striped" stripe_count = 2 stripe_size = 0 stripes = ["pv0", 0, "pv0", 9]`), "a", "chunk size 0"},
		{"thin", lvText("a", 2, `type = "thin" thin_pool = "p" device_id = 1`), "a", "no such pool"},
		{"raid", lvText("a", 2, `type = "raid5" device_count = 3 stripe_size = 8 raids = ["m","i"]`), "a", "as many volumes"},
		{"cache", lvText("o", 2, linear("pv0", 0)) + lvText("a", 2, `type = "cache" origin = "o" cache_pool = "p" cache_mode = "writeback"`), "a", `no volume "p"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			vgs := onText(t, groupText(test.lvs))
			if len(vgs) != 1 {
				t.Fatal("no group")
			}
			if lv := lvOf(t, vgs[0], test.lv); lv.Device != nil || !strings.Contains(lv.Reason, test.reason) {
				t.Errorf("device %v, reason %q", lv.Device, lv.Reason)
			}
		})
	}
	for _, bad := range []string{
		"", "a = 1", "a { } b { }", "vg { }", strings.Replace(groupText(""), "128", "0", 1), strings.Replace(groupText(""), "seqno", "number", 1),
		groupText(lvText("a", 0, "")), groupText("a = 1"), groupText(lvText("a", 1, "") + lvText("a", 1, "")),
		groupText(`a { segment_count = 2 segment1 { start_extent = 0 extent_count = 1 } }`),
		groupText(`a { segment_count = 1 segment1 { start_extent = 1 extent_count = 1 } }`),
		strings.Replace(groupText(""), "pe_start = 2048", "pe_start = 99999999999999999", 1),
	} {
		s, err := parseConfig(bad)
		if err == nil {
			_, err = parseGroup(s)
		}
		if !errors.Is(err, filesys.ErrCorrupt) {
			t.Errorf("%.30q: %v", bad, err)
		}
	}
}

// TestSegments: error and zero segments are read as what they are.
func TestSegments(t *testing.T) {
	vg := onText(t, groupText(lvText("z", 2, `type = "zero"`)+lvText("e", 2, `type = "error"`)))[0]
	buf := []byte{1, 2, 3}
	if n, err := lvOf(t, vg, "z").Device.ReadAt(buf, 1000); n != 3 || err != nil || buf[2] != 0 {
		t.Error(n, err, buf)
	}
	p, n, err := lvOf(t, vg, "z").Device.Place(1000)
	if p.Disk != -1 || n != 2<<16-1000 || err != nil {
		t.Error(p, n, err)
	}
	if _, err := lvOf(t, vg, "e").Device.ReadAt(buf, 1000); !errors.Is(err, filesys.ErrCorrupt) {
		t.Error(err)
	}
}

// TestSplit: a leg of a mirror that the user was given is not read with the others.
func TestSplit(t *testing.T) {
	hidden := func(name string, pe int) string {
		return strings.Replace(lvText(name, 1, fmt.Sprintf(`type = "striped" stripe_count = 1 stripes = [ "pv0", %d ]`, pe)), "VISIBLE", "READ", 1)
	}
	split := strings.Replace(hidden("i0", 1), "READ", "VISIBLE", 1)
	vg := onText(t, groupText(hidden("m0", 0)+split+hidden("m1", 2)+hidden("i1", 3)+
		lvText("a", 1, `type = "raid1" device_count = 2 region_size = 8 raids = [ "m0", "i0", "m1", "i1" ]`)))[0]
	lv := lvOf(t, vg, "a")
	if lv.Device == nil || !strings.Contains(fmt.Sprint(lv.Warnings), "leg 0 of the raid1 is not read: it was split off") {
		t.Fatalf("%+v", lv)
	}
	p, _, err := lv.Device.Place(0)
	if want := int64(2048*512 + 3*128*512); err != nil || p.Off != want {
		t.Errorf("place %v, %v", p, err)
	}
}
