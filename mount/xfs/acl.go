package xfs

// Names of POSIX access control lists, for users and on disk (where they are
// attributes of the namespace "trusted.").
const (
	aclAccess      = "system.posix_acl_access"
	aclDefault     = "system.posix_acl_default"
	diskACLAccess  = "SGI_ACL_FILE"
	diskACLDefault = "SGI_ACL_DEFAULT"
)

// decodeACL turns a list as it is on disk into what getxattr gives.
//
//	disk: count (32 bits); entries: tag (32), id (32), permissions (16), padding (16)
//	here: version 2 (32 bits, little-endian); entries: tag, permissions (16 each), id (32),
//	      with all ones for the entries that have no id
func decodeACL(disk []byte) ([]byte, error) {
	const user, group = 0x02, 0x08
	if len(disk) < 4 || uint64(len(disk)-4) != 12*uint64(be.Uint32(disk)) {
		return nil, corrupt("access control list of %d bytes", len(disk))
	}
	out := le.AppendUint32(nil, 2)
	for disk = disk[4:]; len(disk) > 0; disk = disk[12:] {
		tag, id := be.Uint32(disk), be.Uint32(disk[4:])
		switch tag {
		case user, group:
		case 0x01, 0x04, 0x10, 0x20: // owner, owning group, mask, others
			id = 1<<32 - 1
		default:
			return nil, corrupt("access control list with tag %d", tag)
		}
		out = le.AppendUint16(out, uint16(tag))
		out = le.AppendUint16(out, be.Uint16(disk[8:]))
		out = le.AppendUint32(out, id)
	}
	return out, nil
}
