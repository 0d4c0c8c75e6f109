//go:build e2e

package e2e

import (
	"os"
	"slices"
	"testing"

	"cairn/client/source/guesttest"
)

// A machine with disks of both buses and formats, and two network cards, is
// backed up while it runs and comes back beside itself.
func TestRestoreMachine(t *testing.T) {
	h := newRestoreHost(t)
	macs := []string{"52:54:00:ca:12:01", "52:54:00:ca:12:02"}
	vm := h.machine(guesttest.Spec{Write: "sdb", Drives: []guesttest.Drive{
		h.drive("vda", "qcow2", 96*mib, guesttest.DiskOptions{Random: 1}),
		h.drive("vdb", "raw", 48*mib, guesttest.DiskOptions{}),
		h.drive("sda", "qcow2", 64*mib, guesttest.DiskOptions{Bus: guesttest.VirtioSCSI}),
		h.drive("sdb", "raw", 80*mib, guesttest.DiskOptions{Bus: guesttest.VirtioSCSI, Random: 2}),
	}}, macs...)
	h.boot(vm)
	h.protect(vm.Name)
	idle := []string{"vda", "vdb", "sda"}
	for n, disk := range idle {
		fill(vm, disk, 100*n)
	}
	want, boot := trees(vm, idle...), bootID(vm)
	vm.WaitSynced(h.limit(), "sdb", 3)
	before := vm.Synced("sdb")
	h.frozenBackup(vm)
	latest := vm.Name + "@latest"
	proved(t, "a machine with 2 virtio-blk and 2 virtio-scsi disks, qcow2 and raw, was backed up while it wrote")

	// As new, running, beside the original.
	name := vm.Name + "-copy"
	h.restored(latest, "--name", name, "--start")
	dup := guesttest.Attach(t, name)
	h.up(dup)
	if now := bootID(vm); now != boot || bootID(dup) == boot || vm.State() != "running" {
		t.Errorf("the original is %s; it was booted as %s, now %s, the copy %s", vm.State(), boot, now, bootID(dup))
	}
	files := h.sameTrees(dup, want)
	old, fresh := h.hardware(vm), h.hardware(dup)
	if !slices.Equal(old.macs(), macs) {
		t.Errorf("the original's addresses: %v", old.macs())
	}
	if len(fresh.NICs) != len(macs) || slices.ContainsFunc(fresh.macs(), func(mac string) bool { return mac == "" || slices.Contains(macs, mac) }) || fresh.macs()[0] == fresh.macs()[1] {
		t.Errorf("the copy's addresses: %v", fresh.macs())
	}
	if fresh.UUID == "" || fresh.UUID == old.UUID {
		t.Errorf("UUID of the original %s, of the copy %s", old.UUID, fresh.UUID)
	}
	if old.shape() != fresh.shape() {
		t.Errorf("the original has\n%s\nthe copy\n%s", old.shape(), fresh.shape())
	}
	for i, d := range fresh.Disks {
		if d.Source.File == old.Disks[i].Source.File || d.Source.File == "" {
			t.Errorf("disk %s of the copy is %s", d.Target.Dev, d.Source.File)
		}
	}
	// The disk that was being written to has all that was synced, and its writer
	// goes on where it was, in a log of its own.
	dup.WaitSynced(h.limit(), "sdb", before+1)
	dup.Destroy()
	raw := h.disks + "/" + name + "-sdb.raw"
	h.tool("sh", "-c", `e2fsck -fp "$1" || [ $? = 1 ]`, "sh", raw) // its power was cut
	guesttest.CheckFiles(t, os.DirFS(guesttest.Extract(t, raw)), before+1)
	guesttest.Fsck(t, raw)
	h.undisturbed()
	proved(t, "as new: name, UUID and %d MACs of its own, same hardware; it booted while the original ran on, its agent answers, %d names on 3 disks match, and the writer's files on the 4th", len(macs), files)

	// To a directory, off: that it is whole is seen from outside.
	to := guesttest.Dir(t)
	name = vm.Name + "-off"
	h.restored(latest, "--name", name, "--to", to)
	off := guesttest.Attach(t, name)
	if off.State() != "shut off" {
		t.Errorf("restored without --start it is %s", off.State())
	}
	h.cairn("restore", "disk", latest, "--to", h.path("raw"))
	for _, d := range h.hardware(off).Disks {
		if want := to + "/" + name + "-" + d.Target.Dev + "." + d.Driver.Type; d.Source.File != want {
			t.Errorf("disk %s is %s, must be %s", d.Target.Dev, d.Source.File, want)
		}
		h.sameDisk(h.path("raw")+"/"+d.Target.Dev+".raw", "raw", d.Source.File, d.Driver.Type)
	}
	guesttest.Fsck(t, h.path("raw/sdb.raw"))
	last := guesttest.CheckFiles(t, os.DirFS(guesttest.Extract(t, h.path("raw/sdb.raw"))), before)
	proved(t, "to another directory, off: 4 disks are the point's, byte for byte; frozen while file %d was written, the file system needs no replay and has all %d files synced", last+1, last+1)

	// What cannot be done says so, and changes nothing.
	h.fails("RESTORE_TARGET_EXISTS", []string{name}, latest, "--name", name)
	h.fails("RESTORE_TARGET_EXISTS", []string{vm.Name}, latest, "--name", vm.Name, "--instant")
	h.fails("RESTORE_UNSUPPORTED", []string{"/none/there"}, latest, "--name", "x", "--to", "/none/there")
	h.must(os.WriteFile(h.disks+"/"+vm.Name+"-x-sda.qcow2", []byte("mine"), 0o600))
	h.fails("RESTORE_TARGET_EXISTS", []string{vm.Name + "-x-sda.qcow2"}, latest, "--name", vm.Name+"-x")
	h.refused(1, []string{"a/b"}, "restore", "vm", latest, "--name", "a/b")
	h.refused(2, []string{"absolute"}, "restore", "vm", latest, "--to", "here")
	h.fillRandom(h.images+"/picture.raw", mib, 1)
	h.protect("picture")
	h.backUp("picture")
	h.refused(1, []string{"no definition", "restore its disks instead"}, "restore", "vm", "picture@latest", "--wait")
	h.undisturbed()
	if now := bootID(vm); now != boot {
		t.Error("the original has been started anew")
	}
	proved(t, "refused with reason and remedy, and nothing changed: name taken, also by itself; no such directory; a disk file in the way; a point of an image file")
}
