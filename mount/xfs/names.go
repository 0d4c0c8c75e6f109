package xfs

import (
	"fmt"

	"cairn/mount/filesys"
)

// Names lists the directories that name an inode, of which volumes with parent
// pointers keep one record with each name: an attribute that is named like the
// entry, whose value is the directory's inode number (64 bits) and generation
// (32).
func (f *FS) Names(ino uint64) ([]filesys.Name, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	if f.sb.incompat&incompatParent == 0 {
		return nil, fmt.Errorf("names of inode %d: the volume has no parent pointers: %w", ino, filesys.ErrUnsupported)
	}
	var list []filesys.Name
	var bad error
	total := 0
	err = f.eachAttr(in, func(a attribute) bool {
		if a.flags&attrParent == 0 || a.flags&attrIncomplete != 0 {
			return true
		}
		if a.flags&attrLocal == 0 || len(a.value) != 12 || !sane(a.name) || isDots(a.name) {
			bad = corrupt("parent pointer %q of %d bytes", a.name, a.size)
			return false
		}
		n := filesys.Name{Parent: be.Uint64(a.value), Name: string(a.name)}
		if !f.sb.validInode(n.Parent) {
			bad = corrupt("parent pointer %q to inode %d", a.name, n.Parent)
			return false
		}
		list = append(list, n)
		if total += len(a.name) + 40; total > 4*maxNames {
			bad = fmt.Errorf("more than %d names: %w", len(list), filesys.ErrUnsupported)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err == nil && len(list) == 0 && ino != f.sb.root {
		err = corrupt("no parent pointer")
	}
	if err != nil {
		return nil, wrap(err, "names of inode %d", ino)
	}
	return list, nil
}
