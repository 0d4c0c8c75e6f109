package mdraid

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// readIMSM recognises a member of Intel's firmware raid, whose metadata ends in
// the last but one sector.
func readIMSM(d blockdev.Device) (*Member, error) {
	b, err := readAll(d, d.Size()/sectorSize*sectorSize-2*sectorSize, sectorSize)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b, []byte("Intel Raid ISM Cfg Sig. ")) {
		return nil, filesys.ErrWrongType
	}
	return container("imsm", "firmware raid (Intel matrix storage)", b[40:44]), nil
}

// readDDF recognises a member of firmware raid in the common format of the
// Storage Networking Industry Association, whose anchor is the last sector.
func readDDF(d blockdev.Device) (*Member, error) {
	b, err := readAll(d, d.Size()/sectorSize*sectorSize-sectorSize, sectorSize)
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint32(b) != 0xDE11DE11 {
		return nil, filesys.ErrWrongType
	}
	return container("ddf", "firmware raid (DDF)", b[8:24]), nil
}

func container(version, what string, id []byte) *Member {
	m := &Member{Version: version, Level: "container"}
	copy(m.sb.uuid[:], id)
	m.UUID = formatUUID(m.sb.uuid)
	m.sb.refused = fmt.Errorf("%s: %w", what, filesys.ErrUnsupported)
	return m
}
