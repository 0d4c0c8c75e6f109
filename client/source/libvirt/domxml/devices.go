package domxml

import (
	"strings"

	"github.com/beevik/etree"
)

// characters gives serial ports, consoles, channels and their like sockets and
// files of their own.
func (r *renewal) characters() {
	// A <console> of type serial is the first <serial> once more and has the
	// same <source>; renaming is the same for both, but is told once.
	told := map[string]bool{}
	notice := func(format string, args ...any) {
		before := len(r.notices)
		r.notice(format, args...)
		if told[r.notices[before]] {
			r.notices = r.notices[:before]
		} else {
			told[r.notices[before]] = true
		}
	}
	for _, tag := range []string{"serial", "parallel", "console", "channel", "smartcard", "redirdev"} {
		for _, e := range r.devices(tag) {
			r.character(tag, e, notice)
			for _, l := range children(e, "log") {
				if f := attr(l, "file"); f != "" {
					l.CreateAttr("file", r.own(f))
					notice("the %s writes its log to %s", tag, r.own(f))
				}
			}
		}
	}
}

func (r *renewal) character(tag string, e *etree.Element, notice func(string, ...any)) {
	kind, s := attr(e, "type"), child(e, "source")
	server := false
	for _, s := range children(e, "source") {
		server = server || attr(s, "mode") == "bind"
	}
	switch kind {
	case "pty":
		e.RemoveAttr("tty")
		if s != nil {
			s.RemoveAttr("path")
			if len(s.Attr) == 0 && len(s.ChildElements()) == 0 {
				drop(s)
			}
		}
	case "unix":
		old := attr(s, "path")
		switch {
		case old == "":
		case !server:
			notice("the %s is connected to the socket %s as the original is", tag, clip(old))
		case tag == "channel" && attr(child(e, "target"), "type") == "virtio":
			s.RemoveAttr("path") // libvirt makes one
		default:
			s.CreateAttr("path", r.own(old))
			notice("the %s listens on the socket %s", tag, r.own(old))
		}
	case "file":
		if old := attr(s, "path"); old != "" {
			s.CreateAttr("path", r.own(old))
			notice("the %s writes to the file %s", tag, r.own(old))
		}
	case "pipe":
		notice("the %s uses the pipe %s as the original does", tag, clip(attr(s, "path")))
	case "dev":
		notice("the %s uses the device %s of the host: it cannot run at the same time as the original", tag, clip(attr(s, "path")))
	case "tcp", "udp":
		if !server {
			break
		}
		if tag == "redirdev" || tag == "smartcard" {
			notice("the %s listens on a port that the original uses: it cannot run at the same time as the original", tag)
			break
		}
		dropAll(e, "source", "protocol")
		e.CreateAttr("type", "pty")
		notice("the %s listened on a port of the host that the original uses; it is a terminal now (virsh console)", tag)
	}
}

// graphics lets libvirt choose the ports and sockets of displays.
func (r *renewal) graphics() {
	for _, e := range r.devices("graphics") {
		kind := attr(e, "type")
		if kind != "vnc" && kind != "spice" && kind != "rdp" {
			continue
		}
		fixed := false
		for _, key := range []string{"port", "tlsPort"} {
			if v := attr(e, key); v != "" && v != "-1" {
				fixed = fixed || attr(e, "autoport") != "yes"
				if key == "port" {
					e.CreateAttr(key, "-1")
				} else {
					e.RemoveAttr(key)
				}
			}
		}
		if w := attr(e, "websocket"); w != "" && w != "-1" {
			e.CreateAttr("websocket", "-1")
			fixed = true
		}
		socket := has(e, "socket")
		e.RemoveAttr("socket")
		for _, l := range children(e, "listen") {
			if attr(l, "type") == "socket" {
				l.RemoveAttr("socket")
				socket = false
			}
		}
		if socket { // the older way to write it: libvirt makes a socket
			dropAll(e, "listen")
			ensure(e, "listen").CreateAttr("type", "socket")
			e.RemoveAttr("port")
			e.RemoveAttr("autoport")
		}
		if fixed {
			e.CreateAttr("autoport", "yes")
			r.notice("the %s display had a fixed port; libvirt chooses one", strings.ToUpper(kind))
		}
	}
}

// rest is about devices of which there is little to do.
func (r *renewal) rest() {
	for _, e := range r.devices("vsock") {
		for _, c := range children(e, "cid") {
			if has(c, "address") {
				c.RemoveAttr("address")
				c.CreateAttr("auto", "yes")
				r.notice("the guest's address for sockets between host and guest (vsock) is chosen by libvirt")
			}
		}
	}
	for _, h := range r.HostDevices() {
		r.notice("the %s is the original's too: the machine cannot run at the same time as the original", h)
	}
	for _, e := range r.devices("tpm") {
		switch b := child(e, "backend"); attr(b, "type") {
		case "passthrough":
			r.notice("the TPM is that of the host: the machine cannot run at the same time as the original, and what the TPM sealed stays there")
		case "external":
			r.notice("the TPM is that of a program of its own, as the original's is: they cannot run at the same time")
		case "emulator":
			dropAll(b, "source") // where libvirt would look for the original's state
		}
	}
	for _, e := range r.devices("memory") {
		if m := attr(e, "model"); m == "nvdimm" || m == "virtio-pmem" {
			r.notice("the persistent memory on %s is not part of the restore and was left out", clip(text(e, "source", "path")))
			drop(e)
		}
	}
	for _, e := range r.devices("lease") {
		r.notice("the lease %s is the original's: the machine cannot run at the same time", clip(text(e, "key")))
	}
	for _, e := range r.devices("filesystem") {
		s := child(e, "source")
		if sock := attr(s, "socket"); sock != "" {
			r.notice("a shared directory is served on the socket %s as the original's is: they cannot run at the same time", clip(sock))
		} else if dir := attr(s, "dir"); dir != "" {
			r.notice("the directory %s of the host is shared with the original", clip(dir))
		}
		for _, b := range children(e, "binary") { // of the one that ran
			dropAll(b, "socket")
		}
	}
	for _, e := range r.devices("shmem") {
		r.notice("the shared memory %s is the original's too", clip(attr(e, "name")))
	}
	for _, e := range r.root.ChildElements() {
		if e.Tag == "commandline" && e.NamespaceURI() == "http://libvirt.org/schemas/domain/qemu/1.0" {
			r.notice("the definition has arguments of its own for QEMU (qemu:commandline): they are kept as they are; if they name ports or files, these are the original's")
		}
	}
}
