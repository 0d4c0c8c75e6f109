//go:build e2e

package e2e

import (
	"os"
	"testing"

	"cairn/client/source/guesttest"
)

// How consistent a point is follows from what happened: a freeze hook that works
// or fails, an agent that stands still or is gone, a machine that is paused or
// off. What is less than demanded is no point.
func TestLiveConsistency(t *testing.T) {
	l := newLive(t)
	dir := guesttest.Dir(t)
	m := l.domain(guesttest.Spec{Name: "class", Write: "vda", Hook: guesttest.HookOK, Drives: []guesttest.Drive{
		guesttest.Disk(t, dir+"/a.qcow2", "qcow2", 96<<20, guesttest.DiskOptions{Random: 1}),
	}})
	l.startAgent()
	l.protect(m.name)
	pulse := l.pulse(m)
	l.steadyBackup(m, "vda")
	proved(t, "a freeze hook that succeeds: %s", m.class)

	m.Must("echo fail >/run/hook")
	l.crashBackup(m, "FREEZE_FAILED", "")
	l.tooLow(m)
	m.Must("echo ok >/run/hook")
	proved(t, "a freeze hook that fails: a warning, and all files are there once the journal is replayed; no point if more is demanded")

	m.Must("kill -STOP $(pidof qemu-ga)")
	l.crashBackup(m, "GUEST_AGENT_UNAVAILABLE", "")
	m.Must("kill -CONT $(pidof qemu-ga)")
	m.WaitAgent(l.limit())
	l.unharmed(m, pulse, "vda")
	m.Must("kill -9 $(pidof qemu-ga)")
	l.crashBackup(m, "GUEST_AGENT_UNAVAILABLE", "")
	l.tooLow(m)
	m.Must("start-agent >/dev/null 2>&1 &")
	m.WaitAgent(l.limit())
	l.nextBackup(m, "vda")
	l.unharmed(m, pulse, "vda")
	l.nothingLeft(m, 1)
	proved(t, "an agent that stands still, and one that is gone: a warning and a point; with the agent back all is as before")

	m.dom.Virsh("suspend", m.name)
	l.crashBackup(m, "MACHINE_STATE", "")
	if state := m.dom.State(); state != "paused" {
		t.Errorf("the machine was paused, and is %s", state)
	}
	m.dom.Virsh("resume", m.name)
	proved(t, "a machine that is paused: a warning and a point; it stays paused")

	m.dom.Destroy()
	l.crashBackup(m, "", "GUEST_AGENT_UNAVAILABLE")
	l.tooLow(m)
	if state := m.dom.State(); state != "shut off" {
		t.Errorf("the machine was off, and is %s", state)
	}
	proved(t, "a machine that is off: a point; no point if more is demanded")
}

// crashBackup backs up a machine that cannot be frozen. The job must warn with a
// reason, if there is one, and not with another. The files are all there once
// the journal is replayed: by cairn's reader, and by e2fsck.
func (l *live) crashBackup(m *vm, reason, not string) {
	l.Helper()
	before := m.Synced("vda")
	j := l.backUpBadly(m.name)
	if j.RecoveryPoint == "" || (j.State == "JOB_STATE_COMPLETED_WITH_WARNINGS") != (len(j.Warnings) > 0) {
		l.Fatalf("%v, %+v", j, j.Warnings)
	}
	if reason != "" && !l.warns(j, reason) || not != "" && l.warns(j, not) {
		l.Errorf("%v must warn of %s: %+v", j, reason, j.Warnings)
	}
	l.consistent(j.RecoveryPoint, "CRASH_CONSISTENT")

	mnt := l.mount(j.RecoveryPoint)
	volumes, err := os.ReadDir(mnt.dir + "/volumes")
	l.must(err)
	if len(volumes) != 1 {
		l.Fatalf("%d volumes", len(volumes))
	}
	guesttest.CheckFiles(l, os.DirFS(mnt.dir+"/volumes/"+volumes[0].Name()), before)
	mnt.end()

	dir := l.restored(j.RecoveryPoint, "vda")
	defer os.RemoveAll(dir)
	if r := l.tryExe("e2fsck", "-fy", dir+"/vda.raw"); r.status > 1 { // 1: it replayed the journal
		l.Errorf("e2fsck: %d: %s%s", r.status, r.stdout, r.stderr)
	}
	guesttest.Fsck(l, dir+"/vda.raw")
	guesttest.CheckFiles(l, os.DirFS(guesttest.Extract(l, dir+"/vda.raw")), before)
}

func (l *live) warns(j job, reason string) bool {
	for _, w := range j.Warnings {
		if w.Reason == "ERROR_REASON_"+reason {
			return true
		}
	}
	return false
}

// tooLow demands a consistency that cannot be had now, for one backup.
func (l *live) tooLow(m *vm) {
	l.Helper()
	l.cairn("item", "update", m.name, "--min-consistency", "file-system")
	points := len(l.points(m.name))
	l.failed(l.backUpBadly(m.name), "CONSISTENCY_TOO_LOW")
	if now := len(l.points(m.name)); now != points {
		l.Errorf("there are %d points, there were %d", now, points)
	}
	l.cairn("item", "update", m.name, "--min-consistency", "policy")
	for _, f := range l.stateFiles() {
		l.Errorf("left over: %s", f)
	}
}

// failed checks that a job failed for a reason, and says what to do about it.
func (l *live) failed(j job, reason string) {
	l.Helper()
	if j.State != "JOB_STATE_FAILED" || j.Error == nil || j.Error.Reason != "ERROR_REASON_"+reason || j.Error.Message == "" || j.Error.Remedy == "" {
		l.Errorf("must have failed with %s: %v, %+v", reason, j, j.Error)
	}
}
