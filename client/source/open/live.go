package open

import (
	"cairn/client/source"
	"cairn/client/source/libvirt"
	"cairn/client/source/qemu"
)

var libvirtKind = kind{
	name: "libvirt", given: func(o Options) string { return o.Libvirt },
	open: func(o Options) (source.Source, error) {
		return libvirt.New(libvirt.Options{URI: o.Libvirt, State: o.State, FreezeLimit: o.FreezeLimit, Guard: true, Log: o.Log})
	},
	guard: libvirt.GuardKind, guest: libvirt.OpenGuest,
}

var qemuKind = kind{
	name: "qemu", given: func(o Options) string { return o.QEMU },
	open: func(o Options) (source.Source, error) {
		return qemu.New(qemu.Options{Dir: o.QEMU, State: o.State, FreezeLimit: o.FreezeLimit, Guard: true, Log: o.Log})
	},
	guard: qemu.GuardKind, guest: qemu.OpenGuest,
}
