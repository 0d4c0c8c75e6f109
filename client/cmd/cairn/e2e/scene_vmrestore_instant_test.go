//go:build e2e

package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/client/source/guesttest"
)

// instantHost has a point of a machine with much data, which is off now, and an
// agent whose line to the server is narrow.
type instantHost struct {
	*restoreHost
	*line
	item  string
	want  map[string]string // trees of the disks
	data  int64             // bytes in the point
	files []string
}

var instantDisks = []string{"vda", "sda"}

func newInstantHost(t *testing.T) *instantHost {
	h := &instantHost{restoreHost: newRestoreHost(t)}
	vm := h.machine(guesttest.Spec{Drives: []guesttest.Drive{
		h.drive("vda", "qcow2", 64*mib, guesttest.DiskOptions{}),
		h.drive("sda", "raw", 640*mib, guesttest.DiskOptions{Bus: guesttest.VirtioSCSI, Random: 6}),
	}}, "52:54:00:ca:12:04")
	h.boot(vm)
	h.protect(vm.Name)
	for n, disk := range instantDisks {
		fill(vm, disk, 100*n)
	}
	h.want, h.item = trees(vm, instantDisks...), vm.Name
	h.frozenBackup(vm)
	var p struct {
		Disks []struct {
			DataBytes int64 `json:",string"`
		}
	}
	h.json(&p, "point", "show", vm.Name+"@latest")
	for _, d := range p.Disks {
		h.data += d.DataBytes
	}
	vm.Destroy()
	h.files = h.restoreHost.files()
	h.agent.stop()
	h.line = h.newLine()
	h.startAgent("--images", h.images, "--server", h.line.address)
	return h
}

// begin starts an instant restore, and returns when the guest is up and most of
// its data is still away.
func (h *instantHost) begin(name string) (j job, vm *guesttest.DomainVM) {
	h.Helper()
	h.narrow(h.data / 4 * 3)
	h.json(&j, "restore", "vm", h.item+"@latest", "--name", name, "--instant")
	j = h.await(j, "moves data in behind a machine that runs", func(j job) bool {
		return j.ended() || len(j.Tasks) == 2 && j.Tasks[0].State == "JOB_STATE_COMPLETED"
	})
	if j.ended() {
		h.Fatal(j, j.Warnings)
	}
	vm = guesttest.Attach(h, name)
	h.up(vm)
	j = h.now(j)
	done, total := j.done()
	if passed := h.passed(); j.ended() || done >= total || total == 0 || passed > h.data/4*3+mib {
		h.Fatalf("when the agent answered, %d of %d bytes were moved, %d of %d had left the server: %v", done, total, passed, h.data, j)
	}
	if n := h.allocated(name); n == 0 || n > h.data/10*9 {
		h.Errorf("when the agent answered, the new disks took %d bytes of %d", n, h.data)
	}
	return j, vm
}

// now looks at a job.
func (h *instantHost) now(j job) job {
	h.Helper()
	h.json(&j, "job", "show", j.Name)
	return j
}

// allocated is what the disks of a machine take on the host.
func (h *instantHost) allocated(name string) (n int64) {
	h.Helper()
	paths, err := filepath.Glob(h.disks + "/" + name + "-*")
	h.must(err)
	for _, p := range paths {
		var st unix.Stat_t
		h.must(unix.Stat(p, &st))
		n += st.Blocks * 512
	}
	return n
}

// gone says that nothing is left of a machine.
func (h *instantHost) gone(name string) {
	h.Helper()
	if slices.Contains(h.domains(), name) {
		h.Errorf("%s is still there", name)
	}
	if now := h.restoreHost.files(); !slices.Equal(now, h.files) {
		h.Errorf("files were %q, are %q", h.files, now)
	}
	h.undisturbed()
}

// local says that a machine needs nothing but its own disks, today and the next
// time that it starts.
func (h *instantHost) local(vm *guesttest.DomainVM) {
	h.Helper()
	for _, x := range []string{vm.Virsh("dumpxml", vm.Name), vm.Virsh("dumpxml", "--inactive", vm.Name)} {
		for _, word := range []string{"nbd", "type='network'", "/restore-"} {
			if strings.Contains(x, word) {
				h.Errorf("the definition of %s has %q in it:\n%s", vm.Name, word, x)
			}
		}
	}
	disks := h.hardware(vm).Disks
	for _, d := range disks {
		if info := h.tool("qemu-img", "info", "-U", d.Source.File); strings.Contains(info, "backing file") {
			h.Errorf("disk %s has a backing file:\n%s", d.Target.Dev, info)
		}
	}
	if len(disks) != len(instantDisks) {
		h.Errorf("%s has %d disks", vm.Name, len(disks))
	}
	h.undisturbed()
}

// An instant machine answers before its data is there, keeps what it writes
// meanwhile, and in the end needs nobody.
func TestRestoreInstant(t *testing.T) {
	h := newInstantHost(t)
	j, vm := h.begin(h.item + "-now")
	passed, allocated := h.passed(), h.allocated(vm.Name)
	proved(t, "instant: the guest's agent answered when %d MiB of %d had left the server and the new disks took %d MiB",
		passed/mib, h.data/mib, allocated/mib)
	files := h.sameTrees(vm, h.want)
	for _, disk := range instantDisks {
		vm.Must("cd /mnt/" + disk + " && body 80 >during && rm d/f7 && dd if=/dev/urandom of=d/e/noise bs=4k seek=3 count=5 conv=notrunc 2>/dev/null && sync")
	}
	want := trees(vm, instantDisks...)
	boot := bootID(vm)
	if j = h.now(j); j.ended() {
		t.Fatalf("the guest has not written while its data was moved: %v", j)
	}
	h.widen()
	if j = h.end(j); !strings.HasPrefix(j.State, "JOB_STATE_COMPLETED") {
		t.Fatal(j)
	}
	proved(t, "its %d names on 2 disks match while the data is away; it writes, and then all data is moved: %v", files, j.State)

	h.agent.kill()
	h.server.kill()
	h.local(vm)
	h.sameTrees(vm, want)
	if now := bootID(vm); now != boot {
		t.Error("the guest was booted again")
	}
	vm.Destroy()
	for _, d := range h.hardware(vm).Disks {
		h.tool("qemu-img", "check", "-q", d.Source.File)
	}
	vm.Start()
	vm = guesttest.Attach(t, vm.Name)
	h.up(vm)
	h.sameTrees(vm, want)
	proved(t, "with server and agent killed the guest goes on, and so it does after its next start: no definition and no disk names anything else")
}

// What becomes of an instant machine whose restore is broken off.
func TestRestoreInstantBroken(t *testing.T) {
	h := newInstantHost(t)
	j, vm := h.begin(h.item + "-cancelled")
	h.cairn("job", "cancel", j.Name)
	if j = h.end(j); j.State != "JOB_STATE_CANCELLED" {
		t.Errorf("cancelled in the middle: %v", j)
	}
	h.gone(vm.Name)
	proved(t, "cancelled in the middle: the machine and its files are gone")

	// The agent dies; the machine does not.
	j, vm = h.begin(h.item + "-killed")
	boot := bootID(vm)
	vm.Must("body 81 >/mnt/vda/before && sync")
	h.agent.kill()
	if vm.State() != "running" || bootID(vm) != boot {
		t.Errorf("without the agent it is %s", vm.State())
	}
	// The guest reads what is not there: it may wait, or be told of an error, but
	// never be given other bytes.
	vm.Must("(dd if=/dev/$(cd /sys/block && grep -l . sd*/size | cut -d/ -f1) bs=1M skip=630 count=4 of=/run/far; echo $? >/run/read) >/run/dd.log 2>&1 &")
	h.startAgent("--images", h.images, "--server", h.line.address)
	j = h.interrupted(j)
	h.fails("RESTORE_TARGET_EXISTS", []string{vm.Name, "instant"}, h.item+"@latest", "--name", vm.Name)
	proved(t, "kill -9 of the agent: the machine lives on (%s, and reads what is not there), the job is %s", vm.State(), j.State)

	// So it does when the agent is stopped, as for an upgrade.
	j = h.goesOn(j)
	if now := bootID(vm); now != boot {
		t.Error("the guest was booted again")
	}
	vm.Must("for n in $(seq 600); do [ -s /run/read ] && exit; sleep 0.1; done; cat /run/dd.log; exit 1")
	if vm.Must("cat /run/read") != "0" { // it was told
		vm.Must("d=/dev/$(cd /sys/block && grep -l . sd*/size | cut -d/ -f1); for n in $(seq 100); do dd if=$d bs=1M skip=630 count=4 of=/run/far && exit; sleep 0.2; done; exit 1")
	}
	if got, want := vm.Must("md5sum </run/far"), h.tool("sh", "-c", `dd if="$1" bs=1M skip=630 count=4 2>/dev/null | md5sum`, "sh", h.disks+"/sda.raw"); got != strings.TrimSpace(want) {
		t.Errorf("the guest has read %s, must be %s", got, want)
	}
	vm.Must("body 82 >/mnt/sda/between && sync")
	h.must(h.agent.Process.Signal(syscall.SIGTERM))
	h.agent.exited(liveLimit)
	if vm.State() != "running" || bootID(vm) != boot {
		t.Errorf("when the agent was stopped it is %s", vm.State())
	}
	h.startAgent("--images", h.images, "--server", h.line.address)
	j = h.interrupted(j)

	// And when the server is away for a while the job waits, and so does whoever
	// reads in the guest.
	j = h.goesOn(j)
	h.server.kill()
	if vm.State() != "running" || bootID(vm) != boot {
		t.Errorf("without the server it is %s", vm.State())
	}
	h.startServer()
	h.widen()
	if j = h.end(j); !strings.HasPrefix(j.State, "JOB_STATE_COMPLETED") {
		t.Fatal(j)
	}
	h.agent.kill()
	h.server.kill()
	h.local(vm)
	if bootID(vm) != boot {
		t.Error("the guest was booted again")
	}
	vm.Must("echo 3 >/proc/sys/vm/drop_caches; cd /mnt && body 81 | cmp - vda/before && body 82 | cmp - sda/between && rm vda/before sda/between")
	files := h.sameTrees(vm, h.want)
	proved(t, "its agent stopped, its server killed, the job retried each time: the same machine, never stopped, has all its data, %d names, and what it wrote meanwhile", files)
}

// goesOn retries a job, and returns when it has the machine again.
func (h *instantHost) goesOn(j job) job {
	h.Helper()
	h.json(&j, "job", "retry", j.Name)
	j = h.await(j, "goes on", func(j job) bool { return j.ended() || len(j.Tasks) == 2 && j.Tasks[0].State == "JOB_STATE_COMPLETED" })
	if j.ended() {
		h.Fatal(j)
	}
	return j
}

// interrupted waits for the end of a job whose agent has died.
func (h *instantHost) interrupted(j job) job {
	h.Helper()
	j = h.end(j)
	if j.State != "JOB_STATE_FAILED" || j.Error.Reason != "ERROR_REASON_INTERRUPTED" || !slices.Contains(j.Actions, "JOB_ACTION_RETRY") {
		h.Errorf("a job whose agent died: %v, actions %v", j, j.Actions)
	}
	return j
}
