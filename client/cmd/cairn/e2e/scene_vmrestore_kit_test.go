//go:build e2e

package e2e

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cairn/client/source/guesttest"
)

// restoreHost is a live world whose agent serves images, too.
type restoreHost struct {
	*live
	disks string // directory for disks of machines
}

// newRestoreHost has server, agent, vault and policy.
func newRestoreHost(t testing.TB) *restoreHost {
	t.Helper()
	// Not below the world's directory, which QEMU's user may not enter.
	h := &restoreHost{live: newLive(t), disks: guesttest.Dir(t)}
	h.startAgent("--images", h.images)
	return h
}

// drive makes a disk for a machine in the host's directory.
func (h *restoreHost) drive(name, format string, size int64, o guesttest.DiskOptions) guesttest.Drive {
	h.Helper()
	return guesttest.Disk(h, filepath.Join(h.disks, name+"."+format), format, size, o)
}

// machine defines a machine whose network cards have the addresses given.
func (h *restoreHost) machine(s guesttest.Spec, macs ...string) *guesttest.DomainVM {
	h.Helper()
	s.NICs = len(macs)
	vm := guesttest.Domain(h, s)
	n := -1
	vm.Define(regexp.MustCompile(`<mac address='[^']*'/>`).ReplaceAllStringFunc(vm.Virsh("dumpxml", "--inactive", vm.Name), func(string) string {
		n++
		return "<mac address='" + macs[n] + "'/>"
	}))
	if n+1 != len(macs) {
		h.Fatalf("%s has %d network cards, must have %d", vm.Name, n+1, len(macs))
	}
	return vm
}

// boot starts a machine and waits for the guest and its agent.
func (h *restoreHost) boot(vm *guesttest.DomainVM) {
	h.Helper()
	vm.Start()
	h.up(vm)
}

// up waits for a guest and its agent.
func (h *restoreHost) up(vm *guesttest.DomainVM) {
	h.Helper()
	vm.WaitReady(h.limit())
	vm.WaitAgent(h.limit())
}

// frozenBackup backs a running machine up; its file systems were frozen for that.
func (h *restoreHost) frozenBackup(vm *guesttest.DomainVM) job {
	h.Helper()
	j := h.backUpBadly(vm.Name)
	for _, w := range j.Warnings {
		h.Logf("backup of %s warns: %s: %s", vm.Name, w.Reason, w.Message)
	}
	if !strings.HasPrefix(j.State, "JOB_STATE_COMPLETED") {
		h.Fatal(j)
	}
	h.consistent(j.RecoveryPoint, "FILE_SYSTEM_CONSISTENT")
	return j
}

// restoreVM runs cairn restore vm to its end, whatever that is.
func (h *restoreHost) restoreVM(args ...string) job {
	h.Helper()
	args = append([]string{"restore", "vm"}, args...)
	r := h.try(append(args, "--wait", "-o", "json")...)
	var j job
	if err := json.Unmarshal([]byte(r.stdout), &j); err != nil {
		h.Fatalf("cairn %s: status %d, %v: %s%s", strings.Join(args, " "), r.status, err, r.stdout, r.stderr)
	}
	if done := strings.HasPrefix(j.State, "JOB_STATE_COMPLETED"); done != (r.status == 0) {
		h.Errorf("cairn restore vm --wait: status %d for a job in state %s", r.status, j.State)
	}
	return j
}

// restored runs a restore that must succeed. A warning is one more line of the
// test's log.
func (h *restoreHost) restored(args ...string) job {
	h.Helper()
	j := h.restoreVM(args...)
	for _, w := range j.Warnings {
		h.Logf("restore warns: %s: %s", w.Reason, w.Message)
	}
	if !strings.HasPrefix(j.State, "JOB_STATE_COMPLETED") {
		h.Fatal(j)
	}
	return j
}

// fails runs a restore that must fail for a reason, say all the words and what to
// do, and leave everything as it was.
func (h *restoreHost) fails(reason string, words []string, args ...string) {
	h.Helper()
	files, domains := h.files(), h.domains()
	j := h.restoreVM(args...)
	if j.State != "JOB_STATE_FAILED" || j.Error == nil || j.Error.Reason != "ERROR_REASON_"+reason || j.Error.Remedy == "" {
		h.Errorf("cairn restore vm %s: must fail for %s with a remedy: %v", strings.Join(args, " "), reason, j)
		return
	}
	for _, word := range words {
		if !strings.Contains(j.Error.Message, word) {
			h.Errorf("cairn restore vm %s: does not say %q: %v", strings.Join(args, " "), word, j)
		}
	}
	if now := h.files(); !slices.Equal(now, files) {
		h.Errorf("cairn restore vm %s failed: files were %q, are %q", strings.Join(args, " "), files, now)
	}
	if now := h.domains(); !slices.Equal(now, domains) {
		h.Errorf("cairn restore vm %s failed: machines were %q, are %q", strings.Join(args, " "), domains, now)
	}
}

// files are those in the directory of disks, and below it.
func (h *restoreHost) files() (names []string) {
	h.Helper()
	h.must(filepath.WalkDir(h.disks, func(path string, e os.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, h.disks))
		return err
	}))
	return names[1:]
}

// domains are the names of all machines that libvirt knows.
func (h *restoreHost) domains() []string {
	h.Helper()
	names := strings.Fields(h.tool("virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name"))
	slices.Sort(names)
	return names
}

// sameDisk says that two images hold the same bytes.
func (h *restoreHost) sameDisk(a, aFormat, b, bFormat string) {
	h.Helper()
	var sizes [2]struct {
		Size int64 `json:"virtual-size"`
	}
	for i, args := range [][]string{{aFormat, a}, {bFormat, b}} {
		h.must(json.Unmarshal([]byte(h.tool("qemu-img", "info", "-U", "--output=json", "-f", args[0], args[1])), &sizes[i]))
	}
	if sizes[0] != sizes[1] {
		h.Errorf("%s has %d bytes, %s has %d", a, sizes[0].Size, b, sizes[1].Size)
	}
	h.tool("qemu-img", "compare", "-q", "-f", aFormat, "-F", bFormat, a, b)
}

// undisturbed says that nothing of restores lies about: neither what they were
// working on, nor what they keep until they are done.
func (h *restoreHost) undisturbed() {
	h.Helper()
	for _, pattern := range []string{h.disks + "/.cairn-*", h.disks + "/*cairn-old*", h.state + "/*/restores/*", "/run/cairn/restore-*"} {
		left, err := filepath.Glob(pattern)
		h.must(err)
		if len(left) > 0 {
			h.Errorf("a restore has left %v", left)
		}
	}
}

// hardware is what of a definition the scenes look at.
type hardware struct {
	UUID  string `xml:"uuid"`
	NVRAM string `xml:"os>nvram"`
	Disks []struct {
		Driver struct {
			Type string `xml:"type,attr"`
		} `xml:"driver"`
		Source struct {
			File string `xml:"file,attr"`
		} `xml:"source"`
		Target struct {
			Dev string `xml:"dev,attr"`
			Bus string `xml:"bus,attr"`
		} `xml:"target"`
		Serial string `xml:"serial"`
	} `xml:"devices>disk"`
	NICs []struct {
		MAC struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Model struct {
			Type string `xml:"type,attr"`
		} `xml:"model"`
	} `xml:"devices>interface"`
	Controllers []struct {
		Type  string `xml:"type,attr"`
		Index string `xml:"index,attr"`
		Model string `xml:"model,attr"`
	} `xml:"devices>controller"`
	TPMs []struct {
		Model string `xml:"model,attr"`
	} `xml:"devices>tpm"`
}

// hardwareOf reads a definition of libvirt's.
func (h *restoreHost) hardwareOf(definition string) (hw hardware) {
	h.Helper()
	h.must(xml.Unmarshal([]byte(definition), &hw))
	return hw
}

// hardware reads the definition with which a machine starts the next time.
func (h *restoreHost) hardware(vm *guesttest.DomainVM) hardware {
	h.Helper()
	return h.hardwareOf(vm.Virsh("dumpxml", "--inactive", vm.Name))
}

func (hw hardware) macs() (list []string) {
	for _, n := range hw.NICs {
		list = append(list, n.MAC.Address)
	}
	return list
}

// shape is what two machines have in common of which one is a copy.
func (hw hardware) shape() string {
	var s []string
	for _, d := range hw.Disks {
		s = append(s, strings.Join([]string{"disk", d.Target.Dev, d.Target.Bus, d.Serial, d.Driver.Type}, " "))
	}
	for _, n := range hw.NICs {
		s = append(s, "network card "+n.Model.Type)
	}
	for _, c := range hw.Controllers {
		if c.Model == "pci-root" { // every machine has it, and not every definition says so
			continue
		}
		s = append(s, strings.Join([]string{"controller", c.Type, c.Index, c.Model}, " "))
	}
	for _, t := range hw.TPMs {
		s = append(s, "TPM "+t.Model)
	}
	slices.Sort(s) // libvirt sorts the controllers that it adds
	return strings.Join(s, "\n")
}

// fill has the guest write files on a disk, of contents that no other disk has,
// and make them durable.
func fill(vm *guesttest.DomainVM, disk string, seed int) {
	vm.Must(fmt.Sprintf(`cd /mnt/%s && mkdir -p d/e && for n in 1 2 3 4 5 6 7 8; do body $((%d + n)) >d/f$n; done &&
		dd if=/dev/urandom of=d/e/noise bs=64k count=48 2>/dev/null && chmod 4710 d/f1 && chown 12:34 d/f2 && ln d/f3 linked && ln -s d/f4 symlink && sync`, disk, seed))
}

// tree lists what the guest has on a disk: names, modes, owners, links, sizes,
// digests. It is read from the disk, not from memory.
func tree(vm *guesttest.DomainVM, disk string) string {
	return vm.Must(`sync; echo 3 >/proc/sys/vm/drop_caches; cd /mnt/` + disk + ` &&
		find . | sort | xargs stat -c '%N %f %u %g %h %s' && find . -type f | sort | xargs md5sum`)
}

// trees lists several disks.
func trees(vm *guesttest.DomainVM, disks ...string) map[string]string {
	all := map[string]string{}
	for _, d := range disks {
		all[d] = tree(vm, d)
	}
	return all
}

// sameTrees says that a guest has on its disks what is wanted.
func (h *restoreHost) sameTrees(vm *guesttest.DomainVM, want map[string]string) (files int) {
	h.Helper()
	for disk, list := range want {
		if got := tree(vm, disk); got != list {
			h.Errorf("%s: disk %s has\n%s\nmust have\n%s", vm.Name, disk, got, list)
		}
		files += strings.Count(list, "\n") + 1
	}
	return files
}

// bootID is another one after every start of a guest.
func bootID(vm *guesttest.DomainVM) string {
	return vm.Must("cat /proc/sys/kernel/random/boot_id")
}
