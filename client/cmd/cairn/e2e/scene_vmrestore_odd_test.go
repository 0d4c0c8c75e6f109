//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/client/source/guesttest"
)

// A machine that is not like those that the kit makes: its disks are an overlay
// over a base, a block device, a volume of a pool and a file on SATA, one is left
// out, its CD's image is deleted; its name has to be quoted everywhere. It has no
// system: firmware runs, and nobody writes.
func TestRestoreOddMachine(t *testing.T) {
	h := newRestoreHost(t)
	title := guesttest.Prefix() + "Odd VM (ü) 'x'"
	random := func(name string, size int64, seed uint64) string {
		h.fillRandom(h.disks+"/"+name, size, seed)
		return h.disks + "/" + name
	}
	sub := h.disks + "/sub dir"
	h.must(os.Mkdir(sub, 0o755))
	base := random("base.raw", 8*mib, 1)
	overlay := sub + "/top & <overlay>.qcow2"
	h.tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay, fmt.Sprint(12*mib))
	h.tool("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 2M", "-c", "write -P 8 9M 64k", overlay)
	file := random("file.img", 5*mib+512, 2)
	device, _ := h.loop(random("device.raw", 6*mib, 3), part{0, 6 * mib}, false)
	scratch, cd := random("scratch.raw", 4*mib, 4), random("cd.iso", mib, 5)
	pool := guesttest.Prefix() + "pool"
	h.tool("virsh", "-q", "-c", "qemu:///system", "pool-create-as", pool, "dir", "--target", sub)
	h.once(func() { h.tool("virsh", "-q", "-c", "qemu:///system", "pool-destroy", pool) })
	h.tool("virsh", "-q", "-c", "qemu:///system", "vol-create-as", pool, "volume", fmt.Sprint(7*mib), "--format", "qcow2")
	h.tool("qemu-io", "-f", "qcow2", "-c", "write -P 9 3M 1M", sub+"/volume")

	disk := func(kind, source, format, device, target, bus string) string {
		return fmt.Sprintf("<disk type='%s' device='%s'><driver name='qemu' type='%s'/><source %s/><target dev='%s' bus='%s'/></disk>\n", kind, device, format, source, target, bus)
	}
	definition := "<domain type='qemu'><name>" + strings.ReplaceAll(title, "'", "&apos;") + "</name><memory unit='MiB'>64</memory>" +
		"<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>" +
		disk("file", "file='"+strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(overlay)+"'", "qcow2", "disk", "vda", "virtio") +
		disk("file", "file='"+file+"'", "raw", "disk", "sda", "sata") +
		disk("block", "dev='"+device+"'", "raw", "disk", "vdb", "virtio") +
		disk("volume", "pool='"+pool+"' volume='volume'", "qcow2", "disk", "vdc", "virtio") +
		disk("file", "file='"+scratch+"'", "raw", "disk", "sdc", "scsi") +
		disk("file", "file='"+cd+"'", "raw", "cdrom", "sdb", "sata") +
		"<controller type='scsi' model='virtio-scsi'/>" +
		"<interface type='user'><mac address='02:ca:12:00:00:01'/><model type='e1000'/></interface>" +
		"<interface type='user'><mac address='52:54:00:ca:12:07'/><model type='virtio'/></interface>" +
		"<graphics type='vnc' port='5987' autoport='no' listen='127.0.0.1'/><video><model type='vga'/></video>" +
		"<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>" +
		"</devices></domain>"
	h.must(os.WriteFile(h.path("odd.xml"), []byte(definition), 0o600))
	h.tool("virsh", "-q", "-c", "qemu:///system", "define", "--validate", h.path("odd.xml"))
	vm := guesttest.Attach(t, title)
	vm.Start()
	id := ""
	h.until("the agent has told of "+title, func() bool {
		var list []struct{ Name, Title string }
		h.json(&list, "machine", "list")
		for _, m := range list {
			if m.Title == title {
				id = last(m.Name)
			}
		}
		return id != ""
	})
	h.protect(id, "--exclude-disk", "sdc")
	j := h.backUpBadly(id)
	if !strings.HasPrefix(j.State, "JOB_STATE_COMPLETED") {
		t.Fatal(j)
	}
	h.consistent(j.RecoveryPoint, "CRASH_CONSISTENT") // nobody is in there
	h.must(os.Remove(cd))

	same := func(dup *guesttest.DomainVM) hardware {
		t.Helper()
		hw := h.hardware(dup)
		var targets []string
		for _, d := range hw.Disks {
			targets = append(targets, d.Target.Dev)
			want, format := map[string]string{"vda": overlay, "sda": file, "vdb": device, "vdc": sub + "/volume"}[d.Target.Dev], "raw"
			if d.Target.Bus == "virtio" && d.Target.Dev != "vdb" {
				format = "qcow2"
			}
			switch {
			case d.Target.Dev == "sdb":
				if d.Source.File != "" {
					t.Errorf("the CD drive has %s", d.Source.File)
				}
			case want == "":
				t.Errorf("%s has disk %s", dup.Name, d.Target.Dev)
			default:
				h.tool("qemu-img", "compare", "-q", "-U", "-f", format, "-F", d.Driver.Type, want, d.Source.File)
			}
		}
		slices.Sort(targets)
		if strings.Join(targets, " ") != "sda sdb vda vdb vdc" {
			t.Errorf("%s has disks %v", dup.Name, targets)
		}
		if macs := hw.macs(); len(macs) != 2 || slices.Contains(macs, "02:ca:12:00:00:01") || slices.Contains(macs, "52:54:00:ca:12:07") {
			t.Errorf("%s has addresses %v", dup.Name, macs)
		}
		return hw
	}

	// Beside the original, which runs.
	to := guesttest.Dir(t)
	name := guesttest.Prefix() + "odd copy"
	h.restored(id+"@latest", "--name", name, "--to", to, "--start")
	dup := guesttest.Attach(t, name)
	if dup.State() != "running" || vm.State() != "running" {
		t.Errorf("the original is %s, the copy %s", vm.State(), dup.State())
	}
	dup.Destroy()
	same(dup)
	instant := guesttest.Prefix() + "odd instant"
	h.restored(id+"@latest", "--name", instant, "--to", to, "--instant")
	dup = guesttest.Attach(t, instant)
	if state := dup.Virsh("domstate", "--reason", instant); !strings.HasPrefix(state, "running") {
		t.Errorf("restored instantly, it is %s\n%s", state, h.read("/var/log/libvirt/qemu/"+instant+".log"))
	}
	dup.Destroy()
	same(dup)
	proved(t, "an overlay, a block device, a volume of a pool and a SATA disk of a machine named %q come back as files of a new machine, also instantly, without the disk that was left out", title)

	h.must(os.MkdirAll("/var/lib/libvirt/images", 0o711)) // packages of libvirt make it
	// Where the old ones were; and under its own name once it is gone.
	h.restored(id + "@latest") // called TITLE-restored
	dup = guesttest.Attach(t, title+"-restored")
	hw := same(dup)
	for _, d := range hw.Disks {
		if d.Target.Dev == "vdb" {
			h.once(func() { h.must(os.Remove(d.Source.File)) })
		}
		want := map[string]string{"vda": sub, "sda": h.disks, "vdb": "/var/lib/libvirt/images", "vdc": sub}[d.Target.Dev]
		if want != "" && filepath.Dir(d.Source.File) != want {
			t.Errorf("disk %s is %s, not in %s", d.Target.Dev, d.Source.File, want)
		}
	}
	vm.Destroy()
	vm.Virsh("undefine", title, "--checkpoints-metadata")
	h.restored(id+"@latest", "--name", title, "--to", h.state, "--start")
	if vm.State() != "running" {
		t.Errorf("under its own name it is %s", vm.State())
	}
	vm.Destroy()
	same(vm)
	h.undisturbed()
	proved(t, "without a directory the disks are beside the old ones, that of a device among libvirt's images; a name is free again when its machine is gone")

}
