package fat

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

// Attributes in directory entries.
const (
	attrReadOnly  = 0x01
	attrHidden    = 0x02
	attrSystem    = 0x04
	attrVolume    = 0x08
	attrDirectory = 0x10
	attrLong      = attrReadOnly | attrHidden | attrSystem | attrVolume
	attrLongMask  = attrLong | attrDirectory | 0x20
)

// maxSlots is how many entries a directory can have; other systems refuse to
// go on behind them.
const maxSlots = 65536

// entry is a file or directory in its directory.
type entry struct {
	raw         [cluster.SlotSize]byte
	name, alias string
	ino         uint64
	start, next int64 // slot of its first entry, and behind its last
}

func (e *entry) isDir() bool { return e.raw[11]&attrDirectory != 0 }

// dir is a directory.
type dir struct {
	ino   uint64
	slots *cluster.Slots
	size  int64
}

// dir opens a directory, and makes sure that it does not contain itself.
func (f *FS) dir(ino uint64) (*dir, error) {
	if ino == rootIno {
		return f.root, nil
	}
	if d, ok := f.dirs.Get(ino); ok {
		return d, nil
	}
	raw, err := f.raw(ino)
	if err != nil {
		return nil, err
	}
	if raw[11]&attrDirectory == 0 {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotDir)
	}
	d, err := f.openDir(ino, raw)
	if err != nil {
		return nil, fmt.Errorf("directory %d: %w", ino, err)
	}
	first := f.first(raw)
	err = f.parents.Up(ino, func(above uint64) error {
		if above == rootIno {
			if f.boot.width == 32 && first == f.boot.rootFirst {
				return cluster.Corrupt("directory %d is the root", ino)
			}
			return nil
		}
		raw, err := f.raw(above)
		if err == nil && f.first(raw) == first {
			err = cluster.Corrupt("directory %d contains itself", ino)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	f.dirs.Put(ino, d, d.slots.Cost())
	return d, nil
}

// openDir finds the clusters of a directory.
func (f *FS) openDir(ino uint64, raw []byte) (*dir, error) {
	return f.chainDir(ino, f.first(raw))
}

func (f *FS) chainDir(ino uint64, first uint32) (*dir, error) {
	c, err := f.table.Chain(first, f.table.Count(maxSlots*cluster.SlotSize)+1)
	if err != nil {
		return nil, err
	}
	s := cluster.ChainSlots(c, maxSlots)
	return &dir{ino, s, s.Len() * cluster.SlotSize}, nil
}

// scan calls fn with the entries from a slot on, until it returns false. An
// entry whose name cannot be used is not among them; the last error that a scan
// gives, after all that could be read, tells of it. What follows an entry that
// was never used is none.
func (f *FS) scan(d *dir, slot int64, fn func(*entry) bool) error {
	var (
		cursor = d.slots.Cursor()
		long   longName
		bad    error
	)
	long.reset()
	for ; ; slot++ {
		p, off, err := cursor.At(slot)
		if errors.Is(err, io.EOF) {
			return bad
		}
		if err != nil {
			return fmt.Errorf("directory %d: %w", d.ino, err)
		}
		switch {
		case p[0] == 0:
			return bad
		case p[0] == 0xE5:
			long.reset()
			continue
		case p[11]&attrLongMask == attrLong:
			long.add(p, slot)
			continue
		case p[11]&attrVolume != 0:
			long.reset()
			continue
		}
		e := &entry{raw: [cluster.SlotSize]byte(p), ino: uint64(off) / cluster.SlotSize, start: slot, next: slot + 1}
		var shown string
		shown, e.alias = shortName(p)
		name, ok := long.name(p)
		switch {
		case ok:
			e.name, e.start = name, long.start
		case e.alias == "." || e.alias == "..":
			long.reset()
			continue
		default:
			e.name = shown
		}
		long.reset()
		if !usable(e.name) {
			if bad == nil {
				bad = cluster.Corrupt("directory %d: entry %d has the name %q", d.ino, slot, e.name)
			}
			continue
		}
		if !fn(e) {
			return nil
		}
	}
}

// ReadDir streams the entries of a directory. A cookie is a slot.
func (f *FS) ReadDir(ino, cookie uint64, fn func(filesys.DirEntry) bool) error {
	d, err := f.dir(ino)
	if err != nil {
		return err
	}
	if cookie > maxSlots {
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
	})
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
		raw, err := f.raw(ino)
		if err != nil {
			return err
		}
		if d, err = f.openDir(ino, raw); err != nil {
			return err
		}
	}
	return f.scan(d, 0, func(e *entry) bool { return !e.isDir() || fn(e.ino) })
}
