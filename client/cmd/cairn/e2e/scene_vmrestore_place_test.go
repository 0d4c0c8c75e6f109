//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/client/source/guesttest"
)

// A machine goes back to an earlier point of its own; what it was then replaced
// by is a point, too.
func TestRestoreInPlace(t *testing.T) {
	h := newRestoreHost(t)
	macs := []string{"52:54:00:ca:12:03"}
	vm := h.machine(guesttest.Spec{Drives: []guesttest.Drive{
		h.drive("vda", "qcow2", 64*mib, guesttest.DiskOptions{Random: 3}),
		h.drive("vdb", "raw", 48*mib, guesttest.DiskOptions{}),
		h.drive("sda", "qcow2", 48*mib, guesttest.DiskOptions{Bus: guesttest.VirtioSCSI}),
	}}, macs...)
	disks := []string{"vda", "vdb", "sda"}
	h.boot(vm)
	h.protect(vm.Name)
	for n, disk := range disks {
		fill(vm, disk, 100*n)
	}
	want, boot, was, files := trees(vm, disks...), bootID(vm), h.hardware(vm), h.files()
	first := vm.Name + "@" + last(h.frozenBackup(vm).RecoveryPoint)

	// The guest loses files, damages others and gets new ones.
	for _, disk := range disks {
		vm.Must("cd /mnt/" + disk + " && rm -r d/f5 linked d/e && echo damaged >d/f6 && body 77 >later && sync")
	}
	later := trees(vm, disks...)
	h.fails("MACHINE_STATE", []string{"running"}, first, "--in-place", "--yes")
	h.refused(2, []string{"--yes"}, "restore", "vm", first, "--in-place", "--stop")
	if now := bootID(vm); now != boot || vm.State() != "running" {
		t.Fatalf("a restore that was refused has stopped the machine")
	}
	h.sameTrees(vm, later)
	proved(t, "in place of a machine that runs: refused without --stop, and the guest has not noticed")

	h.restored(first, "--in-place", "--stop", "--yes")
	if vm.State() != "running" {
		t.Errorf("the machine that ran is %s", vm.State())
	}
	vm = guesttest.Attach(t, vm.Name) // another shell
	h.up(vm)
	n := h.sameTrees(vm, want)
	h.sameMachine(vm, was)
	if now := h.files(); !slices.Equal(now, files) {
		t.Errorf("files were %q, are %q", files, now)
	}
	h.undisturbed()
	points := h.points(vm.Name)
	if len(points) != 2 {
		t.Fatalf("points: %+v", points)
	}
	safety := vm.Name + "@" + last(points[0].Name)
	for _, disk := range disks {
		to := h.path("later-" + disk)
		h.cairn("cp", safety+":/volumes/"+disk+"/later", to)
		got, err := os.ReadFile(to)
		h.must(err)
		if string(got) != string(guesttest.Body(77)) {
			t.Errorf("the safety point has not what was written to %s before the restore", disk)
		}
	}
	proved(t, "with --stop: shut down, a safety point that has what was written later, %d names on 3 disks as they were, same UUID and MACs, it runs again, and no old disk is left", n)

	// Life goes on: the next backup holds what the guest has now.
	for _, disk := range disks {
		vm.Must("body 78 >/mnt/" + disk + "/next && sync")
	}
	want = trees(vm, disks...)
	next := h.frozenBackup(vm)
	h.pointHas(next.RecoveryPoint, vm, want)
	vm.Must("body 79 >/mnt/vda/after && sync")
	want["vda"] = tree(vm, "vda")
	incremental := h.frozenBackup(vm)
	h.pointHas(incremental.RecoveryPoint, vm, want)
	if incremental.Stats.ReadBytes >= next.Stats.ReadBytes {
		t.Errorf("the backup after the restore read %d bytes, the next one %d", next.Stats.ReadBytes, incremental.Stats.ReadBytes)
	}
	proved(t, "the next backup read %d bytes, the one after %d, and both hold what the guest had", next.Stats.ReadBytes, incremental.Stats.ReadBytes)

	// Back to the safety point, then the machine is deleted with its disks.
	vm.Destroy()
	vm.Virsh("undefine", vm.Name, "--checkpoints-metadata")
	for _, d := range was.Disks {
		h.must(os.Remove(d.Source.File))
	}
	h.restored(safety, "--in-place", "--yes", "--start")
	vm = guesttest.Attach(t, vm.Name)
	h.up(vm)
	n = h.sameTrees(vm, later)
	h.sameMachine(vm, was)
	if now := h.files(); !slices.Equal(now, files) {
		t.Errorf("files were %q, are %q", files, now)
	}
	if got := h.points(vm.Name); len(got) != 4 {
		t.Errorf("of a machine that was gone a point was made: %+v", got)
	}
	h.undisturbed()
	proved(t, "a machine that was deleted with its disks is defined anew as it was, and has the %d names of the safety point", n)
}

// sameMachine says that a machine is what it was.
func (h *restoreHost) sameMachine(vm *guesttest.DomainVM, was hardware) {
	h.Helper()
	now := h.hardware(vm)
	if now.UUID != was.UUID || !slices.Equal(now.macs(), was.macs()) || now.shape() != was.shape() {
		h.Errorf("the machine was\n%+v\nis\n%+v", was, now)
	}
	for i, d := range now.Disks {
		if d.Source.File != was.Disks[i].Source.File {
			h.Errorf("disk %s was %s, is %s", d.Target.Dev, was.Disks[i].Source.File, d.Source.File)
		}
	}
}

// pointHas says that the file systems of a point need no replay and have what
// the guest had listed.
func (h *restoreHost) pointHas(point string, vm *guesttest.DomainVM, want map[string]string) {
	h.Helper()
	dir := h.live.restored(point)
	defer os.RemoveAll(dir)
	for disk, list := range want {
		raw := filepath.Join(dir, disk+".raw")
		guesttest.Fsck(h, raw)
		got, unmount := h.kernelMount(raw, part{0, fileSize(h, raw)}, true)
		out := h.tool("bash", "-c", `cd "$1" && find . -type f | LC_ALL=C sort | xargs md5sum`, "bash", got)
		unmount()
		if !strings.HasSuffix(list, strings.TrimSpace(out)) || strings.TrimSpace(out) == "" {
			h.Errorf("disk %s of point %s has\n%s\nthe guest had\n%s", disk, last(point), out, list)
		}
	}
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}
