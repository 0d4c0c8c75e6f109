package xfs

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"cairn/mount/filesys"
)

const (
	// maxSearchChunks is how many chunks of inodes of a group are put in order
	// before they are searched; the rest of a larger group follows as it comes.
	maxSearchChunks = 1 << 19
	// maxSearchGroups is what a volume of 64 TiB has of the smallest groups that
	// mkfs makes.
	maxSearchGroups = 1 << 22
	// maxFailed is how many errors are told of.
	maxFailed = 10
)

// SearchNames calls fn with entries of directories that name an inode of want,
// until fn returns false or all directories were searched. It begins with the
// directories whose inodes are nearest, for Linux puts the files of a directory
// in its group, close by as long as there is room: who stops when all names are
// found has read a small part of the volume. Where the volume has parent pointers,
// those are asked and nothing is searched. Directories that cannot be read are
// left out; they are named in the error, which comes last.
func (f *FS) SearchNames(want []uint64, fn func(ino uint64, n filesys.Name) bool) error {
	if f.sb.incompat&incompatParent != 0 {
		return f.askNames(want, fn)
	}
	if f.stale {
		return fmt.Errorf("search names without the log: %w", filesys.ErrUnsupported)
	}
	if f.sb.agCount > maxSearchGroups {
		return fmt.Errorf("search names in more than %d groups: %w", maxSearchGroups, filesys.ErrUnsupported)
	}
	s := &searcher{f: f, wanted: make(map[uint64]bool, len(want)), fn: fn}
	near := map[uint64][]uint32{}
	for _, ino := range want {
		s.wanted[ino] = true
		if f.sb.validInode(ino) {
			ag, _, _ := f.sb.inodePlace(ino)
			near[ag] = append(near[ag], uint32(ino&(1<<(f.sb.agBits+f.sb.inopBits)-1)))
		}
	}
	for _, ag := range f.outwards(near) {
		slices.Sort(near[ag])
		more, err := s.group(ag, near[ag])
		if errors.Is(err, filesys.ErrCorrupt) {
			// Then names are the only way to the directories of that group.
			err = fmt.Errorf("search names: %w: %w", err, filesys.ErrUnsupported)
		}
		if err != nil {
			s.fail(err)
		}
		if !more {
			return nil
		}
	}
	return errors.Join(s.failed...)
}

// askNames is SearchNames by parent pointers.
func (f *FS) askNames(want []uint64, fn func(ino uint64, n filesys.Name) bool) error {
	var failed []error
	for _, ino := range want {
		list, err := f.Names(ino)
		if err != nil && !errors.Is(err, filesys.ErrNotExist) && len(failed) < maxFailed {
			failed = append(failed, err)
		}
		for _, n := range list {
			if !fn(ino, n) {
				return nil
			}
		}
	}
	return errors.Join(failed...)
}

// distance is how far at is from the nearest of sorted.
func distance[T uint32 | uint64](at T, sorted []T) T {
	d := ^T(0)
	i, _ := slices.BinarySearch(sorted, at)
	if i < len(sorted) {
		d = min(d, sorted[i]-at)
	}
	if i > 0 {
		d = min(d, at-sorted[i-1])
	}
	return d
}

// outwards lists all groups, by their distance from the nearest that has a place
// in near.
func (f *FS) outwards(near map[uint64][]uint32) []uint64 {
	var starts []uint64
	for ag := range near {
		starts = append(starts, ag)
	}
	slices.Sort(starts)
	list := make([]uint64, f.sb.agCount)
	for ag := range list {
		list[ag] = uint64(ag)
	}
	slices.SortStableFunc(list, func(x, y uint64) int { return cmp.Compare(distance(x, starts), distance(y, starts)) })
	return list
}

// searcher looks through directories for names of inodes.
type searcher struct {
	f      *FS
	wanted map[uint64]bool
	fn     func(uint64, filesys.Name) bool
	failed []error
}

func (s *searcher) fail(err error) {
	if len(s.failed) < maxFailed {
		s.failed = append(s.failed, err)
	}
}

// group searches the directories whose inodes are in a group, those near some
// inodes of it first.
func (s *searcher) group(ag uint64, near []uint32) (more bool, err error) {
	var list []chunk
	more = true
	err = s.f.eachChunk(ag, func(c chunk) bool {
		if c.used() != 0 && len(list) < maxSearchChunks {
			list = append(list, c)
		}
		return true
	})
	last := int64(-1)
	if n := len(list); n > 0 {
		last = int64(list[n-1].start)
	}
	if len(near) > 0 {
		slices.SortStableFunc(list, func(x, y chunk) int {
			return cmp.Compare(distance(x.start, near), distance(y.start, near))
		})
	}
	for _, c := range list {
		if !s.chunk(ag, c) {
			return false, nil
		}
	}
	if err == nil && len(list) == maxSearchChunks {
		err = s.f.eachChunk(ag, func(c chunk) bool {
			more = int64(c.start) <= last || s.chunk(ag, c)
			return more
		})
	}
	return more, err
}

// chunk searches the directories among some inodes.
func (s *searcher) chunk(ag uint64, c chunk) (more bool) {
	f := s.f
	for set := c.used(); set != 0; set &= set - 1 {
		ino := ag<<(f.sb.agBits+f.sb.inopBits) + uint64(c.start) + uint64(bits.TrailingZeros64(set))
		raw, err := f.rawInode(ino)
		if err != nil {
			s.fail(err)
			continue
		}
		if uint32(be.Uint16(raw[2:]))&filesys.TypeMask != filesys.TypeDir {
			continue
		}
		more := true
		err = f.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
			if s.wanted[e.Ino] {
				more = s.fn(e.Ino, filesys.Name{Parent: ino, Name: e.Name})
			}
			return more
		})
		if !more {
			return false
		}
		if err != nil && !errors.Is(err, filesys.ErrNotExist) {
			s.fail(fmt.Errorf("search directory %d: %w", ino, err))
		}
	}
	return true
}
