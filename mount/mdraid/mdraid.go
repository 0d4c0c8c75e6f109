package mdraid

import (
	"errors"
	"fmt"
	"io"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// Member is one device of an array.
type Member struct {
	Device  blockdev.Device // what Read was given
	UUID    string          // of the array, as mdadm prints it: four words in hex between colons
	Name    string          // of the array, as its creator gave it ("host:0"), may be empty
	Version string          // of the metadata: "0.90", "1.0", "1.1", "1.2", "imsm", "ddf"
	Level   string          // of the array: "raid0", "raid1", "linear", …

	sb superblock
}

// Array is a software raid array.
type Array struct {
	Name  string // as its creator gave it, may be empty
	UUID  string
	Level string
	Size  int64 // bytes, 0 when unknown
	// Device has the array's content. It is nil when that cannot be read, and
	// then Reason says why. Parts of a Device may still give errors.
	Device  blockdev.Device
	Reason  string
	Members []*Member // those given, whether they are read or not
	// Warnings are sentences for a person: a missing or stale member, a rebuild
	// that was under way.
	Warnings []string
}

// noLimit stands for "all of it" where md has a sector with all bits set.
const noLimit = int64(1) << 62

const (
	sectorSize = 512
	mdMagic    = 0xa92b4efc
)

// superblock is what both formats tell, in bytes.
type superblock struct {
	uuid     [16]byte // of the array
	device   [16]byte // of the member; 0.90 has none
	level    int
	layout   int // -1 when it is not recorded
	chunk    int64
	disks    int   // slots
	size     int64 // that the array uses of each member; 0 where each has its own
	number   int   // of this member, index of roles
	roles    []uint16
	events   uint64
	dataOff  int64
	dataSize int64
	// inSync is up to where this member is rebuilt; resync up to where the
	// array's members are known to be in step. noLimit is everywhere.
	inSync, resync int64
	avoid          bool  // write-mostly
	replacement    bool  // takes the place of a member that still works
	bitmap         int64 // where the write-intent bitmap is, 0 for none
	bad            badLog
	refused        error // a feature that is not understood
}

// Roles beyond the slots.
const (
	roleSpare   = 0xFFFF
	roleFaulty  = 0xFFFE
	roleJournal = 0xFFFD
)

var levels = map[int]string{
	-1: "linear", 0: "raid0", 1: "raid1", 4: "raid4", 5: "raid5", 6: "raid6", 10: "raid10", -4: "multipath", -5: "faulty",
}

func levelName(level int) string {
	if name := levels[level]; name != "" {
		return name
	}
	return fmt.Sprintf("level %d", level)
}

// Read reads the superblock of a device. The error wraps filesys.ErrWrongType
// when it has none, and filesys.ErrCorrupt when it has one that is damaged.
func Read(d blockdev.Device) (*Member, error) {
	var damage error
	for _, read := range []func(blockdev.Device) (*Member, error){
		func(d blockdev.Device) (*Member, error) { return readV1(d, "1.2", 4096) },
		func(d blockdev.Device) (*Member, error) { return readV1(d, "1.1", 0) },
		func(d blockdev.Device) (*Member, error) {
			return readV1(d, "1.0", (d.Size()/sectorSize-16)/8*8*sectorSize)
		},
		readV0, readIMSM, readDDF,
	} {
		m, err := read(d)
		if err == nil {
			m.Device = d
			return m, nil
		}
		if !errors.Is(err, filesys.ErrWrongType) && damage == nil {
			damage = err
		}
	}
	if damage != nil {
		return nil, damage
	}
	return nil, fmt.Errorf("no md superblock: %w", filesys.ErrWrongType)
}

// readAll reads n bytes at off. What is not on the device is no superblock.
func readAll(d blockdev.Device, off, n int64) ([]byte, error) {
	if off < 0 || n > d.Size() || off > d.Size()-n {
		return nil, filesys.ErrWrongType
	}
	b := make([]byte, n)
	if got, err := d.ReadAt(b, off); int64(got) < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read md superblock at %d: %w", off, err)
	}
	return b, nil
}
