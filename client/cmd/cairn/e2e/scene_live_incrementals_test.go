//go:build e2e

package e2e

import (
	"encoding/xml"
	"strings"
	"testing"

	"cairn/client/source/guesttest"
)

// A domain of libvirt that writes on two disks all the time: its initial backup,
// and three incrementals.
func TestLiveIncrementals(t *testing.T) {
	l := newLive(t)
	dir := guesttest.Dir(t)
	m := l.domain(guesttest.Spec{Name: "web", Write: "all", Drives: []guesttest.Drive{
		guesttest.Disk(t, dir+"/a.qcow2", "qcow2", 256<<20, guesttest.DiskOptions{Random: 1}),
		guesttest.Disk(t, dir+"/b.qcow2", "qcow2", 64<<20, guesttest.DiskOptions{Random: 2, Bus: guesttest.VirtioSCSI}),
	}})
	l.startAgent()
	l.protect(m.name)
	pulse := l.pulse(m)
	first := l.steadyBackup(m, "vda", "sda")
	if first.Stats.ReadBytes < 256<<20 {
		t.Errorf("the initial backup read %d bytes", first.Stats.ReadBytes)
	}
	proved(t, "initial backup of a guest that writes on two disks: %d MiB, frozen for %s, consistent, clean journals, every synced file whole", first.Stats.ReadBytes>>20, first.Stats.Frozen)
	for n := range 3 {
		m.WaitSynced(l.limit(), "vda", m.Synced("vda")+20)
		least := l.dirtyBytes(m)
		j := l.steadyBackup(m, "vda", "sda")
		l.incremental(j)
		if least == 0 || j.Stats.TrackedBytes < least {
			t.Errorf("%v says that %d bytes had changed; before it, libvirt said %d", j, j.Stats.TrackedBytes, least)
		}
		l.nothingLeft(m, 1)
		proved(t, "incremental %d read %d KiB for %d KiB that changed; libvirt counted %d KiB before; frozen for %s", n+1,
			j.Stats.ReadBytes>>10, j.Stats.TrackedBytes>>10, least>>10, j.Stats.Frozen)
	}
	l.unharmed(m, pulse, "vda", "sda")
	if l.frozen(m) {
		t.Error("the guest is frozen")
	}
	// The journal says how long the guest was frozen to a person, too.
	if show := l.cairn("job", "show", last(first.Name)); !strings.Contains(show, "frozen: ") {
		t.Errorf("cairn job show does not tell of the freeze:\n%s", show)
	}
	l.agent.stop()
	l.nothingLeft(m, 1)
	proved(t, "the guest ran all the time, its clock did not jump, and nothing but the newest checkpoint is left")
}

// dirtyBytes asks libvirt how much has changed since our checkpoint, on all disks.
func (l *live) dirtyBytes(m *vm) (sum int64) {
	l.Helper()
	list := l.checkpoints(m)
	if len(list) != 1 {
		l.Fatalf("checkpoints: %q, must be one", list)
	}
	var checkpoint struct {
		Disks []struct {
			Size int64 `xml:"size,attr"`
		} `xml:"disks>disk"`
	}
	l.must(xml.Unmarshal([]byte(m.dom.Virsh("checkpoint-dumpxml", "--size", "--no-domain", m.name, list[0])), &checkpoint))
	for _, d := range checkpoint.Disks {
		sum += d.Size
	}
	return sum
}
