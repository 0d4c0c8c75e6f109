//go:build e2e

package guesttest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// exercise does with a guest that writes on vda, and has sda, what tests do.
// Drive vda is raw.
func exercise(t *testing.T, g *Guest, vda string) {
	ctx := limit(t)
	began := time.Now()
	g.WaitReady(ctx)
	ready := time.Since(began)
	g.WaitAgent(ctx)
	t.Logf("ready after %.1f s, agent after %.1f s", ready.Seconds(), time.Since(began).Seconds())

	if out, code := g.Shell("echo to stdout; echo to stderr >&2; exit 3"); out != "to stdout\nto stderr\n" || code != 3 {
		t.Errorf("the shell gave %q, %d", out, code)
	}
	if out := g.Must("ls /mnt"); out != "sda\nvda" {
		t.Errorf("disks are %q", out)
	}
	g.WaitSynced(ctx, "vda", 5)
	if out := g.Must("cat /mnt/vda/files/f000003"); out != strings.TrimSpace(string(Body(3))) {
		t.Errorf("file 3 has %d bytes", len(out))
	}
	if g.Must("body 7") != strings.TrimSpace(string(Body(7))) {
		t.Error("body 7 differs")
	}

	ask := func(command string) string {
		answer, err := g.Agent(ctx, command)
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		return answer
	}
	before := g.Synced("vda")
	if answer := ask(`{"execute":"guest-fsfreeze-freeze"}`); !strings.Contains(answer, "2") {
		t.Errorf("frozen file systems: %s, must be 2", answer)
	}
	// What is on the disk now is what a backup would have.
	image := Dir(t) + "/frozen.raw"
	if err := copyFile(image, vda); err != nil {
		t.Fatal(err)
	}
	if answer := ask(`{"execute":"guest-fsfreeze-status"}`); !strings.Contains(answer, "frozen") {
		t.Errorf("status: %s", answer)
	}
	g.Must("true") // the shell is not frozen
	frozen := g.Synced("vda")
	ask(`{"execute":"guest-fsfreeze-thaw"}`)
	Fsck(t, image)
	last := CheckFiles(t, os.DirFS(Extract(t, image)), before)
	// The list may be one ahead of what was told when the writer was stopped.
	if last > frozen+1 {
		t.Errorf("files up to %d are on the frozen disk, the guest had told %d", last, frozen)
	}
	t.Logf("synced before the freeze: %d, on the frozen disk: %d", before, last)
	g.WaitSynced(ctx, "vda", frozen+3)
	if hooks := g.Must("cat /run/hook.log"); hooks != "freeze\nthaw" {
		t.Errorf("the hook was called: %q", hooks)
	}

	// A freeze that fails, and one that passes over what is frozen already.
	g.Must("echo fail >/run/hook")
	if _, err := g.Agent(ctx, `{"execute":"guest-fsfreeze-freeze"}`); err == nil {
		t.Error("the hook failed and the freeze did not")
	}
	g.Must("echo ok >/run/hook; fsfreeze --freeze /mnt/sda")
	if answer := ask(`{"execute":"guest-fsfreeze-freeze"}`); !strings.Contains(answer, "1") {
		t.Errorf("frozen file systems: %s, must be 1", answer)
	}
	ask(`{"execute":"guest-fsfreeze-thaw"}`)

	// The agent goes and comes.
	g.Must("kill -9 $(pidof qemu-ga)")
	if out := g.Must("pidof qemu-ga || echo none"); out != "none" {
		t.Errorf("the agent still runs: %s", out)
	}
	g.Must("start-agent >/dev/null 2>&1 &")
	g.WaitAgent(ctx)
}

func drives(t *testing.T) []Drive {
	dir := Dir(t)
	return []Drive{
		Disk(t, dir+"/a.raw", "raw", 128<<20, DiskOptions{Random: 7}),
		Disk(t, dir+"/b.qcow2", "qcow2", 64<<20, DiskOptions{Bus: VirtioSCSI}),
	}
}

func TestLibvirt(t *testing.T) {
	d := drives(t)
	vm := Domain(t, Spec{Name: "kit", Drives: d, Write: "vda", Hook: HookOK})
	vm.Start()
	exercise(t, vm.Guest, d[0].Path)

	// The same domain again goes on with its files.
	ctx := limit(t)
	last := vm.Synced("vda")
	vm.Destroy()
	if state := vm.State(); state != "shut off" {
		t.Errorf("state is %s", state)
	}
	vm.Start()
	vm.WaitSynced(ctx, "vda", last+1)
	if uptime := vm.Must("cut -d. -f1 /proc/uptime"); uptime == "" {
		t.Error("no uptime")
	}
	vm.Virsh("shutdown", "--mode", "acpi", vm.Name)
	vm.await(ctx, "power off by the button", func() bool { return vm.State() == "shut off" })
	CheckFiles(t, os.DirFS(Extract(t, d[0].Path)), last+1)
	if attached := Attach(t, vm.Name); attached.serialLog != vm.serialLog {
		t.Errorf("serial log is %q, must be %q", attached.serialLog, vm.serialLog)
	}
}

func TestQEMU(t *testing.T) {
	d := drives(t)
	vm := QEMU(t, Spec{Drives: d, Write: "vda", Hook: HookOK})
	exercise(t, vm.Guest, d[0].Path)
	if _, err := vm.Agent(t.Context(), `{"execute":"guest-shutdown"}`); err == nil {
		t.Error("a shutdown was answered")
	}
	select {
	case <-vm.Ended():
	case <-limit(t).Done():
		t.Error("it does not shut down")
	}
}

// A guest without an agent, and one whose agent does not run.
func TestNoAgent(t *testing.T) {
	for _, mode := range []AgentMode{AgentOff, AgentMissing} {
		vm := QEMU(t, Spec{Agent: mode})
		vm.WaitReady(limit(t))
		if out := vm.Must("pidof qemu-ga || echo none"); out != "none" {
			t.Errorf("mode %d: the agent runs", mode)
		}
		_, err := os.Stat(vm.AgentSocket)
		if there := err == nil; there != (mode == AgentOff) {
			t.Errorf("mode %d: socket of the agent: %v", mode, err)
		}
		vm.Kill()
	}
}

// As many disks as anybody has, and all that a definition can name.
func TestManyDisks(t *testing.T) {
	dir := Dir(t)
	one := Disk(t, dir+"/0.qcow2", "qcow2", 16<<20, DiskOptions{})
	all := []Drive{one}
	for n := 1; n < 33; n++ {
		d := Drive{Path: fmt.Sprintf("%s/%d.qcow2", dir, n), Format: "qcow2", Bus: VirtioSCSI}
		if err := copyFile(d.Path, one.Path); err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	vm := Domain(t, Spec{Name: "33", Drives: all, Write: "all", Pause: time.Second, NICs: 3})
	began := time.Now()
	vm.Start()
	ctx := limit(t)
	vm.WaitAgent(ctx)
	t.Logf("33 disks: agent after %.1f s", time.Since(began).Seconds())
	for _, d := range vm.Drives {
		vm.WaitSynced(ctx, d.Target, 0)
	}
	if n := vm.Must("ls /mnt | wc -l"); n != "33" {
		t.Errorf("%s disks are mounted", n)
	}
}

// UEFI with its variables, and a TPM.
func TestFirmware(t *testing.T) {
	vm := Domain(t, Spec{Name: "uefi", Firmware: true, TPM: true})
	began := time.Now()
	vm.Start()
	vm.WaitReady(limit(t))
	t.Logf("UEFI: ready after %.1f s", time.Since(began).Seconds())
	if out := vm.Must("ls -d /sys/firmware/efi /sys/class/tpm/tpm0"); out == "" {
		t.Error("no firmware")
	}
}
