//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"

	"cairn/client/source/guesttest"
)

// A restore in place that is broken off while disks are being written leaves the
// machine its own, and a retry brings it to its end.
func TestRestoreInPlaceBroken(t *testing.T) {
	h := &instantHost{restoreHost: newRestoreHost(t)}
	vm := h.machine(guesttest.Spec{Drives: []guesttest.Drive{
		h.drive("vda", "qcow2", 48*mib, guesttest.DiskOptions{}),
		h.drive("vdb", "raw", 128*mib, guesttest.DiskOptions{Random: 7}),
	}}, "52:54:00:ca:12:06")
	disks := []string{"vda", "vdb"}
	h.boot(vm)
	h.protect(vm.Name)
	for n, disk := range disks {
		fill(vm, disk, 100*n)
	}
	want := trees(vm, disks...)
	first := vm.Name + "@" + last(h.frozenBackup(vm).RecoveryPoint)
	for _, disk := range disks {
		vm.Must("rm -r /mnt/" + disk + "/d && body 90 >/mnt/" + disk + "/now && sync")
	}
	later, was := trees(vm, disks...), h.hardware(vm)
	h.files = h.restoreHost.files()
	h.agent.stop()
	h.line = h.newLine()
	h.startAgent("--images", h.images, "--server", h.line.address)

	// writing starts, or awaits, a restore and returns when the machine is off and
	// part of its new disks are there.
	writing := func(j job) job {
		t.Helper()
		h.narrow(64 * mib)
		j = h.await(j, "writes disks", func(j job) bool {
			k := slices.IndexFunc(j.Tasks, func(t task) bool { return t.Title == "Restore data" })
			return j.ended() || k >= 0 && j.Tasks[k].DoneBytes > 0
		})
		if j.ended() || vm.State() != "shut off" {
			t.Fatalf("the machine is %s: %v", vm.State(), j)
		}
		return j
	}
	again := func(want map[string]string) (names int) {
		t.Helper()
		vm = guesttest.Attach(t, vm.Name)
		h.up(vm)
		names = h.sameTrees(vm, want)
		h.sameMachine(vm, was)
		if now := h.restoreHost.files(); !slices.Equal(now, h.files) {
			t.Errorf("files were %q, are %q", h.files, now)
		}
		h.undisturbed()
		return names
	}

	var j job
	h.json(&j, "restore", "vm", first, "--in-place", "--stop", "--yes")
	j = writing(j)
	h.cairn("job", "cancel", j.Name)
	if j = h.end(j); j.State != "JOB_STATE_CANCELLED" {
		t.Errorf("cancelled in the middle: %v", j)
	}
	h.widen()
	n := again(later)
	proved(t, "in place, cancelled while disks were being written: the machine runs again, with the %d names it had", n)

	h.json(&j, "restore", "vm", first, "--in-place", "--stop", "--yes")
	j = writing(j)
	h.agent.kill()
	h.widen()
	h.startAgent("--images", h.images, "--server", h.line.address)
	j = h.interrupted(j)
	h.until("the new agent has cleaned up", func() bool { return slices.Equal(h.restoreHost.files(), h.files) })
	h.until("the new agent has started the machine", func() bool { return vm.State() == "running" })
	n = again(later)
	proved(t, "kill -9 of the agent, there: the machine runs again, with the %d names it had, and nothing else is left", n)

	h.json(&j, "job", "retry", j.Name)
	if j = h.end(j); !strings.HasPrefix(j.State, "JOB_STATE_COMPLETED") {
		t.Fatal(j)
	}
	n = again(want)
	proved(t, "the job, retried, brings the %d names of the point", n)
}
