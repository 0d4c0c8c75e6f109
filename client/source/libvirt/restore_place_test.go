package libvirt

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
)

// redefine changes the definition of the machine, which is not that of the point.
func (b *bench) redefine(old, new string) {
	b.t.Helper()
	d := b.h.domains[b.dom.UUID]
	if !strings.Contains(d.xml, old) {
		b.t.Fatalf("%q is not in %s", old, d.xml)
	}
	d.xml = strings.Replace(d.xml, old, new, 1)
}

// TestInPlaceDevice: a disk on a block device is written there, once.
func TestInPlaceDevice(t *testing.T) {
	b := newBench(t)
	file := b.dir + "/device"
	b.put(file, strings.Repeat("x", 2<<20))
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup (it needs root, and the package mount): %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "--detach", dev).Run()
	b.redefine(`type="file" device="disk"><driver name="qemu" type="raw"/><source file="`+b.r.images+`/web-vda"`, `type="block" device="disk"><driver name="qemu" type="qcow2"/><source dev="`+dev+`"`)
	before := b.tree()
	b.h.domains[b.dom.UUID].state = rpc.StateRunning
	if _, err := b.r.StopMachine(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil || len(b.notes()) != 1 {
		t.Fatal(err, b.notes())
	}
	if w := j.Warnings(); len(w) == 0 || !strings.Contains(w[0].Text, dev) || j.Paths()["vda"] != dev {
		t.Errorf("%v, %v", w, j.Paths())
	}
	if err := b.write(j); err != nil {
		t.Fatal(err)
	}
	if n := b.notes(); len(n) != 0 {
		t.Errorf("%v: a machine would be started on a device that is half written", n)
	}
	if err := j.Commit(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dev)
	if err != nil || !bytes.Equal(got[:1<<20], b.wanted["vda"]) || got[1<<20] != 'x' {
		t.Error("the device does not hold the disk, or what was behind it is gone", err)
	}
	now, _ := domxml.Parse([]byte(b.h.domains[b.dom.UUID].xml))
	if d, _ := now.Disk("vda"); d.Path != dev || d.Format != "raw" || d.Type != "block" {
		t.Errorf("%+v", d)
	}
	if b.tree()["images/web-vda"] != before["images/web-vda"] {
		t.Error("the file where the disk was is changed")
	}
}

// TestInPlaceElsewhere: disks of a machine that has changed since.
func TestInPlaceElsewhere(t *testing.T) {
	b := newBench(t)
	// vda is on a network now, vdb in a pool, vdc was taken out, vdd is new.
	b.redefine(`type="file" device="disk"><driver name="qemu" type="raw"/><source file="`+b.r.images+`/web-vda"/>`, `type="network" device="disk"><driver name="qemu" type="raw"/><source protocol="rbd" name="p/web"/>`)
	b.redefine(`type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="`+b.r.images+`/web-vdb"/>`, `type="volume" device="disk"><driver name="qemu" type="qcow2"/><source pool="p" volume="v"/>`)
	b.redefine(`<source file="`+b.r.images+`/web-vdc"/><target dev="vdc"`, `<source file="`+b.r.images+`/other"/><target dev="vdd"`)
	b.put(b.r.images+"/volume", "old volume")
	b.put(b.r.images+"/other", "other")
	b.h.volumes["p/v"] = b.r.images + "/volume"
	before := b.tree()
	if _, err := b.r.PrepareRestore(t.Context(), b.spec); !errors.Is(err, source.ErrTargetExists) || !strings.Contains(err.Error(), "web-vdc") {
		t.Fatalf("the file of a disk that was taken out: %v", err)
	}
	if after := b.tree(); !maps.Equal(before, after) {
		t.Errorf("left: %v", after)
	}
	os.Remove(b.r.images + "/web-vdc")
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.write(j), j.Commit(t.Context(), false)); err != nil {
		t.Fatal(err)
	}
	b.same(b.r.images+"/web-vda.qcow2", "qcow2", "vda")
	b.same(b.r.images+"/volume", "qcow2", "vdb")
	b.same(b.r.images+"/web-vdc", "qcow2", "vdc")
	after := b.tree()
	if after["images/other"] != "other" || after["images/web-vda"] != "old vda" {
		t.Error("a disk that is not part of the point was changed")
	}
	now, _ := domxml.Parse([]byte(b.h.domains[b.dom.UUID].xml))
	for target, want := range map[string]string{"vda": b.r.images + "/web-vda.qcow2", "vdb": "volume v of pool p", "vdc": b.r.images + "/web-vdc", "vdd": b.r.images + "/other"} {
		if d, _ := now.Disk(target); d.Where() != want {
			t.Errorf("%s is %s, want %s", target, d.Where(), want)
		}
	}
}

// TestNewFromElsewhere: disks that were no files become some; excluded ones go.
func TestNewFromElsewhere(t *testing.T) {
	b := newBench(t)
	xml := string(b.spec.Definition)
	xml = strings.Replace(xml, `type="file" device="disk"><driver name="qemu" type="raw"/><source file="`+b.r.images+`/web-vda"/>`, `type="block" device="disk"><driver name="qemu" type="raw"/><source dev="/dev/vg/web"/>`, 1)
	b.spec.Definition, b.spec.Disks[0].Path = []byte(xml), "/dev/vg/web"
	b.spec.Disks = b.spec.Disks[:2]
	b.spec.New = &source.NewMachine{Title: "copy"}
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Abort()
	if p := j.Paths(); len(p) != 2 || p["vda"] != b.r.images+"/copy-vda.qcow2" {
		t.Error(p)
	}
	texts := ""
	for _, w := range j.Warnings() {
		texts += w.Text + "\n"
	}
	for _, want := range []string{"/dev/vg/web", "disk vdc"} {
		if !strings.Contains(texts, want) {
			t.Errorf("%q is not in %s", want, texts)
		}
	}
	if _, err := j.Disk(t.Context(), "vdc"); err == nil {
		t.Error("a writer of a disk that is not part of the point")
	}
	if err := j.Commit(t.Context(), false); err == nil || !strings.Contains(err.Error(), "vda") {
		t.Errorf("a commit without disks: %v", err)
	}
}
