package mount

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"cairn/mount/filesys"
)

// IDRange shows Count ids of the guest, from Guest on, as those from Host on.
type IDRange struct {
	Guest, Host, Count uint32
}

// ParseIDRange reads GUEST:HOST or GUEST:HOST:COUNT, as in user name spaces. One
// id is what a missing COUNT stands for.
func ParseIDRange(s string) (IDRange, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 2 && len(parts) != 3 {
		return IDRange{}, fmt.Errorf("%q: must be GUEST:HOST or GUEST:HOST:COUNT, such as 1000:501", s)
	}
	n := [3]uint32{2: 1}
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return IDRange{}, fmt.Errorf("%q: %q is not a number from 0 to %d", s, p, uint32(math.MaxUint32))
		}
		n[i] = uint32(v)
	}
	r := IDRange{n[0], n[1], n[2]}
	return r, r.check()
}

// check: 2^32-1 is no id, it stands for none.
func (r IDRange) check() error {
	if r.Count == 0 {
		return fmt.Errorf("%s: the count must be 1 at least", r)
	}
	if uint64(max(r.Guest, r.Host))+uint64(r.Count) > math.MaxUint32 {
		return fmt.Errorf("%s: ends beyond the largest id, %d", r, uint32(math.MaxUint32-1))
	}
	return nil
}

func (r IDRange) String() string { return fmt.Sprintf("%d:%d:%d", r.Guest, r.Host, r.Count) }

// idMap says what an id of the guest is shown as.
type idMap struct {
	ranges []IDRange // by Guest
	all    bool      // everything is shown as one
	one    uint32
}

// newIDMap refuses ranges of which two have an id of the guest in common.
func newIDMap(ranges []IDRange) (idMap, error) {
	m := idMap{ranges: slices.Clone(ranges)}
	slices.SortFunc(m.ranges, func(a, b IDRange) int { return int(int64(a.Guest) - int64(b.Guest)) })
	for i, r := range m.ranges {
		if err := r.check(); err != nil {
			return idMap{}, err
		}
		if i > 0 {
			if p := m.ranges[i-1]; r.Guest-p.Guest < p.Count {
				return idMap{}, fmt.Errorf("%s and %s both say what %d is", p, r, r.Guest)
			}
		}
	}
	return m, nil
}

// show maps one id; those in no range stay what they are.
func (m *idMap) show(id uint32) uint32 {
	if m.all {
		return m.one
	}
	for _, r := range m.ranges {
		if id >= r.Guest && id-r.Guest < r.Count {
			return r.Host + (id - r.Guest)
		}
	}
	return id
}

// idMaps makes the maps that the options ask for.
func (o *Options) idMaps() (uids, gids idMap, err error) {
	if o.MapOwner {
		if len(o.UIDs)+len(o.GIDs) > 0 {
			return uids, gids, errors.New("everything is shown as owned by one user: single ids cannot be mapped as well")
		}
		uid, gid := owner()
		return idMap{all: true, one: uid}, idMap{all: true, one: gid}, nil
	}
	if uids, err = newIDMap(o.UIDs); err != nil {
		return uids, gids, fmt.Errorf("map user ids: %w", err)
	}
	if gids, err = newIDMap(o.GIDs); err != nil {
		return uids, gids, fmt.Errorf("map group ids: %w", err)
	}
	return uids, gids, nil
}

// CheckIDs says what is wrong with the mapping of ids, without mounting.
func (o *Options) CheckIDs() error {
	_, _, err := o.idMaps()
	return err
}

// The form of a POSIX ACL in an extended attribute (Linux's
// include/uapi/linux/posix_acl_xattr.h): a version, then entries of tag,
// permissions and id, all little endian.
const (
	aclVersion = 2
	aclHead    = 4
	aclEntry   = 8
	aclUser    = 0x02 // ACL_USER: id is a user's
	aclGroup   = 0x08 // ACL_GROUP: id is a group's
)

func isACL(name string) bool {
	return name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// showACL maps the ids of named users and groups in an ACL, in a copy. They are
// not mapped to one owner: an ACL with the same user twice is none.
func (m *mounted) showACL(v []byte) ([]byte, error) {
	if len(m.uids.ranges)+len(m.gids.ranges) == 0 {
		return v, nil
	}
	if len(v) < aclHead || (len(v)-aclHead)%aclEntry != 0 || binary.LittleEndian.Uint32(v) != aclVersion {
		return nil, fmt.Errorf("access control list of %d bytes: %w", len(v), filesys.ErrCorrupt)
	}
	v = slices.Clone(v)
	for e := v[aclHead:]; len(e) > 0; e = e[aclEntry:] {
		ids := &m.uids
		switch binary.LittleEndian.Uint16(e) {
		case aclUser:
		case aclGroup:
			ids = &m.gids
		default:
			continue
		}
		binary.LittleEndian.PutUint32(e[4:], ids.show(binary.LittleEndian.Uint32(e[4:])))
	}
	return v, nil
}
