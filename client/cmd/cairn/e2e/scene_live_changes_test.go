//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/client/source/guesttest"
)

// What can happen to a machine's disks between two backups: the checkpoint is
// deleted, a disk is made larger or smaller, is added or removed; and changed-block
// tracking that is wrong about a disk.
func TestLiveChanges(t *testing.T) {
	l := newLive(t)
	dir := guesttest.Dir(t)
	const blank = 32 << 20
	m := l.domain(guesttest.Spec{Name: "changes", Write: "vda", Drives: []guesttest.Drive{
		guesttest.Disk(t, dir+"/a.qcow2", "qcow2", 64<<20, guesttest.DiskOptions{Random: 1}),
		guesttest.Disk(t, dir+"/b.qcow2", "qcow2", blank, guesttest.DiskOptions{Random: 2, Bus: guesttest.VirtioSCSI, Blank: true}),
	}})
	l.startAgent()
	l.protect(m.name)
	l.steadyBackup(m, "vda")
	sda := m.drives[1].Path

	// Without its checkpoint, everything is read.
	m.dom.Virsh("checkpoint-delete", m.name, l.checkpoints(m)[0])
	j := l.changed(m, "CHANGE_TRACKING_RESET")
	if j.Stats.ReadBytes < 64<<20 {
		t.Errorf("without a checkpoint, %d bytes were read", j.Stats.ReadBytes)
	}
	l.nextBackup(m, "vda")
	proved(t, "a checkpoint that somebody deleted: everything is read, with a warning; the next backup is incremental")

	// A larger disk, and data where there was none.
	m.dom.Virsh("blockresize", m.name, "sda", "48M")
	j = l.changed(m, "CHANGE_TRACKING_RESET")
	if list := l.diskSizes(j.RecoveryPoint); list["sda"] != 48<<20 || list["vda"] != 64<<20 {
		t.Errorf("disks of the point: %v", list)
	}
	l.sameDisk(j.RecoveryPoint, "sda", func() string { return l.content(m, "sda") })
	l.nextBackup(m, "vda")
	proved(t, "a disk that has grown is read in full, with a warning; the other is not")

	// One more disk.
	extra := guesttest.Disk(t, dir+"/c.qcow2", "qcow2", 16<<20, guesttest.DiskOptions{Random: 3, Blank: true})
	m.dom.Virsh("attach-disk", m.name, extra.Path, "sdb", "--driver", "qemu", "--subdriver", "qcow2", "--targetbus", "scsi", "--live")
	j = l.changed(m, "CHANGE_TRACKING_RESET")
	if len(j.Warnings) != 1 || !strings.Contains(j.Warnings[0].Message, "sdb") || j.Stats.ReadBytes < 16<<20 || j.Stats.ReadBytes > 40<<20 {
		t.Errorf("one disk of 16 MiB was added, %d bytes were read: %v, %+v", j.Stats.ReadBytes, j, j.Warnings)
	}
	if list := l.diskSizes(j.RecoveryPoint); list["sdb"] != 16<<20 || len(list) != 3 {
		t.Errorf("disks of the point: %v", list)
	}
	l.nextBackup(m, "vda")
	m.dom.Virsh("detach-disk", m.name, "sdb", "--live")
	l.until("the disk is gone", func() bool { return !strings.Contains(m.dom.Virsh("domblklist", m.name), "sdb") })
	j = l.changed(m, "DISK_LAYOUT_CHANGED")
	if list := l.diskSizes(j.RecoveryPoint); len(list) != 2 {
		t.Errorf("disks of the point: %v", list)
	}
	l.nextBackup(m, "vda")
	proved(t, "a disk that is added is read in full, it alone; one that is removed is warned of")

	// Everything on a disk is overwritten and its bitmap knows nothing of it.
	bitmap := l.checkpoints(m)[0]
	m.dom.Destroy()
	l.tool("qemu-img", "bitmap", "--remove", sda, bitmap)
	l.tool("qemu-io", "-f", "qcow2", "-c", "write -P 90 0 48M", sda)
	l.tool("qemu-img", "bitmap", "--add", "-g", "65536", sda, bitmap)
	m.dom.Start()
	l.awaitGuest(m, guesttest.Spec{Write: "vda"})
	j = l.changed(m, "CHANGE_TRACKING_RESET")
	restored := l.restored(j.RecoveryPoint, "sda")
	got, err := os.ReadFile(restored + "/sda.raw")
	l.must(err)
	if !bytes.Equal(got, bytes.Repeat([]byte{90}, 48<<20)) {
		t.Error("tracking lied about a disk, and the point has what it said")
	}
	l.must(os.RemoveAll(restored))
	l.nextBackup(m, "vda")
	proved(t, "a bitmap that knows nothing of what was overwritten is found out: the point is right, with a warning")

	// A smaller disk.
	m.dom.Destroy()
	l.tool("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", sda, "24M")
	m.dom.Start()
	l.awaitGuest(m, guesttest.Spec{Write: "vda"})
	j = l.changed(m, "DISK_LAYOUT_CHANGED")
	if list := l.diskSizes(j.RecoveryPoint); list["sda"] != 24<<20 {
		t.Errorf("disks of the point: %v", list)
	}
	l.nextBackup(m, "vda")
	l.nothingLeft(m, 1)
	proved(t, "a disk that has shrunk: a warning, and a point of its new size")
}

// changed backs up a machine, which must warn of what has changed.
func (l *live) changed(m *vm, reason string) job {
	l.Helper()
	before := m.Synced("vda")
	j := l.backUpBadly(m.name)
	if j.State != "JOB_STATE_COMPLETED_WITH_WARNINGS" || !l.warns(j, reason) {
		l.Fatalf("%v must warn of %s: %+v", j, reason, j.Warnings)
	}
	if i := slices.IndexFunc(j.Warnings, func(w problem) bool { return w.Message == "" || w.Reason == "" }); i >= 0 {
		l.Errorf("%v: %+v", j, j.Warnings[i])
	}
	l.consistent(j.RecoveryPoint, m.class)
	l.checkDisk(j.RecoveryPoint, "vda", before, m.Synced("vda")+1)
	l.nothingLeft(m, 1)
	return j
}

// diskSizes are the sizes of a point's disks in bytes.
func (l *live) diskSizes(point string) map[string]int64 {
	l.Helper()
	var p struct {
		Disks []struct {
			Target string
			Size   int64 `json:",string"`
		}
	}
	l.json(&p, "point", "show", point)
	sizes := map[string]int64{}
	for _, d := range p.Disks {
		sizes[d.Target] = d.Size
	}
	return sizes
}

// content is the digest of a disk as its guest sees it.
func (l *live) content(m *vm, disk string) string {
	l.Helper()
	return strings.Fields(m.Must("sha256sum $(for b in /sys/block/*; do [ \"$(tail -c +5 $b/device/vpd_pg80 2>/dev/null | tr -d '\\0 ')\" = " + disk + " ] && echo /dev/${b##*/}; done)"))[0]
}

// sameDisk compares the restored disk of a point with a digest.
func (l *live) sameDisk(point, disk string, digest func() string) {
	l.Helper()
	dir := l.restored(point, disk)
	defer os.RemoveAll(dir)
	if got, want := strings.Fields(l.tool("sha256sum", filepath.Join(dir, disk+".raw")))[0], digest(); got != want {
		l.Errorf("disk %s of %s is not as its guest sees it: %s, must be %s", disk, last(point), got, want)
	}
}
