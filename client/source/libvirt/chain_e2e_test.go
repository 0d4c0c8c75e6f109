//go:build e2e

package libvirt

import (
	"testing"

	"cairn/client/source"
)

// TestE2ESnapshots: snapshots that others take by libvirt between two backups put
// overlays on the disks and take them away again. Whether the changes are then
// still known is the daemon's affair; that the copy is right is ours.
func TestE2ESnapshots(t *testing.T) {
	l := newLab(t, 64*mib, "qcow2", "raw")
	l.start()
	have := map[string][]byte{}
	mark, since := byte(0), ""
	change := func() {
		mark++
		for i, target := range []string{"sda", "sdb"} {
			l.write(target, mark, int64(mark)*mib+int64(i)*4096, 70_000)
			l.write(target, mark+100, 60*mib, 4096) // the same place every time
		}
	}
	backUp := func(what string) {
		l.Helper()
		snap := l.snapshot(source.SnapshotOptions{Since: since, Continues: since != ""})
		read := l.apply(snap, have)
		t.Logf("%s: %s, %d bytes read; %s", what, modes(snap), read, warned(snap, source.WarnTracking))
		since = l.keep(snap)
		l.clean(since)
	}
	change()
	backUp("first")
	change()
	backUp("incremental")

	change()
	l.run("virsh", "snapshot-create-as", l.dom.Name, "outside", "--disk-only", "--atomic", "--diskspec", "fda,snapshot=no")
	change()
	backUp("after an external snapshot")
	change()
	backUp("on the overlay")
	change()
	for _, target := range []string{"sda", "sdb"} {
		l.run("virsh", "blockcommit", l.dom.Name, target, "--active", "--pivot", "--wait")
	}
	change()
	backUp("after the overlays were committed")
	change()
	backUp("after that")
	l.destroy()
	l.run("virsh", "snapshot-delete", l.dom.Name, "outside", "--metadata")
}
