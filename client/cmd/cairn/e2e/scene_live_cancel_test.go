//go:build e2e

package e2e

import (
	"testing"

	"cairn/client/source/guesttest"
)

// cairn job cancel while the guest gets ready for its freeze, and in the middle of
// the transfer.
func TestLiveCancel(t *testing.T) {
	l := newLive(t)
	l.newGate()
	dir := guesttest.Dir(t)
	m := l.domain(guesttest.Spec{Name: "cancel", Write: "vda", Hook: guesttest.HookOK, Drives: []guesttest.Drive{
		guesttest.Disk(t, dir+"/a.qcow2", "qcow2", 96<<20, guesttest.DiskOptions{Random: 1}),
	}})
	l.startAgent()
	l.protect(m.name)
	pulse := l.pulse(m)
	l.steadyBackup(m, "vda")
	for _, phase := range []struct {
		name   string
		cancel func() job
	}{
		{"in a slow freeze", func() job {
			m.Must("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=12 && sync /mnt/vda/big")
			freezes := calls(m, "freeze")
			l.slowHook(m)
			j := l.begun(m)
			l.awaitHook(m, "freeze", freezes)
			l.cairn("job", "cancel", last(j.Name))
			l.lastWord(m)
			return j
		}},
		{"in the transfer", func() job {
			m.Must("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=12 && sync /mnt/vda/big")
			h := l.hold("UploadBlocks", false, 2)
			j := l.begun(m)
			l.reach(h)
			l.cairn("job", "cancel", last(j.Name))
			return j
		}},
	} {
		points := len(l.points(m.name))
		j := l.end(phase.cancel())
		if j.State != "JOB_STATE_CANCELLED" {
			t.Errorf("cancelled %s: %v", phase.name, j)
		}
		if now := len(l.points(m.name)); now != points {
			t.Errorf("cancelled %s: %d points, there were %d", phase.name, now, points)
		}
		l.nothingLeft(m, 1)
		l.unharmed(m, pulse, "vda")
		l.json(&j, "job", "retry", last(j.Name), "--wait")
		if j.State != "JOB_STATE_COMPLETED" {
			t.Errorf("retry of what was cancelled %s: %v, %+v", phase.name, j, j.Warnings)
		}
		l.incremental(j)
		l.consistent(j.RecoveryPoint, m.class)
		l.checkDisk(j.RecoveryPoint, "vda", 0, m.Synced("vda")+1)
		l.nothingLeft(m, 1)
		proved(t, "cairn job cancel %s leaves nothing; its retry is incremental and right", phase.name)
	}
	l.unharmed(m, pulse, "vda")
}
