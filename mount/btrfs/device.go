package btrfs

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"cairn/mount/filesys"
)

// Device is one of the devices of a file system: a disk, partition or volume.
type Device interface {
	io.ReaderAt
	Size() int64
}

// ID says of one device to which file system it belongs.
type ID struct {
	FSID         string // UUID of the file system, as tools print it
	MetadataUUID string // UUID in the tree blocks; differs from FSID if that was changed
	DevID        uint64 // number of the device in its file system, from 1
	DeviceUUID   string
	Devices      uint64 // how many devices the file system has
	Generation   uint64 // transaction that this device's superblock is of
	Label        string
	Seeding      bool // other file systems may stand on this one's devices
}

// Identify reads the superblock of one device. It wraps filesys.ErrWrongType
// when there is none.
func Identify(r io.ReaderAt, size int64) (ID, error) {
	s, _, err := readSuper(r, size)
	if err != nil {
		return ID{}, wrap(err, "identify btrfs")
	}
	return ID{
		FSID: uuidString(s.fsid), MetadataUUID: uuidString(s.metaID), DevID: s.dev.id, DeviceUUID: uuidString(s.dev.uuid),
		Devices: s.devices, Generation: s.generation, Label: s.label(), Seeding: s.flags&superSeeding != 0,
	}, nil
}

// device is a Device whose superblock was read.
type device struct {
	io.ReaderAt
	size  int64
	super *super
	index int // among those given to Open
	// behind: its superblock is of an earlier transaction than the newest.
	// stale: of more than one, so that it was away while the others were
	// written. One is what a power cut between the writes of the superblocks
	// makes, when all else has been written.
	behind, stale bool
}

// assemble reads all superblocks and chooses the one to go by.
func assemble(devs []Device) (list []*device, main *super, warnings []string, err error) {
	if len(devs) == 0 {
		return nil, nil, nil, fmt.Errorf("no devices: %w", filesys.ErrInvalid)
	}
	for i, d := range devs {
		s, w, err := readSuper(d, d.Size())
		if err != nil {
			if len(devs) > 1 {
				err = wrap(err, "device %d of those given", i+1)
			}
			return nil, nil, nil, err
		}
		for _, text := range w {
			if len(devs) > 1 {
				text = fmt.Sprintf("Device %d: %s", s.dev.id, text)
			}
			warnings = append(warnings, text)
		}
		list = append(list, &device{ReaderAt: d, size: d.Size(), super: s, index: i})
	}
	// The file system is the one that others are not built upon.
	main = list[0].super
	for _, d := range list[1:] {
		s := d.super
		seed, mainSeed := s.flags&superSeeding != 0, main.flags&superSeeding != 0
		if mainSeed && !seed || mainSeed == seed && s.generation > main.generation {
			main = s
		}
	}
	// A device that is there twice counts once, in its newest state.
	byUUID := map[[16]byte]*device{}
	for _, d := range list {
		s := d.super
		if s.fsid != main.fsid && s.flags&superSeeding == 0 {
			return nil, nil, nil, fmt.Errorf("device %d of those given belongs to the file system %s, others to %s: %w",
				d.index+1, uuidString(s.fsid), uuidString(main.fsid), filesys.ErrInvalid)
		}
		old := byUUID[s.dev.uuid]
		if old != nil {
			warnings = append(warnings, fmt.Sprintf("Device %d is there twice; the newer one is used.", s.dev.id))
		}
		if old == nil || s.generation > old.super.generation {
			byUUID[s.dev.uuid] = d
		}
	}
	list = slices.DeleteFunc(list, func(d *device) bool { return byUUID[d.super.dev.uuid] != d })
	for _, d := range list {
		s := d.super
		if s.fsid == main.fsid && s.generation < main.generation {
			d.behind = true
			d.stale = main.generation-s.generation > 1
			if d.stale {
				warnings = append(warnings, fmt.Sprintf("Device %d is stale: it is of generation %d, the file system of %d.",
					s.dev.id, s.generation, main.generation))
			}
		}
		if uint64(d.size) < s.dev.total {
			warnings = append(warnings, fmt.Sprintf("Device %d has %d bytes, but should have %d.", s.dev.id, d.size, s.dev.total))
		}
	}
	if unknown := main.ro &^ roKnown; unknown != 0 {
		warnings = append(warnings, fmt.Sprintf("Features that only matter for writing are not known: compat_ro bits %s.",
			strings.TrimPrefix(fmt.Sprintf("%#x", unknown), "0x")))
	}
	return list, main, warnings, nil
}
