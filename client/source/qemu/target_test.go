package qemu

import "testing"

// What QEMU 7.2 calls devices in query-block: virtio disks by a path, SCSI and
// IDE disks by their id alone, and those without an id by a path that names none.
func TestTargetIsTheDevicesID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ device, qdev, node, want string }{
		{"", "/machine/peripheral/data/virtio-backend", "disk-a", "data"},
		{"", "sda", "disk-sda", "sda"},
		{"drive0", "sdb", "#block123", "sdb"},
		{"drive0", "/machine/peripheral-anon/device[3]", "#block123", "drive0"},
		{"", "/machine/peripheral-anon/device[3]", "disk-c", "disk-c"},
		{"", "/machine/peripheral-anon/device[3]", "#block123", "vdd"},
	} {
		if got := target(blockDevice{Device: c.device, QDev: c.qdev}, c.node, 3); got != c.want {
			t.Errorf("device %q, qdev %q, node %q: target %s, want %s", c.device, c.qdev, c.node, got, c.want)
		}
	}
}
