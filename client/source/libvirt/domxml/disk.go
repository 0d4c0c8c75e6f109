package domxml

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/beevik/etree"
)

// Disk is a disk, a CD drive or a floppy drive.
type Disk struct {
	// Target is its name in the machine ("vda"), Bus virtio, scsi, sata, …
	Target, Bus string
	// Device is disk, lun, cdrom or floppy.
	Device string
	// Type says where it is: file, block, dir, network, volume, nvme, vhostuser.
	Type string
	// Path is the file, device or directory; "" for other types and for an
	// empty drive.
	Path string
	// Pool and Volume are those of type volume.
	Pool, Volume string
	// Protocol and Name are those of type network ("rbd", "pool/image").
	Protocol, Name string
	// Format is that of the driver (raw, qcow2, …); "" when it is not said,
	// which libvirt takes as raw.
	Format                         string
	ReadOnly, Shareable, Transient bool
	// Encrypted tells that what is stored is not what the guest sees.
	Encrypted bool
	// Backings are the paths that its backing chain is said to be on, nearest
	// first; a path is "" when that layer is no file or device.
	Backings []string
}

// Removable tells whether it is a drive with a medium rather than a disk.
func (d Disk) Removable() bool { return d.Device == "cdrom" || d.Device == "floppy" }

// Where describes the place of a disk for messages.
func (d Disk) Where() string {
	switch {
	case d.Path != "":
		return d.Path
	case d.Type == "volume":
		return fmt.Sprintf("volume %s of pool %s", d.Volume, d.Pool)
	case d.Type == "network":
		return fmt.Sprintf("%s:%s", d.Protocol, d.Name)
	}
	return d.Type
}

// Disks are in the order of the document.
func (d *Domain) Disks() (ds []Disk) {
	for _, e := range d.devices("disk") {
		ds = append(ds, diskOf(e))
	}
	return ds
}

// Disk returns the disk of a target.
func (d *Domain) Disk(target string) (Disk, bool) {
	if e := d.disk(target); e != nil {
		return diskOf(e), true
	}
	return Disk{}, false
}

func (d *Domain) disk(target string) *etree.Element {
	for _, e := range d.devices("disk") {
		if attr(child(e, "target"), "dev") == target {
			return e
		}
	}
	return nil
}

func diskOf(e *etree.Element) Disk {
	t, s := child(e, "target"), child(e, "source")
	k := Disk{
		Target: attr(t, "dev"), Bus: attr(t, "bus"), Device: attr(e, "device"), Type: attr(e, "type"),
		Path: pathOf(s), Pool: attr(s, "pool"), Volume: attr(s, "volume"), Protocol: attr(s, "protocol"), Name: attr(s, "name"),
		Format:   attr(child(e, "driver"), "type"),
		ReadOnly: child(e, "readonly") != nil, Shareable: child(e, "shareable") != nil, Transient: child(e, "transient") != nil,
		Encrypted: child(e, "encryption") != nil || child(s, "encryption") != nil,
	}
	if k.Device == "" {
		k.Device = "disk"
	}
	if k.Type == "" {
		k.Type = "file"
	}
	for b := child(e, "backingStore"); b != nil && attr(b, "type") != ""; b = child(b, "backingStore") {
		k.Backings = append(k.Backings, pathOf(child(b, "source")))
	}
	return k
}

// pathOf returns the local path that a <source> names.
func pathOf(s *etree.Element) string {
	for _, key := range []string{"file", "dev", "dir"} {
		if v := attr(s, key); v != "" {
			return v
		}
	}
	return ""
}

// Place is where the contents of a disk will be.
type Place struct {
	// Path of a file, or of a block device if Block is set.
	Path  string
	Block bool
	// Format is raw or qcow2.
	Format string
	// Backing is what the image's missing parts are read from, or nil.
	Backing *NBD
}

// NBD is an export served on a unix socket, of a raw disk.
type NBD struct {
	Socket, Export string
	// Reconnect is for how long QEMU tries to reach a server that went away
	// before the guest's reads fail; whole seconds.
	Reconnect time.Duration
}

// SetDisk moves a disk. What belongs to its old place (how to log in, to
// decrypt, what backs it) goes; how it is presented to the guest stays. It
// returns what its owner should know.
func (d *Domain) SetDisk(target string, p Place) (notices []string, err error) {
	e := d.disk(target)
	if e == nil {
		return nil, fmt.Errorf("the definition has no disk %s", clip(target))
	}
	old := diskOf(e)
	if old.Encrypted {
		notices = append(notices, fmt.Sprintf("disk %s was stored encrypted; it is restored to %s without encryption", target, p.Path))
	}
	dropAll(e, "auth", "encryption", "backingStore", "mirror", "source", "reservations", "backenddomain")
	if old.Device == "lun" && !p.Block {
		notices = append(notices, fmt.Sprintf("disk %s handed SCSI commands to a device of the host; as a file it cannot: it becomes an ordinary disk", target))
		e.CreateAttr("device", "disk")
		for _, key := range []string{"sgio", "rawio"} {
			e.RemoveAttr(key)
		}
	}
	kind, key := "file", "file"
	if p.Block {
		kind, key = "block", "dev"
	}
	e.CreateAttr("type", kind)
	driver := ensure(e, "driver")
	if !has(driver, "name") {
		driver.CreateAttr("name", "qemu")
	}
	driver.CreateAttr("type", p.Format)
	if p.Format != "qcow2" {
		dropAll(driver, "metadata_cache")
		driver.RemoveAttr("discard_no_unref")
	}
	s := ensure(e, "source", "driver")
	s.CreateAttr(key, p.Path)
	if p.Backing == nil {
		return notices, nil
	}
	if old.Transient {
		dropAll(e, "transient")
		notices = append(notices, fmt.Sprintf("disk %s forgot its changes whenever the machine was switched off; now it keeps them", target))
	}
	b := ensure(e, "backingStore", "driver", "source")
	b.CreateAttr("type", "network")
	b.CreateElement("format").CreateAttr("type", "raw")
	n := b.CreateElement("source")
	n.CreateAttr("protocol", "nbd")
	n.CreateAttr("name", p.Backing.Export)
	h := n.CreateElement("host")
	h.CreateAttr("transport", "unix")
	h.CreateAttr("socket", p.Backing.Socket)
	if delay := int64(p.Backing.Reconnect / time.Second); delay > 0 {
		n.CreateElement("reconnect").CreateAttr("delay", strconv.FormatInt(delay, 10))
	}
	b.CreateElement("backingStore")
	return notices, nil
}

// RemoveDisk takes a disk out of the definition.
func (d *Domain) RemoveDisk(target string) {
	drop(d.disk(target))
}

// Eject empties a CD or floppy drive.
func (d *Domain) Eject(target string) {
	e := d.disk(target)
	dropAll(e, "source", "backingStore", "auth", "encryption")
	if attr(e, "type") != "file" {
		e.CreateAttr("type", "file")
	}
}

// AddDisk copies a disk of another definition of the same machine into this
// one. It must not have one of that target.
func (d *Domain) AddDisk(from *Domain, target string) error {
	e := from.disk(target)
	if e == nil || d.disk(target) != nil {
		return fmt.Errorf("disk %s cannot be added to the definition", clip(target))
	}
	c := e.Copy()
	// Its place on the bus may be taken by something else now.
	dropAll(c, "address", "alias")
	ensure(d.root, "devices", "name", "uuid", "os").AddChild(c)
	return nil
}

// ReadsFrom tells whether any disk, or what backs it, is said to be read from a
// socket of NBD in the directory.
func (d *Domain) ReadsFrom(socket string) (targets []string) {
	for _, e := range d.devices("disk") {
		for _, h := range e.FindElements(".//source/host") {
			if strings.HasPrefix(attr(h, "socket"), socket) {
				targets = append(targets, attr(child(e, "target"), "dev"))
				break
			}
		}
	}
	return targets
}

// PauseOnError has the machine paused, instead of its guest told, when the disk
// cannot be read or written. Of a SCSI disk that cannot be read the guest is told
// all the same: QEMU 7.2, when such a machine goes on, tells the guest that all is
// well and gives it zeros.
func (d *Domain) PauseOnError(target string) {
	if e := d.disk(target); e != nil {
		driver, onRead := ensure(e, "driver"), "stop"
		if attr(child(e, "target"), "bus") == "scsi" {
			onRead = "report"
		}
		driver.CreateAttr("error_policy", "stop")
		driver.CreateAttr("rerror_policy", onRead)
	}
}

// CopyErrorPolicy takes over what another definition says of errors of a disk.
func (d *Domain) CopyErrorPolicy(from *Domain, target string) {
	e, f := d.disk(target), from.disk(target)
	if e == nil {
		return
	}
	driver := ensure(e, "driver")
	for _, key := range []string{"error_policy", "rerror_policy"} {
		if v := attr(child(f, "driver"), key); v != "" {
			driver.CreateAttr(key, v)
		} else {
			driver.RemoveAttr(key)
		}
	}
}
