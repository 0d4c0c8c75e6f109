//go:build e2e

package e2e

import (
	"testing"

	"cairn/client/source/guesttest"
)

// A machine that no libvirt manages: its initial backup and an incremental, while
// it writes on two disks all the time.
func TestLiveQEMU(t *testing.T) {
	l := newLive(t)
	dir := guesttest.Dir(t)
	m := l.plain("web1", guesttest.Spec{Write: "all", Drives: []guesttest.Drive{
		guesttest.Disk(t, dir+"/a.qcow2", "qcow2", 96<<20, guesttest.DiskOptions{Random: 1}),
		guesttest.Disk(t, dir+"/b.qcow2", "qcow2", 64<<20, guesttest.DiskOptions{Random: 2, Bus: guesttest.VirtioSCSI}),
	}})
	l.startAgent()
	l.protect(m.name)
	pulse := l.pulse(m)
	first := l.steadyBackup(m, "vda", "sda")
	if first.Stats.ReadBytes < 96<<20 {
		t.Errorf("the initial backup read %d bytes", first.Stats.ReadBytes)
	}
	m.WaitSynced(l.limit(), "sda", m.Synced("sda")+20)
	second := l.steadyBackup(m, "vda", "sda")
	l.incremental(second)
	l.unharmed(m, pulse, "vda", "sda")
	l.nothingLeft(m, 1)
	proved(t, "plain QEMU: initial backup of %d MiB, an incremental read %d KiB for %d KiB that changed; frozen %s and %s",
		first.Stats.ReadBytes>>20, second.Stats.ReadBytes>>10, second.Stats.TrackedBytes>>10, first.Stats.Frozen, second.Stats.Frozen)
}
