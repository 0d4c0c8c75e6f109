package exfat

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

// dir is a directory.
type dir struct {
	ino   uint64
	slots *cluster.Slots
}

// dir opens a directory, and makes sure that it does not contain itself.
func (f *FS) dir(ino uint64) (*dir, error) {
	if ino == rootIno {
		return f.root, nil
	}
	if d, ok := f.dirs.Get(ino); ok {
		return d, nil
	}
	e, err := f.load(ino)
	if err != nil {
		return nil, err
	}
	d, err := f.openDir(e)
	if err != nil {
		return nil, err
	}
	err = f.parents.Up(ino, func(above uint64) error {
		first := f.boot.root
		if above != rootIno {
			a, err := f.load(above)
			if err != nil {
				return err
			}
			if first = a.first; a.size == 0 {
				return nil
			}
		}
		if first == e.first && e.size > 0 {
			return cluster.Corrupt("directory %d contains itself", ino)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f.dirs.Put(ino, d, d.slots.Cost())
	return d, nil
}

// openDir finds the clusters of a directory.
func (f *FS) openDir(e *entry) (*dir, error) {
	if !e.isDir() {
		return nil, fmt.Errorf("inode %d: %w", e.ino, filesys.ErrNotDir)
	}
	if e.size > maxDirectory || e.valid != e.size {
		return nil, cluster.Corrupt("directory %d of %d bytes, %d of them valid", e.ino, e.size, e.valid)
	}
	if e.size == 0 {
		return &dir{e.ino, cluster.FixedSlots(f.volume, 0, 0)}, nil
	}
	c, err := f.chain(e, e.size)
	if err == nil {
		err = c.Whole()
	}
	if err != nil {
		return nil, fmt.Errorf("directory %d: %w", e.ino, err)
	}
	return &dir{e.ino, cluster.ChainSlots(c, e.size/cluster.SlotSize)}, nil
}

// chain finds the clusters of the first size bytes of a file.
func (f *FS) chain(e *entry, size int64) (*cluster.Chain, error) {
	if e.contiguous {
		return f.table.Contiguous(e.first, f.table.Count(size))
	}
	return f.table.Chain(e.first, f.table.Count(size))
}

// scan calls fn with the files from a slot on, until it returns false. Entries
// that contradict each other are passed over; the error that a scan gives at
// the end, after all that could be read, tells of the first of them. other, if
// not nil, gets the volume's own entries.
func (f *FS) scan(d *dir, slot int64, fn func(*entry) bool, other func(p []byte)) error {
	cursor := d.slots.Cursor()
	var bad error
	note := func(slot int64, err error) {
		if bad == nil {
			bad = fmt.Errorf("directory %d: entry %d: %w", d.ino, slot, err)
		}
	}
	for {
		p, off, err := cursor.At(slot)
		if errors.Is(err, io.EOF) {
			return bad
		}
		if err != nil {
			return fmt.Errorf("directory %d: %w", d.ino, err)
		}
		kind := p[0]
		switch {
		case kind == typeEnd:
			return bad
		case kind&bitInUse == 0:
			slot++
			continue
		case kind == typeBitmap || kind == typeUpcase || kind == typeLabel:
			if other != nil {
				other(p)
			}
			slot++
			continue
		case kind&bitSecondary != 0:
			note(slot, cluster.Corrupt("an entry of type %#x that belongs to no file", kind))
			slot++
			continue
		case kind == typePadding:
			slot++
			continue
		case kind != typeFile:
			n, err := otherSet(cursor, slot)
			if errors.Is(err, filesys.ErrCorrupt) || errors.Is(err, filesys.ErrUnsupported) {
				note(slot, err)
			} else if err != nil {
				return fmt.Errorf("directory %d: %w", d.ino, err)
			}
			slot += n
			continue
		}
		secondaries := int64(p[1])
		e, err := parseSet(func(i int) ([]byte, error) {
			p, _, err := cursor.At(slot + int64(i))
			if errors.Is(err, io.EOF) {
				err = cluster.Corrupt("the directory ends within a file")
			}
			return p, err
		})
		switch {
		case errors.Is(err, filesys.ErrCorrupt):
			note(slot, err)
			slot++
			continue
		case errors.Is(err, filesys.ErrUnsupported):
			note(slot, err)
			slot += 1 + secondaries
			continue
		case err != nil:
			return fmt.Errorf("directory %d: %w", d.ino, err)
		}
		e.ino, e.start, e.next = uint64(off)/cluster.SlotSize, slot, slot+1+secondaries
		if !fn(e) {
			return nil
		}
		slot = e.next
	}
}

// otherSet looks at a set that is no file's and gives the number of its
// entries. The checksum tells a type that is not known from one that is damaged.
func otherSet(cursor *cluster.Cursor, slot int64) (n int64, err error) {
	p, _, err := cursor.At(slot)
	if err != nil {
		return 1, err
	}
	kind, secondaries, want := p[0], int64(p[1]), le.Uint16(p[2:])
	sum := setChecksum(0, p, true)
	for i := int64(1); i <= secondaries; i++ {
		if p, _, err = cursor.At(slot + i); errors.Is(err, io.EOF) {
			return 1, cluster.Corrupt("the directory ends within entries of type %#x", kind)
		}
		if err != nil {
			return 1, err
		}
		sum = setChecksum(sum, p, false)
	}
	switch {
	case sum != want:
		return 1, cluster.Corrupt("entries of type %#x have the wrong checksum", kind)
	case kind&bitBenign == 0:
		return 1 + secondaries, fmt.Errorf("directory entries of type %#x: %w", kind, filesys.ErrUnsupported)
	}
	return 1 + secondaries, nil
}

// ReadDir streams the entries of a directory. A cookie is a slot.
func (f *FS) ReadDir(ino, cookie uint64, fn func(filesys.DirEntry) bool) error {
	d, err := f.dir(ino)
	if err != nil {
		return err
	}
	if cookie > maxDirectory {
		return nil
	}
	var bad error
	more := true
	err = f.scan(d, int64(cookie), func(e *entry) bool {
		out := filesys.DirEntry{Name: e.name, Ino: e.ino, Type: filesys.TypeRegular, Next: uint64(e.next)}
		if e.isDir() {
			out.Type = filesys.TypeDir
			if err := f.parents.Note(e.ino, ino); err != nil {
				bad = cmp.Or(bad, err)
				return true // without it
			}
		}
		more = fn(out)
		return more
	}, nil)
	if !more {
		return err
	}
	return cmp.Or(err, bad)
}

// Parent is the directory that a directory was found in.
func (f *FS) Parent(ino uint64) (uint64, error) {
	if _, err := f.dir(ino); err != nil {
		return 0, err
	}
	return f.parents.Of(ino)
}

// subdirectories are those of a directory, for the search of a parent.
func (f *FS) subdirectories(ino uint64, fn func(child uint64) bool) error {
	d := f.root
	if ino != rootIno {
		e, err := f.load(ino)
		if err != nil {
			return err
		}
		if d, err = f.openDir(e); err != nil {
			return err
		}
	}
	return f.scan(d, 0, func(e *entry) bool { return !e.isDir() || fn(e.ino) }, nil)
}
