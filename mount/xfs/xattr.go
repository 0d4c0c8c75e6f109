package xfs

import (
	"fmt"
	"strings"

	"cairn/mount/filesys"
)

// Flags of an attribute.
const (
	attrLocal      = 0x01 // the value stands beside the name
	attrRoot       = 0x02 // "trusted."
	attrSecure     = 0x04 // "security."
	attrParent     = 0x08 // a parent pointer, which is no attribute of the user's
	attrIncomplete = 0x80 // being made or removed when the guest stopped
	// attrSpace are those that tell the namespace.
	attrSpace = attrRoot | attrSecure | attrParent
)

const (
	valueMax = 65536
	// maxNames bounds the length of all names of an inode together; Linux
	// lists no more than 64 KiB.
	maxNames = 4 << 20
)

// attribute is one extended attribute. Its name refers to cached metadata, and
// so does its value if that is local.
type attribute struct {
	flags  byte
	name   []byte
	value  []byte // of a local one
	remote uint64 // block in the fork of one that is not
	size   int
}

// spaces are the prefixes of names, by what attrSpace leaves of their flags.
var spaces = []struct {
	prefix string
	flags  byte
}{{"user.", 0}, {"trusted.", attrRoot}, {"security.", attrSecure}}

// Xattrs lists the names as Linux does for root: an access control list appears
// by its own name and as the trusted attribute that it is stored as.
func (f *FS) Xattrs(ino uint64) ([]string, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	var list []string
	var bad error
	total := 0
	err = f.eachAttr(in, func(a attribute) bool {
		if a.flags&(attrParent|attrIncomplete) != 0 {
			return true
		}
		add := func(name string) {
			list = append(list, name)
			total += len(name)
		}
		switch {
		case len(a.name) == 0 || strings.IndexByte(string(a.name), 0) >= 0 || a.flags&attrSpace == attrRoot|attrSecure:
			bad = corrupt("attribute named %q with flags %#x", a.name, a.flags)
		case a.flags&attrSpace == attrRoot && string(a.name) == diskACLAccess:
			add(aclAccess)
		case a.flags&attrSpace == attrRoot && string(a.name) == diskACLDefault:
			add(aclDefault)
		}
		for _, s := range spaces {
			if bad == nil && s.flags == a.flags&attrSpace {
				add(s.prefix + string(a.name))
			}
		}
		if total > maxNames {
			bad = fmt.Errorf("more than %d bytes of names of attributes: %w", maxNames, filesys.ErrUnsupported)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, wrap(err, "attributes of inode %d", ino)
	}
	return list, nil
}

// Xattr gives one value.
func (f *FS) Xattr(ino uint64, name string) ([]byte, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	switch name {
	case aclAccess, aclDefault:
		disk := diskACLAccess
		if name == aclDefault {
			disk = diskACLDefault
		}
		v, err := f.attr(in, attrRoot, disk)
		if err != nil {
			return nil, wrap(err, "attribute %s of inode %d", name, ino)
		}
		return decodeACL(v)
	}
	for _, s := range spaces {
		if rest, ok := strings.CutPrefix(name, s.prefix); ok && rest != "" && len(rest) <= nameMax {
			v, err := f.attr(in, s.flags, rest)
			if err != nil {
				return nil, wrap(err, "attribute %q of inode %d", name, ino)
			}
			return v, nil
		}
	}
	return nil, fmt.Errorf("attribute %q of inode %d: %w", name, ino, filesys.ErrNoXattr)
}

// attr finds an attribute by its namespace and name, and reads its value.
func (f *FS) attr(in *inode, space byte, name string) ([]byte, error) {
	var v []byte
	err := filesys.ErrNoXattr
	match := func(a attribute) bool {
		if a.flags&attrSpace != space || a.flags&attrIncomplete != 0 || string(a.name) != name {
			return true
		}
		v, err = f.attrValue(in, a)
		return false
	}
	if in.attr.form == formLocal {
		if walkErr := in.eachShortAttr(match); walkErr != nil {
			return nil, walkErr
		}
	} else if walkErr := f.findAttr(in, hashName([]byte(name)), match); walkErr != nil {
		return nil, walkErr
	}
	return v, err
}

// attrValue reads a value. Callers may keep it.
func (f *FS) attrValue(in *inode, a attribute) ([]byte, error) {
	if a.flags&attrLocal != 0 {
		return append([]byte{}, a.value...), nil
	}
	return f.remoteValue(in, a)
}

// eachAttr calls fn with the attributes of an inode, until fn returns false.
func (f *FS) eachAttr(in *inode, fn func(attribute) bool) error {
	switch {
	case in.attr.form == formLocal:
		return in.eachShortAttr(fn)
	case in.attr.extents == 0 && in.attr.form == formExtents:
		return nil
	}
	// Leaves follow each other in the order of their hashes.
	b, off, err := f.treeLeaf(&in.attr, 0, 0)
	if err != nil {
		return err
	}
	for last, same := uint32(0), 0; ; {
		l, err := f.attrLeaf(in, b, off)
		if err != nil {
			return err
		}
		for i := range l.count {
			switch h := l.hash(i); {
			case h < last:
				return corrupt("inode %d: attributes at block %d are out of order", in.ino, off)
			case h > last:
				last, same = h, 0
			}
			same++
			a, err := l.attribute(i)
			if err != nil {
				return wrap(err, "inode %d: block %d", in.ino, off)
			}
			if !fn(a) {
				return nil
			}
		}
		switch {
		case l.next == 0:
			return nil
		case l.count == 0 || l.next == off || same > maxSameHash:
			return corrupt("inode %d: attributes at block %d have no end", in.ino, off)
		}
		off = l.next
		if b, err = f.treeBlock(&in.attr, off); err != nil {
			return err
		}
	}
}

// findAttr calls match with the attributes of a hash, until match returns false.
func (f *FS) findAttr(in *inode, hash uint32, match func(attribute) bool) error {
	if in.attr.extents == 0 && in.attr.form == formExtents {
		return nil
	}
	b, off, err := f.treeLeaf(&in.attr, 0, hash)
	if err != nil {
		return err
	}
	for seen := 0; ; {
		l, err := f.attrLeaf(in, b, off)
		if err != nil {
			return err
		}
		i := l.search(hash)
		for ; i < l.count; i++ {
			if l.hash(i) != hash {
				return nil
			}
			a, err := l.attribute(i)
			if err != nil {
				return wrap(err, "inode %d: block %d", in.ino, off)
			}
			if !match(a) {
				return nil
			}
		}
		switch {
		case l.next == 0:
			return nil
		case seen > maxSameHash || l.next == off:
			return corrupt("inode %d: one hash has more than %d attributes", in.ino, seen)
		}
		seen += l.count + 1
		off = l.next
		if b, err = f.treeBlock(&in.attr, off); err != nil {
			return err
		}
	}
}
