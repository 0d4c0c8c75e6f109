package mdraid

import (
	"fmt"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

type superblock struct{}

// Read reads the superblock of a device. The error wraps filesys.ErrWrongType
// when it has none.
func Read(d blockdev.Device) (*Member, error) {
	return nil, fmt.Errorf("read md superblock: %w", filesys.ErrWrongType)
}

// Assemble makes arrays of all members of a point.
func Assemble(members []*Member) []*Array { return nil }
