//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/client/source/guesttest"
)

// What a machine is beside its disks comes back, too: its definition, the
// variables of its UEFI firmware, the state of its TPM.
func TestRestoreFirmware(t *testing.T) {
	h := newRestoreHost(t)
	vm := h.machine(guesttest.Spec{Firmware: true, TPM: true, Drives: []guesttest.Drive{
		h.drive("vda", "qcow2", 48*mib, guesttest.DiskOptions{}),
	}}, "52:54:00:ca:12:05")
	h.boot(vm)
	h.protect(vm.Name)
	fill(vm, "vda", 0)
	want, was := trees(vm, "vda"), h.hardware(vm)
	if was.NVRAM == "" || len(was.TPMs) != 1 {
		t.Fatalf("the machine has no firmware or no TPM: %+v", was)
	}
	nvram, tpm := h.read(was.NVRAM), h.tpm(was)
	h.frozenBackup(vm)
	if string(nvram) != string(h.read(was.NVRAM)) || string(tpm) != string(h.tpm(was)) {
		t.Fatal("firmware or TPM have changed their state while nothing happened: the test can compare nothing")
	}
	latest := vm.Name + "@latest"

	var p struct {
		MachineDefinitionType string
		StateFiles            []struct {
			Name, Kind string
			Size       json.Number
		}
	}
	h.json(&p, "point", "show", latest)
	if len(p.StateFiles) != 2 || !strings.Contains(p.MachineDefinitionType, "libvirt") {
		t.Errorf("the point has: %+v", p)
	}
	definition := h.cairn("point", "show", latest, "--definition")
	if got := h.hardwareOf(definition); got.UUID != was.UUID || got.NVRAM != was.NVRAM || got.shape() != was.shape() {
		t.Errorf("the definition in the point: %+v, was %+v", got, was)
	}

	// A host that has lost what its agent knew, or never had it, can restore.
	h.agent.stop()
	h.state = guesttest.Dir(t) + "/state"
	h.startAgent("--images", h.images)
	name := vm.Name + "-copy"
	h.restored(latest, "--name", name)
	dup := guesttest.Attach(t, name)
	fresh := h.hardware(dup)
	switch {
	case fresh.NVRAM == was.NVRAM || fresh.NVRAM == "" || len(fresh.TPMs) != 1 || fresh.UUID == was.UUID:
		t.Errorf("the copy: %+v", fresh)
	case string(h.read(fresh.NVRAM)) != string(nvram):
		t.Error("the copy's UEFI variables are not those of the point")
	case string(h.tpm(fresh)) != string(tpm):
		t.Error("the state of the copy's TPM is not that of the point")
	}
	dup.Start()
	h.up(dup)
	h.sameTrees(dup, want)
	dup.Destroy()
	h.frozenBackup(vm) // the first restore must not be in its way
	if vm.State() != "running" {
		t.Errorf("the original is %s", vm.State())
	}
	h.undisturbed()
	proved(t, "UEFI and TPM: the point holds the definition and %d bytes of variables and %d of TPM state; the copy has the same in files of its own, and boots from them", len(nvram), len(tpm))

	// In place both come back over what they have become.
	vm.Destroy()
	h.must(os.WriteFile(was.NVRAM, make([]byte, len(nvram)), 0o600))
	h.restored(latest, "--in-place", "--yes")
	if string(h.read(was.NVRAM)) != string(nvram) || string(h.tpm(was)) != string(tpm) {
		t.Error("in place: variables or TPM state are not those of the point")
	}
	h.undisturbed()
	proved(t, "in place they are back as they were in the point")
}

func (h *restoreHost) read(path string) []byte {
	h.Helper()
	b, err := os.ReadFile(path)
	h.must(err)
	return b
}

// tpm reads the state of a machine's TPM.
func (h *restoreHost) tpm(hw hardware) []byte {
	h.Helper()
	paths, err := filepath.Glob("/var/lib/libvirt/swtpm/" + hw.UUID + "/tpm2/*.permall")
	h.must(err)
	if len(paths) != 1 {
		h.Fatalf("state of the TPM of %s: %v", hw.UUID, paths)
	}
	return h.read(paths[0])
}
