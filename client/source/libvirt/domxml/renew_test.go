package domxml

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// renewed makes a new machine of a definition, as a restore does: without the
// last disk if there are more than four. Everything random is the same each time.
func renewed(t testing.TB, d *Domain) []string {
	t.Helper()
	var notices []string
	held := 0
	for _, k := range d.Disks() {
		switch {
		case k.Removable():
		case held == 5:
			d.RemoveDisk(k.Target)
		default:
			held++
			format := "qcow2"
			if k.Format == "raw" && k.Type == "file" {
				format = "raw"
			}
			n, err := d.SetDisk(k.Target, Place{Path: "/var/lib/libvirt/images/copy-" + k.Target + "." + format, Format: format})
			if err != nil {
				t.Fatal(err)
			}
			notices = append(notices, n...)
		}
	}
	id := Identity{Name: "copy", UUID: uuid.MustParse("0c0ffee0-0000-4000-8000-000000000001"), Rand: rand.NewChaCha8([32]byte{1}),
		Exists: func(p string) bool { return !strings.HasPrefix(p, "/no/") }}
	if d.Firmware().UEFI() {
		id.NVRAM = "/var/lib/libvirt/qemu/nvram/copy_VARS.fd"
	}
	n, err := d.Renew(id)
	if err != nil {
		t.Fatal(err)
	}
	return append(notices, n...)
}

// definitions are the names of the definitions in testdata.
func definitions(t testing.TB) []string {
	names, err := filepath.Glob("testdata/*.xml")
	if err != nil || len(names) < 8 {
		t.Fatal(names, err)
	}
	return names
}

func parsed(t testing.TB, name string) *Domain {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestRenew compares with golden files; read their differences before -update.
func TestRenew(t *testing.T) {
	for _, name := range definitions(t) {
		d := parsed(t, name)
		before := d.Clone()
		notices := renewed(t, d)
		got := append(d.Bytes(), "\n"+strings.Join(notices, "\n")+"\n"...)
		golden := strings.TrimSuffix(name, ".xml") + ".golden"
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v, got:\n%s", name, err, got)
		}
		for _, i := range before.Interfaces() {
			for _, n := range d.Interfaces() {
				if i.MAC == n.MAC {
					t.Errorf("%s: both have the address %s", name, i.MAC)
				}
			}
		}
	}
}

// TestUntouched: what is not rewritten says the same as before, whatever it is.
func TestUntouched(t *testing.T) {
	for _, name := range definitions(t) {
		d := parsed(t, name)
		once := d.Bytes()
		again, err := Parse(once)
		if err != nil || !bytes.Equal(once, again.Bytes()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	const odd = `<domain type="x" xmlns:a="urn:a"><!-- <c> -- no --><name>n</name><a:name>other</a:name><devices><a:disk/></devices><a:x a:y="&#10;&quot;'&lt;"> t &amp; &#13; </a:x></domain>`
	_, err := Parse([]byte(odd))
	if !errors.Is(err, ErrMalformed) { // "--" in a comment is none of XML
		t.Error(err)
	}
	plain := strings.Replace(odd, "-- no ", "", 1)
	d, err := Parse([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(d.Bytes()); !strings.Contains(got, `<a:x a:y="&#xA;&quot;'&lt;"> t &amp; &#xD; </a:x>`) || !strings.Contains(got, "<a:name>other</a:name>") || !strings.Contains(got, "<!-- <c> -->") {
		t.Error(got)
	}
}

func TestRead(t *testing.T) {
	d := parsed(t, "testdata/scsi.xml")
	var where []string
	for _, k := range d.Disks() {
		where = append(where, k.Target+"="+k.Where())
	}
	want := []string{"vda=/dev/vg0/db-root", "sda=rbd:pool/db-data", "sdb=/dev/disk/by-id/scsi-360", "sdc=volume db-log.qcow2 of pool default", "sdd=/var/lib/libvirt/images/db-secret.qcow2", "sde=/var/lib/libvirt/images/db-temp.img"}
	if !slices.Equal(where, want) {
		t.Error(where)
	}
	if k, _ := d.Disk("sdd"); !k.Encrypted || k.Bus != "scsi" {
		t.Error(k)
	}
	if d.Memory() != 512<<20 || d.VCPUs() != 4 || d.Name() != "db" || d.UUID() != "a1b2c3d4-0001-4002-8003-000000000005" || d.Type() != "kvm" || d.GenID() {
		t.Error(d.Memory(), d.VCPUs(), d.Name(), d.UUID())
	}
	if c := d.Controllers(); len(c) != 1 || c[0] != (Controller{"scsi", "0", "virtio-scsi"}) {
		t.Error(c)
	}
	d = parsed(t, "testdata/virt-manager.xml")
	if k, _ := d.Disk("vda"); !slices.Equal(k.Backings, []string{"/var/lib/libvirt/images/debian12.qcow2"}) || !d.AgentChannel() || d.Firmware().UEFI() {
		t.Error(k)
	}
	d = parsed(t, "testdata/secureboot.xml")
	if f := d.Firmware(); f.NVRAM != "/var/lib/libvirt/qemu/nvram/win11_VARS.fd" || f.Template != "/usr/share/OVMF/OVMF_VARS_4M.ms.fd" || !f.UEFI() || d.TPM() != "2.0" || !d.GenID() || d.AgentChannel() {
		t.Error(f)
	}
	if i := d.Interfaces(); len(i) != 1 || i[0] != (Interface{"user", "e1000e", "00:16:3e:11:22:33"}) {
		t.Error(i)
	}
	if h := parsed(t, "testdata/hostdev.xml").HostDevices(); !slices.Equal(h, []string{"PCI device 0000:3b:00.1", "USB device 0x1050:0x0407"}) {
		t.Error(h)
	}
	if d := parsed(t, "testdata/commandline.xml"); d.UUID() != "a1b2c3d4-0001-4002-8003-000000000007" {
		t.Error(d.UUID())
	}
	if f := parsed(t, "testdata/autoefi.xml").Firmware(); f.Auto != "efi" || !f.UEFI() {
		t.Error(f)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"": "0 elements",
		"<domain><name>a</name></domain><domain/>":                               "2 elements",
		"<network><name>a</name></network>":                                      "<domain>",
		"<domain/>":                                                              "<name>",
		"<domain><name>a</domain>":                                               "line 1",
		"<domain><name>&b;</name></domain>":                                      "entity",
		"<!DOCTYPE d [<!ENTITY b 'c'>]><domain><name>&b;</name></domain>":        "document type",
		"<domain><name>a</name><uuid>b</uuid></domain>":                          `"b"`,
		"<domain type='a' type='b'><name>a</name></domain>":                      "twice",
		"<domain><name>a</name></domain>x":                                       "outside",
		"<domain><name>a</name><devices><disk/></devices></domain>":              "target",
		strings.Repeat("<domain>", 65):                                           "deep",
		"<domain><name>" + strings.Repeat("a", 4<<20) + "</name></domain>":       "bytes",
		"<?xml version='1.0' encoding='latin1'?><domain><name>a</name></domain>": "latin1",
		"<domain><name>\xff</name></domain>":                                     "UTF-8",
		"<domain><name>a</name><devices><disk><target dev='a'/></disk><disk><target dev='a'/></disk></devices></domain>": `"a"`,
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

func TestInstantDisk(t *testing.T) {
	d := parsed(t, "testdata/transient.xml")
	notices, err := d.SetDisk("vda", Place{Path: "/x.qcow2", Format: "qcow2", Backing: &NBD{Socket: "/run/s", Export: "vda", Reconnect: 90e9}})
	if err != nil || len(notices) != 1 {
		t.Error(notices, err)
	}
	d.PauseOnError("vda")
	want := `<disk type="file" device="disk"><driver name="qemu" type="qcow2" error_policy="stop" rerror_policy="stop"/><source file="/x.qcow2"/><backingStore type="network"><format type="raw"/><source protocol="nbd" name="vda"><host transport="unix" socket="/run/s"/><reconnect delay="90"/></source><backingStore/></backingStore><target dev="vda" bus="virtio"/></disk>`
	if got := string(d.Bytes()); !strings.Contains(got, want) || !slices.Equal(d.ReadsFrom("/run/s"), []string{"vda"}) {
		t.Error(got)
	}
	if _, err := d.SetDisk("vda", Place{Path: "/x.qcow2", Format: "qcow2"}); err != nil || len(d.ReadsFrom("/run/s")) > 0 {
		t.Error(err, string(d.Bytes()))
	}
	d.CopyErrorPolicy(parsed(t, "testdata/transient.xml"), "vda")
	if bytes.Contains(d.Bytes(), []byte("error_policy")) {
		t.Error(string(d.Bytes()))
	}
	if _, err := d.SetDisk("vdz", Place{}); err == nil {
		t.Error("no error")
	}
}

// FuzzRewrite: nothing crashes, and what comes out is read again.
func FuzzRewrite(f *testing.F) {
	for _, name := range definitions(f) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			return
		}
		once := d.Bytes()
		again, err := Parse(once)
		if err != nil || !bytes.Equal(again.Bytes(), once) {
			t.Fatalf("%v: %q becomes %q", err, b, once)
		}
		d.Memory()
		d.HostDevices()
		d.Controllers()
		renewed(t, d)
		after, err := Parse(d.Bytes())
		if err != nil || after.Name() != "copy" || after.UUID() != "0c0ffee0-0000-4000-8000-000000000001" {
			t.Fatalf("%v: %q", err, d.Bytes())
		}
	})
}
