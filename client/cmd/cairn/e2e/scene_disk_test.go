//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const mib = 1 << 20

// bigDisk makes a disk of 1.25 GiB with two ext4 file systems: real files and
// odd ones on the first, odd ones in small blocks on the second.
func (w *world) bigDisk(image string) []part {
	w.Helper()
	w.fillRandom(image, 1280*mib, 1)
	parts := w.partition(image, "label: gpt\nsize=1000MiB\nsize=200MiB\n")
	w.mkfs(image, parts[0])
	w.mkfs(image, parts[1], "-b", "1024", "-I", "256", "-O", "inline_data,ea_inode,large_dir,metadata_csum_seed,meta_bg,^resize_inode")
	dir, unmount := w.kernelMount(image, parts[0], false)
	w.realFiles(dir, 400*mib)
	w.oddFiles(dir+"/odd", 20_000)
	unmount()
	dir, unmount = w.kernelMount(image, parts[1], false)
	w.oddFiles(dir+"/odd", 2000)
	unmount()
	return parts
}

// The whole way: a disk becomes points, files are deleted, points are mounted
// and show what the kernel shows, the deleted file and the whole disk come back.
func TestDisk(t *testing.T) {
	w := newWorld(t)
	image := filepath.Join(w.images, "web1.raw")
	parts := w.bigDisk(image)
	before := w.path("before.raw")
	w.copyFile(image, before)
	w.startServer()
	w.startAgent()
	w.setUp()
	w.protect("web1")

	first := w.backUp("web1")
	proved(t, "a disk of %d MiB became a recovery point: %d MiB new to the vault", first.Stats.DiskBytes/mib, first.Stats.NewBytes/mib)

	// The guest loses files.
	old, unmountOld := w.kernelMount(before, parts[0], true)
	victim := largest(t, old+"/usr/bin")
	content, err := os.ReadFile(old + victim)
	w.must(err)
	script := w.path("debugfs")
	w.must(os.WriteFile(script, []byte(strings.Join([]string{
		"rm " + victim, "rm /odd/many/linked", "rm /odd/size-4097", "rm /odd/symlink-5",
		"mkdir /made", "cd /made", "write " + script + " added", "symlink to-added added",
	}, "\n")+"\n"), 0o600))
	dev, detach := w.loop(image, parts[0], false)
	w.tool("debugfs", "-w", "-f", script, dev)
	detach()
	changed := w.differingBlocks(before, image)
	second := w.backUp("web1")
	switch {
	case changed == 0 || second.Stats.ChangedBlocks != changed:
		t.Errorf("%d blocks changed, the job says %d", changed, second.Stats.ChangedBlocks)
	case second.Stats.NewBytes > changed*64<<10 || second.Stats.SentBytes > second.Stats.NewBytes+second.Stats.NewBytes/100+4096:
		t.Errorf("%d blocks changed, but %d bytes were new and %d sent", changed, second.Stats.NewBytes, second.Stats.SentBytes)
	}
	proved(t, "debugfs changed %d blocks of 64 KiB; the second backup sent %d bytes", changed, second.Stats.SentBytes)

	one, two, all := w.mount("web1@"+last(first.RecoveryPoint)), w.mount("web1@latest"), w.mount("web1")
	r := w.same(old, one.dir+"/volumes/vda1")
	oldSmall, unmountOldSmall := w.kernelMount(before, parts[1], true)
	r2 := w.same(oldSmall, one.dir+"/volumes/vda2")
	proved(t, "the first point, mounted, equals the kernel's mount: %d names, %d MiB; and with 1 KiB blocks: %d names", r.Entries, r.Bytes/mib, r2.Entries)

	now, unmountNow := w.kernelMount(image, parts[0], true)
	r = w.same(now, two.dir+"/volumes/vda1")
	nowSmall, unmountNowSmall := w.kernelMount(image, parts[1], true)
	r2 = w.same(nowSmall, two.dir+"/volumes/vda2")
	if _, err := os.Lstat(two.dir + "/volumes/vda1" + victim); !os.IsNotExist(err) {
		t.Errorf("%s is in the second point: %v", victim, err)
	}
	proved(t, "so does the second: %d names, %d MiB; %d names", r.Entries, r.Bytes/mib, r2.Entries)

	w.same(now+"/odd", all.dir+"/latest/volumes/vda1/odd")
	dirs, err := filepath.Glob(all.dir + "/*-*")
	w.must(err)
	if len(dirs) != 2 {
		t.Errorf("the item's mount has %d points: %v", len(dirs), dirs)
	} else {
		w.same(oldSmall, dirs[0]+"/volumes/vda2")
		w.identical(before, dirs[0]+"/disks/vda.raw")
	}
	proved(t, "the mount of the item has both points by time, and latest; disks/vda.raw is the disk, byte for byte")
	one.end()
	two.end()
	all.end()
	for _, unmount := range []func(){unmountOld, unmountOldSmall, unmountNow, unmountNowSmall} {
		unmount()
	}

	w.cairn("cp", "web1@"+last(first.RecoveryPoint)+":/volumes/vda1"+victim, w.path("back"))
	back, err := os.ReadFile(w.path("back"))
	w.must(err)
	if string(back) != string(content) {
		t.Errorf("%s came back with other bytes", victim)
	}
	proved(t, "cairn cp brought %s back", victim)

	w.restores("web1@"+last(first.RecoveryPoint), before, "raw")
	w.restores("web1@latest", image, "raw", "qcow2")
	w.verified("web1")
	proved(t, "every block of both points verifies")
}

// restores restores the only disk of a point, and compares it with its image.
func (w *world) restores(point, image string, formats ...string) {
	w.Helper()
	to := w.path("restored")
	for _, format := range formats {
		file := to + "/vda." + format
		w.cairn("restore", "disk", point, "--to", to, "--format", format)
		if format == "raw" {
			w.identical(image, file)
		} else {
			w.tool("qemu-img", "compare", "-f", "raw", "-F", format, image, file)
			w.tool("qemu-img", "check", "-q", file)
		}
		w.refused(1, []string{"vda." + format, "hint: "}, "restore", "disk", point, "vda", "--to", to, "--format", format)
	}
	left, err := os.ReadDir(to)
	w.must(err)
	if len(left) != len(formats) {
		w.Errorf("restores left %v", left)
	}
	w.must(os.RemoveAll(to))
	proved(w, "cairn restore disk %s: %s identical to the image, byte for byte", point, strings.Join(formats, " and "))
}

// largest finds the largest file in a directory that debugfs can name.
func largest(t testing.TB, dir string) (path string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var most int64
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && info.Size() > most && !strings.ContainsAny(e.Name(), " \"[") {
			most, path = info.Size(), "/usr/bin/"+e.Name()
		}
	}
	return path
}
