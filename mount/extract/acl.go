package extract

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// aclRecords turns the extended attributes that hold POSIX access control lists
// into the keys under which archives have them, as text.
var aclRecords = map[string]string{
	"system.posix_acl_access":  "SCHILY.acl.access",
	"system.posix_acl_default": "SCHILY.acl.default",
}

var errACL = errors.New("not an access control list")

// aclText writes an access control list, given as getxattr(2) gives it, in the
// short form of acl(5), with numbers for names: the archive is not unpacked where
// the guest's names mean anything.
//
//	version 2 (32 bits); then tag, permissions (16 bits each), id (32)
func aclText(b []byte) (string, error) {
	le := binary.LittleEndian
	if len(b) < 4 || le.Uint32(b) != 2 || len(b)%8 != 4 {
		return "", errACL
	}
	var list []string
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm, id := le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])
		who := ""
		switch tag {
		case 0x01:
			who = "user::"
		case 0x02:
			who = fmt.Sprintf("user:%d:", id)
		case 0x04:
			who = "group::"
		case 0x08:
			who = fmt.Sprintf("group:%d:", id)
		case 0x10:
			who = "mask::"
		case 0x20:
			who = "other::"
		default:
			return "", errACL
		}
		rwx := []byte("---")
		for i, bit := range []uint16{4, 2, 1} {
			if perm&bit != 0 {
				rwx[i] = "rwx"[i]
			}
		}
		list = append(list, who+string(rwx))
	}
	return strings.Join(list, ","), nil
}
