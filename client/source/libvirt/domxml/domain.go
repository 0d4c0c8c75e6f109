package domxml

import (
	"strconv"
	"strings"

	"github.com/beevik/etree"
	"github.com/google/uuid"
)

func (d *Domain) devices(tag string) []*etree.Element {
	return children(child(d.root, "devices"), tag)
}

// Name is what the machine is called.
func (d *Domain) Name() string { return text(d.root, "name") }

// UUID is in canonical form (lower case, dashes), or "" if there is none.
func (d *Domain) UUID() string {
	u, err := uuid.Parse(text(d.root, "uuid"))
	if err != nil {
		return ""
	}
	return u.String()
}

// Type is the kind of virtualization: kvm, qemu, …
func (d *Domain) Type() string { return attr(d.root, "type") }

// Memory is the most memory that the guest can have, in bytes; 0 when it is
// not said in a way that is understood.
func (d *Domain) Memory() int64 {
	e := child(d.root, "memory")
	if e == nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(e.Text()), 10, 64)
	unit := map[string]int64{
		"b": 1, "bytes": 1, "": 1 << 10, "k": 1 << 10, "kib": 1 << 10, "kb": 1000,
		"m": 1 << 20, "mib": 1 << 20, "mb": 1e6, "g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
		"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
	}[strings.ToLower(attr(e, "unit"))]
	if err != nil || n < 0 || unit == 0 || n > (1<<63-1)/unit {
		return 0
	}
	return n * unit
}

// VCPUs is the most processors that the guest can have; 0 when it is not said.
func (d *Domain) VCPUs() int {
	n, err := strconv.Atoi(text(d.root, "vcpu"))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// GenID tells whether the guest is told of restores by a generation id.
func (d *Domain) GenID() bool { return child(d.root, "genid") != nil }

// AgentChannel tells whether there is a channel for QEMU's guest agent.
func (d *Domain) AgentChannel() bool {
	for _, e := range d.devices("channel") {
		if attr(child(e, "target"), "name") == "org.qemu.guest_agent.0" {
			return true
		}
	}
	return false
}

// Firmware is what the machine boots with.
type Firmware struct {
	// Auto is "efi" or "bios" when libvirt chooses the files, or "".
	Auto string
	// Loader is the path of the code, or "".
	Loader string
	// NVRAM is the path of the variables, or "": libvirt chooses one, or the
	// firmware has none (see UEFI). Template is what they begin as, or "".
	NVRAM, Template string
	// NVRAMFormat is raw, qcow2, or "" when nothing is said, which means raw.
	NVRAMFormat string
}

// UEFI tells whether the firmware has variables.
func (f Firmware) UEFI() bool { return f.Auto == "efi" || f.NVRAM != "" || f.Template != "" }

// Firmware returns what the definition says of it.
func (d *Domain) Firmware() Firmware {
	os := child(d.root, "os")
	n := child(os, "nvram")
	f := Firmware{
		Auto:        attr(os, "firmware"),
		Loader:      text(os, "loader"),
		NVRAM:       text(os, "nvram"),
		Template:    attr(n, "template"),
		NVRAMFormat: attr(n, "format"),
	}
	if s := child(n, "source"); s != nil {
		f.NVRAM = attr(s, "file")
		if f.NVRAM == "" {
			f.NVRAM = attr(s, "dev")
		}
	}
	if n != nil && f.Template == "" && f.NVRAM == "" && f.Auto == "" {
		f.Auto = "efi" // an empty <nvram/>: libvirt fills it in
	}
	return f
}

// TPM returns the version of the emulated TPM ("1.2", "2.0", or "default" when
// it is libvirt's choice), or "" when the machine has none that is emulated.
func (d *Domain) TPM() string {
	for _, e := range d.devices("tpm") {
		if b := child(e, "backend"); attr(b, "type") == "emulator" {
			if v := attr(b, "version"); v != "" {
				return v
			}
			return "default"
		}
	}
	return ""
}

// Interface is a network card.
type Interface struct {
	// Type is network, bridge, …; Model virtio, e1000, …
	Type, Model, MAC string
}

// Interfaces are in the order of the document.
func (d *Domain) Interfaces() (is []Interface) {
	for _, e := range d.devices("interface") {
		is = append(is, Interface{
			Type: attr(e, "type"), Model: attr(child(e, "model"), "type"),
			MAC: strings.ToLower(attr(child(e, "mac"), "address")),
		})
	}
	return is
}

// Controller is a controller of disks, of a bus or of ports.
type Controller struct{ Type, Index, Model string }

// Controllers are in the order of the document.
func (d *Domain) Controllers() (cs []Controller) {
	for _, e := range d.devices("controller") {
		cs = append(cs, Controller{Type: attr(e, "type"), Index: attr(e, "index"), Model: attr(e, "model")})
	}
	return cs
}

// HostDevices describes the devices of the host that the machine has for
// itself, such as "PCI device 0000:03:00.0".
func (d *Domain) HostDevices() (ds []string) {
	for _, e := range d.devices("hostdev") {
		s := child(e, "source")
		switch kind := attr(e, "type"); {
		case kind == "pci":
			a := child(s, "address")
			ds = append(ds, "PCI device "+hexOf(a, "domain", 4)+":"+hexOf(a, "bus", 2)+":"+hexOf(a, "slot", 2)+"."+hexOf(a, "function", 1))
		case kind == "usb":
			ds = append(ds, "USB device "+clip(attr(child(s, "vendor"), "id")+":"+attr(child(s, "product"), "id")))
		case kind == "mdev":
			ds = append(ds, "mediated device "+clip(attr(child(s, "address"), "uuid")))
		default:
			ds = append(ds, clip(kind)+" device of the host")
		}
	}
	for _, e := range d.devices("interface") {
		if attr(e, "type") == "hostdev" {
			a := child(e, "source", "address")
			ds = append(ds, "network device "+hexOf(a, "domain", 4)+":"+hexOf(a, "bus", 2)+":"+hexOf(a, "slot", 2)+"."+hexOf(a, "function", 1))
		}
	}
	return ds
}

// hexOf formats a number as libvirt writes it ("0x03") with so many digits.
func hexOf(e *etree.Element, key string, digits int) string {
	n, err := strconv.ParseUint(attr(e, key), 0, 32)
	if err != nil {
		n = 0
	}
	s := strconv.FormatUint(n, 16)
	return strings.Repeat("0", max(0, digits-len(s))) + s
}
