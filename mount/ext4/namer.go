package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"cairn/mount/filesys"
)

var _ filesys.Namer = (*FS)(nil)

// Names finds the name of a directory, by its ".." and a search there. Inodes of
// other types do not know who names them: see SearchNames.
func (f *FS) Names(ino uint64) ([]filesys.Name, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	if !in.isDir() {
		return nil, fmt.Errorf("names of inode %d, which is no directory, are not recorded: %w", ino, filesys.ErrUnsupported)
	}
	parent, err := f.Parent(ino)
	if err != nil {
		return nil, err
	}
	var list []filesys.Name
	err = f.ReadDir(parent, 0, func(e filesys.DirEntry) bool {
		if e.Ino == ino {
			list = append(list, filesys.Name{Parent: parent, Name: e.Name})
		}
		return len(list) == 0 // a directory has one name
	})
	if err == nil && len(list) == 0 {
		err = corrupt("directory %d is not in its parent %d", ino, parent)
	}
	return list, err
}

// SearchNames calls fn with entries of directories that name an inode of want,
// until fn returns false or all directories were searched. It begins with the
// directories in the same block groups, where the kernel puts files of a
// directory as long as there is room, and goes on outwards: who stops when all
// names are found has read a small part of the volume. Directories that cannot
// be read are left out; they are named in the error, which comes last.
func (f *FS) SearchNames(want []uint64, fn func(ino uint64, n filesys.Name) bool) error {
	wanted := make(map[uint64]bool, len(want))
	groups := map[uint64]bool{}
	for _, ino := range want {
		wanted[ino] = true
		if ino > 0 && ino <= uint64(f.sb.inodes) {
			groups[(ino-1)/uint64(f.sb.inodesPer)] = true
		}
	}
	if f.sb.groups > maxGroups {
		return fmt.Errorf("search names in more than %d groups: %w", maxGroups, filesys.ErrUnsupported)
	}
	var failed []error
	for _, g := range f.outwards(groups) {
		more, err := f.searchGroup(g, wanted, fn)
		if err != nil && len(failed) < 10 {
			failed = append(failed, err)
		}
		if !more {
			return nil
		}
	}
	return errors.Join(failed...)
}

// outwards lists all groups, by their distance from the nearest of near.
func (f *FS) outwards(near map[uint64]bool) []uint64 {
	starts := make([]uint64, 0, len(near))
	for g := range near {
		starts = append(starts, g)
	}
	slices.Sort(starts)
	distance := func(g uint64) uint64 {
		i, _ := slices.BinarySearch(starts, g)
		d := f.sb.groups
		if i < len(starts) {
			d = min(d, starts[i]-g)
		}
		if i > 0 {
			d = min(d, g-starts[i-1])
		}
		return d
	}
	list := make([]uint64, f.sb.groups)
	for g := range list {
		list[g] = uint64(g)
	}
	slices.SortStableFunc(list, func(x, y uint64) int { return cmp.Compare(distance(x), distance(y)) })
	return list
}

// searchGroup searches the directories whose inodes are in group g.
func (f *FS) searchGroup(g uint64, wanted map[uint64]bool, fn func(uint64, filesys.Name) bool) (more bool, err error) {
	desc, err := f.group(g)
	if err != nil {
		return true, err
	}
	if desc.freeInodes >= uint64(f.sb.inodesPer) {
		return true, nil
	}
	var failed error
	for i := range desc.usedInodes {
		ino := g*uint64(f.sb.inodesPer) + i + 1
		raw, err := f.record(ino)
		if err != nil {
			return true, err
		}
		const links = 0x1A
		if uint32(le.Uint16(raw))&filesys.TypeMask != filesys.TypeDir || le.Uint16(raw[links:]) == 0 {
			continue
		}
		more := true
		err = f.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
			if wanted[e.Ino] {
				more = fn(e.Ino, filesys.Name{Parent: ino, Name: e.Name})
			}
			return more
		})
		if !more {
			return false, nil
		}
		if err != nil && !errors.Is(err, filesys.ErrNotExist) {
			failed = err
		}
	}
	return true, failed
}
