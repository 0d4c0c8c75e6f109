//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Machines in other formats, with several disks, and one left out.
func TestMachines(t *testing.T) {
	w := newWorld(t)
	// web1 is a qcow2 image with a file system; db has two disks, in two
	// formats, and a third that is not to be backed up.
	raw := w.path("web1.raw")
	w.fillRandom(raw, 64*mib, 1)
	parts := w.partition(raw, "label: dos\nsize=40MiB,type=83\n")
	w.mkfs(raw, parts[0], "-b", "1024")
	dir, unmount := w.kernelMount(raw, parts[0], false)
	w.oddFiles(dir, 300)
	unmount()
	qcow2 := filepath.Join(w.images, "Web1.qcow2")
	w.tool("qemu-img", "convert", "-O", "qcow2", "-c", raw, qcow2)
	w.must(os.Mkdir(filepath.Join(w.images, "db"), 0o700))
	system, data := w.path("system.raw"), filepath.Join(w.images, "db/data.raw")
	w.fillRandom(system, 12*mib, 2)
	w.fillRandom(data, 20*mib+512, 3)
	w.tool("qemu-img", "convert", "-O", "vmdk", system, filepath.Join(w.images, "db/system.vmdk"))
	w.fillRandom(filepath.Join(w.images, "db/scratch.raw"), 8*mib, 4)

	// No separate agent this time: the server runs one.
	w.startServer("--local-agent", "--images", w.images, "--host", "here")
	w.setUp()
	w.protect("web1")
	w.protect("db", "--exclude-disk", "scratch")
	w.backUp("web1")
	w.restores("web1@latest", raw, "raw", "qcow2")
	m := w.mount("web1@latest")
	kernel, unmount := w.kernelMount(raw, parts[0], true)
	r := w.same(kernel, m.dir+"/volumes/vda1")
	unmount()
	m.end()
	proved(t, "cairnd --local-agent backed up a compressed qcow2 with an MBR partition; its mount equals the kernel's: %d names", r.Entries)

	// The second backup of a qcow2 sends what changed.
	w.tool("qemu-io", "-f", "qcow2", "-c", "write -P 77 50M 128k", qcow2)
	if j := w.backUp("web1"); j.Stats.ChangedBlocks != 2 || j.Stats.NewBlocks != 1 {
		t.Errorf("two blocks were written, alike: %+v", j.Stats)
	}
	proved(t, "two changed blocks of a qcow2 are what its second backup finds, and being alike they are stored once")

	w.backUp("db")
	w.cairn("restore", "disk", "db@latest", "--to", w.path("db"))
	w.identical(system, w.path("db/system.raw"))
	w.identical(data, w.path("db/data.raw"))
	if _, err := os.Stat(w.path("db/scratch.raw")); !os.IsNotExist(err) {
		t.Errorf("the disk that was left out is in the point: %v", err)
	}
	if show := w.cairn("point", "show", "db@latest", "-o", "json"); !strings.Contains(show, `"scratch"`) {
		t.Errorf("the point does not say that a disk was left out: %s", show)
	}
	proved(t, "a machine with a vmdk and a raw disk came back byte for byte, without the disk that was left out")
	w.verified("db")
	w.server.stop()
	if code := w.server.ProcessState.ExitCode(); code != 0 {
		t.Errorf("cairnd: status %d after SIGTERM", code)
	}
	w.noLeftovers()
	w.noProcesses("qemu-nbd", w.images)
}
