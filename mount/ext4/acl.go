package ext4

import "encoding/binary"

// Names of POSIX access control lists.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// decodeACL turns a list as it is on disk into what getxattr gives. On disk
// (version 1) only entries for a named user or group have an id; in an
// attribute (version 2) all have, with all ones for "none".
//
//	version (32 bits); entries: tag, permissions (16 each), id (32)
func decodeACL(disk []byte) ([]byte, error) {
	const user, group = 0x02, 0x08
	if len(disk) < 4 || le.Uint32(disk) != 1 {
		return nil, corrupt("access control list of %d bytes, not of version 1", len(disk))
	}
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for disk = disk[4:]; len(disk) > 0; {
		if len(disk) < 4 {
			return nil, corrupt("access control list ends early")
		}
		tag := le.Uint16(disk)
		out = append(out, disk[:4]...)
		disk = disk[4:]
		id := []byte{0xFF, 0xFF, 0xFF, 0xFF}
		switch tag {
		case user, group:
			if len(disk) < 4 {
				return nil, corrupt("access control list ends early")
			}
			id, disk = disk[:4], disk[4:]
		case 0x01, 0x04, 0x10, 0x20: // owner, owning group, mask, others
		default:
			return nil, corrupt("access control list with tag %d", tag)
		}
		out = append(out, id...)
	}
	return out, nil
}
