//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lost is a guest of which a file was deleted between its two points.
type lost struct {
	machine string
	mark    string // the part of README.md that brings it back
	back    string // the file that must be there afterwards
	content []byte
}

// TestOneFileBack: README.md's way from a host on which nothing is installed yet
// to the deleted file, every command as it is printed there: from a Linux guest with
// xfs on LVM, whose points were made while it was at work, and from one with NTFS.
func TestOneFileBack(t *testing.T) {
	w := newWorld(t)
	web1, deleteWeb1 := w.xfsOnLVM("web1")
	win1, deleteWin1 := w.ntfsGuest("win1")
	w.startServer()
	w.startAgent()
	w.setUp()
	for _, machine := range []string{"web1", "win1"} {
		w.protect(machine)
		w.backUp(machine)
	}
	deleteWeb1()
	deleteWin1()
	w.backUp("web1")
	w.backUp("win1")

	for _, l := range []lost{web1, win1} {
		home := w.path("home-" + l.machine)
		w.must(os.Mkdir(home, 0o700))
		visitor := &tourist{live: &live{world: w}, dir: home,
			env: []string{"PATH=" + filepath.Dir(cairnExe) + ":" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + os.TempDir(),
				"CAIRN_SERVER=" + w.address, "DEBIAN_FRONTEND=noninteractive"}}
		for _, block := range tourBlocks(t, l.mark) {
			for _, line := range block {
				if strings.TrimSpace(line) == "" {
					continue
				}
				if p := visitor.follow(line); p != nil {
					t.Errorf("%q stays: nothing of this part should", line)
					p.stop()
				}
			}
		}
		got, err := os.ReadFile(home + "/" + l.back)
		if err != nil || !bytes.Equal(got, l.content) {
			t.Errorf("%s of %s did not come back: %v, %d bytes of %d", l.back, l.machine, err, len(got), len(l.content))
		}
		for _, must := range []string{"cairn find " + l.machine, "cairn versions", "cairn cp "} {
			if !strings.Contains(visitor.ran, must) {
				t.Errorf("the part on %s does not show %q", l.machine, must)
			}
		}
		proved(t, "%d commands of README.md, as printed, bring %s of %s back", strings.Count(visitor.ran, "\n"), l.back, l.machine)
	}
}

// xfsOnLVM makes a machine whose root is xfs on a logical volume, mounted and at
// work for as long as the test lasts: its points have logs to be replayed. What
// it gives back deletes the file.
func (w *world) xfsOnLVM(machine string) (lost, func()) {
	w.Helper()
	image := w.images + "/" + machine + ".raw"
	w.fillRandom(image, 440*mib, 21)
	parts := w.partition(image, "label: gpt\nsize=32MiB\nsize=400MiB, type=lvm\n")
	w.mkfs(image, parts[0], "-L", "boot")
	pv, detach := w.loop(image, parts[1], false)
	vg := w.newGroup("guest", pv)
	vg.create("root", 340*mib)
	runs := vg.runs("root")
	if len(runs) != 1 {
		w.Fatalf("the volume lies in pieces: %v", runs)
	}
	detach()
	root := part{parts[1].start + runs[0].off, runs[0].n}
	dev, detach := w.loop(image, root, false)
	w.tool("mkfs.xfs", "-q", "-f", "-K", dev)
	detach()
	dir, _ := w.mountAs("xfs", image, root, false)
	write := func(name string, content []byte) {
		w.must(os.MkdirAll(filepath.Dir(dir+"/"+name), 0o755))
		w.must(os.WriteFile(dir+"/"+name, content, 0o640))
	}
	write("etc/fstab", []byte("/dev/mapper/guest-root / xfs defaults 0 0\nLABEL=boot /boot ext4 defaults 0 2\n"))
	l := lost{machine, "<!-- tour: a file of a Linux guest -->", "budget.ods", bytes.Repeat([]byte("1000 2000 3000\n"), 20_000)}
	write("home/ann/budget.ods", l.content[:100_000])
	write("home/ann/projects/cairn/notes.md", []byte("# Notes\n"))
	w.realFiles(dir+"/usr", 40*mib)
	write("home/ann/budget.ods", l.content)
	w.tool("sync", "-f", dir)
	return l, func() {
		w.must(os.Remove(dir + "/home/ann/budget.ods"))
		write("home/ann/new.ods", []byte("new"))
		w.tool("sync", "-f", dir)
	}
}

// ntfsGuest makes a machine with NTFS.
func (w *world) ntfsGuest(machine string) (lost, func()) {
	w.Helper()
	image := w.images + "/" + machine + ".raw"
	w.fillRandom(image, 120*mib, 22)
	parts := w.partition(image, "label: gpt\nstart=1MiB, size=110MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name=\"Basic data partition\"\n")
	dev, detach := w.loop(image, parts[0], false)
	w.tool("mkntfs", "-q", "-Q", "-L", "Windows", "-p", "2048", "-H", "0", "-S", "0", dev)
	detach()
	l := lost{machine, "<!-- tour: a file of a Windows guest -->", "Report.docx", bytes.Repeat([]byte("quarterly "), 30_000)}
	dir, unmount := w.mountAs("ntfs", image, parts[0], false)
	w.must(os.MkdirAll(dir+"/Users/Ann/Documents", 0o755))
	w.must(os.WriteFile(dir+"/Users/Ann/Documents/Report.docx", l.content, 0o644))
	w.must(os.WriteFile(dir+"/Users/Ann/Documents/Other.docx", []byte("other"), 0o644))
	unmount()
	return l, func() {
		dir, unmount := w.mountAs("ntfs", image, parts[0], false)
		w.must(os.Remove(dir + "/Users/Ann/Documents/Report.docx"))
		unmount()
	}
}
