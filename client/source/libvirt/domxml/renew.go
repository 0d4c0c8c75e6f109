package domxml

import (
	"crypto/rand"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/beevik/etree"
	"github.com/google/uuid"
)

// Identity is what makes a machine a different one from that which its
// definition was written for.
type Identity struct {
	Name string
	UUID uuid.UUID
	// NVRAM is the path of the variables that were restored for it, or "" when
	// there are none: libvirt then makes them from their template.
	NVRAM string
	// Exists tells whether a path of the host is there; nil takes all for there.
	Exists func(path string) bool
	// Rand is where addresses and ids come from; nil means crypto/rand.
	Rand io.Reader
}

// renewal is a Renew under way.
type renewal struct {
	*Domain
	id      Identity
	oldName string
	notices []string
}

func (r *renewal) notice(format string, args ...any) {
	r.notices = append(r.notices, fmt.Sprintf(format, args...))
}

// Renew makes the definition one of a new machine that can run beside the old
// one: name, UUID, generation id, MAC addresses, firmware variables, ports,
// sockets and logs are its own. Disks are not its business: see SetDisk. What
// cannot be had twice, such as a device of the host, stays, with a notice.
func (d *Domain) Renew(id Identity) (notices []string, err error) {
	if id.Rand == nil {
		id.Rand = rand.Reader
	}
	if id.Exists == nil {
		id.Exists = func(string) bool { return true }
	}
	r := &renewal{Domain: d, id: id, oldName: d.Name()}
	d.root.RemoveAttr("id")
	setText(ensure(d.root, "name"), id.Name)
	setText(ensure(d.root, "uuid", "name"), id.UUID.String())
	for _, si := range children(d.root, "sysinfo") {
		for _, e := range children(child(si, "system"), "entry") {
			if attr(e, "name") == "uuid" {
				setText(e, id.UUID.String())
			}
		}
	}
	for _, e := range children(d.root, "genid") {
		g, err := uuid.NewRandomFromReader(id.Rand)
		if err != nil {
			return nil, fmt.Errorf("make a generation id: %w", err)
		}
		setText(e, g.String())
	}
	r.firmware()
	r.seclabels()
	if err := r.interfaces(); err != nil {
		return nil, err
	}
	r.characters()
	r.graphics()
	r.drives()
	r.rest()
	return r.notices, nil
}

// SetNVRAM names the file that holds the firmware's variables. The template
// stays.
func (d *Domain) SetNVRAM(file string) {
	os := ensure(d.root, "os", "name", "uuid", "memory", "currentMemory", "vcpu")
	n := ensure(os, "nvram", "type", "firmware", "loader")
	for _, key := range []string{"type"} {
		n.RemoveAttr(key)
	}
	dropAll(n, "source")
	setText(n, file)
}

// setText replaces all of an element's content.
func setText(e *etree.Element, s string) {
	e.Child = nil
	e.SetText(s)
}

func (r *renewal) firmware() {
	n := child(r.root, "os", "nvram")
	switch f := r.Firmware(); {
	case r.id.NVRAM != "":
		r.SetNVRAM(r.id.NVRAM)
	case n != nil:
		// libvirt names a file after the machine, and fills it from the template.
		n.Child = nil
		n.RemoveAttr("type")
		if f.NVRAM != "" {
			r.notice("the UEFI variables (boot entries, Secure Boot keys) are not part of the restore: the machine begins with those of the template")
		}
	}
}

func (r *renewal) seclabels() {
	for _, e := range children(r.root, "seclabel") {
		if attr(e, "type") == "static" {
			r.notice("the fixed security label %s was left out: libvirt gives the machine one of its own", clip(text(e, "label")))
			drop(e)
			continue
		}
		dropAll(e, "label", "imagelabel")
	}
}

// interfaces gives every network card an address of its own.
func (r *renewal) interfaces() error {
	taken := map[string]bool{}
	for _, i := range r.Interfaces() {
		taken[i.MAC] = true
	}
	for _, e := range r.devices("interface") {
		if m := child(e, "mac"); m != nil {
			mac, err := newMAC(attr(m, "address"), r.id.Rand, taken)
			if err != nil {
				return err
			}
			m.CreateAttr("address", mac)
		}
		if t := child(e, "target"); t != nil {
			t.RemoveAttr("dev")
			if len(t.Attr) == 0 {
				drop(t)
			}
		}
		s := child(e, "source")
		if s != nil {
			s.RemoveAttr("portid")
		}
		if p := child(e, "virtualport", "parameters"); p != nil {
			p.RemoveAttr("instanceid")
			if has(p, "interfaceid") {
				p.RemoveAttr("interfaceid")
				if attr(child(e, "virtualport"), "type") == "midonet" { // libvirt makes none there
					u, err := uuid.NewRandomFromReader(r.id.Rand)
					if err != nil {
						return fmt.Errorf("make an interface id: %w", err)
					}
					p.CreateAttr("interfaceid", u.String())
				}
			}
		}
		if attr(e, "type") == "vhostuser" {
			r.notice("a network card is connected to the socket %s as the original is: they cannot run at the same time", clip(attr(s, "path")))
		}
	}
	return nil
}

// newMAC makes an address that is not taken: of QEMU's range if old is, else a
// locally administered one.
func newMAC(old string, rnd io.Reader, taken map[string]bool) (string, error) {
	for range 1000 {
		b := make([]byte, 6)
		if _, err := io.ReadFull(rnd, b); err != nil {
			return "", fmt.Errorf("make a MAC address: %w", err)
		}
		if strings.HasPrefix(strings.ToLower(old), "52:54:00:") {
			b[0], b[1], b[2] = 0x52, 0x54, 0x00
		} else {
			b[0] = b[0]&^1 | 2 // of one station, locally administered
			if b[0] == 0xfe {  // libvirt keeps these for the host's side
				b[0] = 0xfa
			}
		}
		mac := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
		if !taken[mac] {
			taken[mac] = true
			return mac, nil
		}
	}
	return "", fmt.Errorf("make a MAC address: none is free")
}

// drives empties drives whose medium is not there.
func (r *renewal) drives() {
	for _, k := range r.Disks() {
		if k.Removable() && k.Path != "" && !r.id.Exists(k.Path) {
			r.Eject(k.Target)
			r.notice("the medium %s of the drive %s is not there: the drive is empty", clip(k.Path), k.Target)
		}
	}
}

// own makes a path that belongs to the old machine one of the new.
func (r *renewal) own(p string) string {
	dir, base := path.Split(p)
	if r.oldName != "" && strings.Contains(base, r.oldName) {
		return dir + strings.ReplaceAll(base, r.oldName, r.id.Name)
	}
	ext := path.Ext(base)
	if ext == base {
		ext = ""
	}
	return dir + strings.TrimSuffix(base, ext) + "-" + r.id.Name + ext
}
