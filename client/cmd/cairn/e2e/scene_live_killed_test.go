//go:build e2e

package e2e

import (
	"testing"
	"time"

	"cairn/client/source/guesttest"
)

// kill -9 of the agent in each phase of a backup in turn. The guest is thawed
// without it, the next agent removes what is left, and the next backup is
// right, and reads only what changed.
func TestLiveAgentKilled(t *testing.T) {
	l := newLive(t)
	l.newGate()
	dir := guesttest.Dir(t)
	m := l.domain(guesttest.Spec{Name: "killed", Write: "vda", Hook: guesttest.HookOK, Drives: []guesttest.Drive{
		guesttest.Disk(t, dir+"/a.qcow2", "qcow2", 128<<20, guesttest.DiskOptions{Random: 1}),
		guesttest.Disk(t, dir+"/b.qcow2", "qcow2", 32<<20, guesttest.DiskOptions{Random: 2, Bus: guesttest.VirtioSCSI}),
	}})
	l.startAgent()
	l.protect(m.name)
	l.steadyBackup(m, "vda")
	l.killedInEachPhase(m)
}

func (l *live) killedInEachPhase(m *vm) {
	l.Helper()
	for _, phase := range []struct {
		name  string
		point bool // it is there already
		kill  func() job
	}{
		{"before the freeze", false, func() (j job) {
			m.Must("kill -STOP $(pidof qemu-ga)")
			j = l.begun(m)
			l.killAgent()
			m.Must("kill -CONT $(pidof qemu-ga)")
			return j
		}},
		{"while the guest gets ready for the freeze", false, func() (j job) {
			freezes := calls(m, "freeze")
			l.slowHook(m)
			j = l.begun(m)
			l.awaitHook(m, "freeze", freezes)
			l.killAgent()
			l.lastWord(m) // now it freezes, for nobody
			return j
		}},
		{"while the guest is frozen", false, func() job {
			j := l.freezeAndStop(m)
			l.killAgent()
			return j
		}},
		{"between snapshot and thaw", false, func() (j job) {
			freezes, thaws := calls(m, "freeze"), calls(m, "thaw")
			l.slowHook(m)
			j = l.begun(m)
			l.awaitHook(m, "freeze", freezes)
			l.word(m)
			l.awaitHook(m, "thaw", thaws)
			l.killAgent()
			l.lastWord(m)
			return j
		}},
		{"after the snapshot, before the transfer", false, func() (j job) {
			h := l.hold("CreateUpload", false, 0)
			j = l.begun(m)
			l.reach(h)
			l.killAgent()
			return j
		}},
		{"in the middle of the transfer", false, func() (j job) {
			m.Must("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=12 && sync /mnt/vda/big")
			h := l.hold("UploadBlocks", false, 2)
			j = l.begun(m)
			l.reach(h)
			l.killAgent()
			return j
		}},
		{"between the commit and the end of the snapshot", true, func() (j job) {
			points := len(l.points(m.name))
			h := l.hold("CommitUpload", true, 0)
			j = l.begun(m)
			l.reach(h)
			if now := len(l.points(m.name)); now != points+1 {
				l.Errorf("there are %d points, must be %d", now, points+1)
			}
			l.killAgent()
			return j
		}},
	} {
		pulse, thaws := l.pulse(m), calls(m, "thaw")
		began := calls(m, "freeze")
		j := phase.kill()
		killed := time.Now()
		l.until("the guest is thawed without the agent", func() bool { return !l.frozen(m) && calls(m, "thaw")-thaws >= calls(m, "freeze")-began })
		if took := time.Since(killed); took > 15*time.Second {
			l.Errorf("killed %s: thawed only after %v", phase.name, took)
		}
		thawed := time.Since(killed)
		l.unharmed(m, pulse, "vda")
		l.startAgent()
		j = l.end(j)
		interrupted := j.State == "JOB_STATE_FAILED" && j.Error != nil && j.Error.Reason == "ERROR_REASON_INTERRUPTED" && j.Error.Remedy != ""
		if phase.point { // all that matters was done
			interrupted = j.State == "JOB_STATE_COMPLETED" && j.RecoveryPoint != ""
		}
		if !interrupted {
			l.Errorf("killed %s: %v", phase.name, j)
		}
		l.nothingLeft(m, 1)
		next := l.nextBackup(m, "vda")
		l.nothingLeft(m, 1)
		l.unharmed(m, pulse, "vda")
		proved(l, "kill -9 %s: thawed and clean; the next backup read %d KiB for %d KiB that changed (%v until the guest was seen to be thawed)",
			phase.name, next.Stats.ReadBytes>>10, next.Stats.TrackedBytes>>10, thawed.Round(time.Millisecond))
	}
}
