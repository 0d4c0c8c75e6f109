package open

import (
	"errors"

	"cairn/client/source"
	"cairn/client/source/qemu"
)

var libvirtKind = kind{
	name: "libvirt", given: func(o Options) string { return o.Libvirt },
	open: func(Options) (source.Source, error) { return nil, errors.New("libvirt is not built in yet") },
}

var qemuKind = kind{
	name: "qemu", given: func(o Options) string { return o.QEMU },
	open: func(o Options) (source.Source, error) {
		return qemu.New(qemu.Options{Dir: o.QEMU, State: o.State, FreezeLimit: o.FreezeLimit, Guard: true, Log: o.Log})
	},
	guard: qemu.GuardKind, guest: qemu.OpenGuest,
}
