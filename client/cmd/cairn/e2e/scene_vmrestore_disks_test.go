//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"cairn/client/source/guesttest"
	cairnv1 "cairn/proto/cairn/v1"
)

// The disks of a machine come back without the machine: by whoever asks, or by a
// host's agent that is asked to.
func TestRestoreDisksOfMachine(t *testing.T) {
	h := newRestoreHost(t)
	vm := h.machine(guesttest.Spec{Drives: []guesttest.Drive{
		h.drive("vda", "qcow2", 64*mib, guesttest.DiskOptions{Random: 4}),
		h.drive("sda", "raw", 24*mib, guesttest.DiskOptions{Bus: guesttest.VirtioSCSI, Random: 5}),
		h.drive("sdb", "qcow2", 32*mib, guesttest.DiskOptions{Bus: guesttest.VirtioSCSI}),
	}})
	h.protect(vm.Name)
	j := h.backUpBadly(vm.Name) // it is off
	if j.State != "JOB_STATE_COMPLETED" {
		t.Fatal(j, j.Warnings)
	}
	h.consistent(j.RecoveryPoint, "CRASH_CONSISTENT")
	latest := vm.Name + "@latest"

	same := func(dir, format string, drives ...guesttest.Drive) {
		t.Helper()
		left, err := os.ReadDir(dir)
		h.must(err)
		if len(left) != len(drives) {
			t.Errorf("%s has %v", dir, left)
		}
		for _, d := range drives {
			h.sameDisk(d.Path, d.Format, dir+"/"+d.Target+"."+format, format)
		}
	}
	for _, format := range []string{"raw", "qcow2"} {
		h.cairn("restore", "disk", latest, "--to", h.path(format), "--format", format)
		same(h.path(format), format, vm.Drives...)
	}
	h.cairn("restore", "disk", latest, "sda", "--to", h.path("one"))
	same(h.path("one"), "raw", vm.Drives[1])
	proved(t, "3 disks of a machine, as raw and as qcow2, and one of them alone: the bytes of the originals")

	// Over a device: not when it is too small, not when it is mounted.
	device := func(name string, size int64) string {
		h.fillRandom(h.path(name), size, 9)
		dev, _ := h.loop(h.path(name), part{0, size}, false)
		return dev
	}
	large, small := device("large", 25*mib), device("small", 23*mib)
	h.cairn("restore", "disk", latest, "sda", "--onto", large, "--yes")
	h.tool("cmp", "-n", fmt.Sprint(24*mib), vm.Drives[1].Path, h.path("large"))
	h.fillRandom(h.path("tail"), 25*mib, 9)
	h.tool("cmp", "-i", fmt.Sprint(24*mib), h.path("tail"), h.path("large"))
	h.refused(1, []string{small, "not enough space"}, "restore", "disk", latest, "sda", "--onto", small, "--yes")
	h.tool("cmp", "-n", fmt.Sprint(23*mib), h.path("tail"), h.path("small"))
	dir := h.path("mounted")
	h.must(os.Mkdir(dir, 0o700))
	h.must(unix.Mount(large, dir, "ext4", 0, ""))
	unmount := h.once(func() { h.must(unix.Unmount(dir, 0)) })
	h.refused(1, []string{large, "mounted"}, "restore", "disk", latest, "sda", "--onto", large, "--yes")
	proved(t, "over a block device, and what is behind the disk stays; refused, untouched, when it is too small or mounted")

	// The same by the agent of the host, through the API.
	to := guesttest.Dir(t)
	j = h.restoreDisks(latest, &cairnv1.RestoreDisks{Directory: to + "/new", Format: "qcow2", Targets: []string{"vda", "sdb"}})
	if j.State != "JOB_STATE_COMPLETED" {
		t.Error(j)
	}
	same(to+"/new", "qcow2", vm.Drives[0], vm.Drives[2])
	j = h.restoreDisks(latest, &cairnv1.RestoreDisks{Directory: to + "/new", Format: "qcow2", Targets: []string{"sda", "vda"}})
	if j.State != "JOB_STATE_FAILED" || j.Error.Reason != "ERROR_REASON_RESTORE_TARGET_EXISTS" || j.Error.Remedy == "" {
		t.Error(j)
	}
	same(to+"/new", "qcow2", vm.Drives[0], vm.Drives[2])
	j = h.restoreDisks(latest, &cairnv1.RestoreDisks{Volumes: map[string]string{"sda": large}, Targets: []string{"sda"}})
	if j.State != "JOB_STATE_FAILED" || j.Error.Reason != "ERROR_REASON_MACHINE_STATE" || !strings.Contains(j.Error.Message, "mounted") || j.Error.Remedy == "" {
		t.Error("over a mounted device:", j)
	}
	unmount()
	h.tool("blkdiscard", "-z", large)
	j = h.restoreDisks(latest, &cairnv1.RestoreDisks{Directory: to + "/rest", Volumes: map[string]string{"sda": large}})
	if j.State != "JOB_STATE_COMPLETED" {
		t.Error(j)
	}
	h.tool("cmp", "-n", fmt.Sprint(24*mib), vm.Drives[1].Path, h.path("large"))
	same(to+"/rest", "raw", vm.Drives[0], vm.Drives[2])
	j = h.restoreDisks(latest, &cairnv1.RestoreDisks{Volumes: map[string]string{"sda": small}, Targets: []string{"sda"}})
	if j.State != "JOB_STATE_FAILED" || j.Error.Reason != "ERROR_REASON_RESTORE_TARGET_FULL" || j.Error.Remedy == "" {
		t.Error("over a device that is too small:", j)
	}
	h.tool("cmp", "-n", fmt.Sprint(23*mib), h.path("tail"), h.path("small"))
	proved(t, "the same through the API, by the host's agent: a directory, a device, both at once; refused with a reason and a remedy")
}

// restoreDisks calls Restore as a program does, and waits for the end of the job.
func (h *restoreHost) restoreDisks(point string, disks *cairnv1.RestoreDisks) (j job) {
	h.Helper()
	var p struct{ Name string }
	h.json(&p, "point", "show", point)
	conn, err := grpc.NewClient(h.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	h.must(err)
	defer conn.Close()
	resp, err := cairnv1.NewRecoveryPointServiceClient(conn).Restore(h.limit(),
		&cairnv1.RestoreRequest{Name: p.Name, Target: &cairnv1.RestoreRequest_Disks{Disks: disks}})
	if err != nil {
		h.Fatalf("Restore: %v", err)
	}
	j.Name = resp.GetJob().GetName()
	return h.end(j)
}
