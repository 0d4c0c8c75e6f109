package mount

import (
	"strings"
	"testing"
)

func TestParseIDRange(t *testing.T) {
	for s, want := range map[string]IDRange{
		"1000:501":           {1000, 501, 1},
		"0:100000:65536":     {0, 100000, 65536},
		"4294967294:0":       {4294967294, 0, 1},
		"0:0:4294967295":     {0, 0, 4294967295},
		"1000:4294967290:5":  {1000, 4294967290, 5},
		"65534:65534:000001": {65534, 65534, 1},
	} {
		if got, err := ParseIDRange(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for s, want := range map[string]string{
		"":                     "must be GUEST:HOST",
		"1000":                 "must be GUEST:HOST",
		"1:2:3:4":              "must be GUEST:HOST",
		"root:0":               `"root" is not a number`,
		"-1:0":                 `"-1" is not a number`,
		"1:4294967296":         `"4294967296" is not a number`,
		"1:":                   `"" is not a number`,
		"4294967295:0":         "beyond the largest id",
		"0:4294967290:6":       "beyond the largest id",
		"1:1:0":                "must be 1 at least",
		"1:1:4294967295":       "beyond the largest id",
		"1000:501:1:group":     "must be GUEST:HOST",
		" 1000:501":            "is not a number",
		"1000:501:99999999999": "is not a number",
	} {
		if got, err := ParseIDRange(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", s, got, err, want)
		}
	}
}

func TestIDMapsThatContradict(t *testing.T) {
	for want, o := range map[string]Options{
		"map user ids: 0:5:10 and 9:0:1 both say what 9 is": {UIDs: []IDRange{{9, 0, 1}, {0, 5, 10}}},
		"map group ids: 7:1:1 and 7:1:1 both say what 7 is": {GIDs: []IDRange{{7, 1, 1}, {7, 1, 1}}},
		"single ids cannot be mapped as well":               {MapOwner: true, GIDs: []IDRange{{7, 1, 1}}},
		"map user ids: 1:1:0: the count must be 1 at least": {UIDs: []IDRange{{1, 1, 0}}},
	} {
		if err := o.CheckIDs(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o, err, want)
		}
	}
	o := Options{UIDs: []IDRange{{10, 0, 10}, {0, 100, 10}}}
	if err := o.CheckIDs(); err != nil {
		t.Errorf("neighbours: %v", err)
	}
}

// Ids are shown as they are asked for, in owners and in access control lists,
// and a copy that rsync makes has them.
func TestMappedIDs(t *testing.T) {
	needTool(t, "getfacl", "acl")
	needTool(t, "rsync", "rsync")
	fs := testFS()
	// u:rwx, u:4242:r--, u:7:r--, g:r--, g:4243:-w-, mask:rwx, o:---
	acl := []byte("\x02\x00\x00\x00" +
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x07\x00\x00\x00" + "\x02\x00\x04\x00\x92\x10\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x08\x00\x02\x00\x93\x10\x00\x00" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")
	one := fs.Get("/etc/one")
	one.Mode, one.UID, one.GID = one.Mode&^0o777|0o770, 4250, 4251
	one.Xattrs["system.posix_acl_access"] = acl
	fs.File("/etc/broken", "").Xattrs = map[string][]byte{"system.posix_acl_access": acl[:len(acl)-1]}
	opts := Options{
		UIDs: []IDRange{{4242, 100, 1}, {4250, 501, 1}},
		GIDs: []IDRange{{4243, 7000, 100}},
	}
	_, dir := mountPoint(t, testPoint(nil), fs, opts)
	g := dir + "/volumes/vda"
	if got := sh(t, `stat -c %u:%g "$1/etc/shadow" "$1/etc/one" "$1/etc/hostname"; getfacl -nEcp "$1/etc/one"`, g); got !=
		"100:7000\n501:7008\n0:0\nuser::rwx\nuser:7:r--\nuser:100:r--\ngroup::r--\ngroup:7000:-w-\nmask::rwx\nother::---\n\n" {
		t.Errorf("shown are %q", got)
	}
	if got := sh(t, `getfattr -n system.posix_acl_access "$1/etc/broken" 2>&1 || true`, g); !strings.Contains(got, "Input/output error") {
		t.Errorf("a broken list: %s", got)
	}
	dest := t.TempDir()
	sh(t, `rsync -aHAX --exclude=broken "$1/etc/" "$2/"`, g, dest)
	if got := sh(t, `stat -c %u:%g "$1/shadow" "$1/one"; getfacl -nEcp "$1/one" | grep -e :100: -e :7000:`, dest); got != "100:7000\n501:7008\nuser:100:r--\ngroup:7000:-w-\n" {
		t.Errorf("rsync made %q", got)
	}
	if string(one.Xattrs["system.posix_acl_access"]) != string(acl) {
		t.Error("the guest's own list was changed")
	}
}
