package open

import (
	"errors"

	"cairn/client/source"
)

var libvirtKind = kind{
	name: "libvirt", given: func(o Options) string { return o.Libvirt },
	open: func(Options) (source.Source, error) { return nil, errors.New("libvirt is not built in yet") },
}

var qemuKind = kind{
	name: "qemu", given: func(o Options) string { return o.QEMU },
	open: func(Options) (source.Source, error) { return nil, errors.New("QEMU is not built in yet") },
}
