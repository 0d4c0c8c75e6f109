package btrfs

import (
	"bytes"
	"fmt"
	"iter"
	"math"

	"cairn/mount/filesys"
)

const nameMax = 255

// entry is one record of a directory or attribute item.
type entry struct {
	location   key
	kind       uint8
	name, data []byte
}

// dirEntries walks the records of an item: those whose names have one hash
// share it.
func dirEntries(b []byte) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for len(b) > 0 {
			if len(b) < 30 {
				yield(entry{}, corrupt("%d bytes behind the last entry", len(b)))
				return
			}
			nameEnd := 30 + int(le.Uint16(b[27:]))
			end := nameEnd + int(le.Uint16(b[25:]))
			if end > len(b) {
				yield(entry{}, corrupt("an entry of %d bytes in %d", end, len(b)))
				return
			}
			if !yield(entry{decodeKey(b), b[29] & 0x7f, b[30:nameEnd], b[nameEnd:end]}, nil) {
				return
			}
			b = b[end:]
		}
	}
}

// types are the file types of entries.
var types = [...]uint32{0, filesys.TypeRegular, filesys.TypeDir, filesys.TypeChar, filesys.TypeBlock,
	filesys.TypeFIFO, filesys.TypeSocket, filesys.TypeSymlink}

// target gives the number of what an entry of dir leads to.
func (f *FS) target(dir *inode, e entry) (uint64, error) {
	switch e.location.typ {
	case typeInode:
		if e.location.obj < firstFreeID || e.location.obj > lastFreeID {
			break
		}
		return f.number(dir.t.id, e.location.obj)
	case typeRoot:
		if !isFS(e.location.obj) {
			break
		}
		hangs, err := f.v.hangs(e.location.obj, dir.t.id, dir.obj, string(e.name))
		if err != nil {
			return 0, err
		}
		if !hangs {
			return f.noteDead(dir, e)
		}
		t, err := f.v.tree(e.location.obj)
		if err != nil {
			return 0, err
		}
		return f.number(t.id, t.info.rootDir)
	}
	return 0, corrupt("it leads to %v", e.location)
}

// checkName refuses what would break a path.
func checkName(name []byte) error {
	if len(name) == 0 || len(name) > nameMax || bytes.ContainsAny(name, "/\x00") {
		return corrupt("name %q", name)
	}
	if s := string(name); s == "." || s == ".." {
		return corrupt("name %q", name)
	}
	return nil
}

// Lookup finds a name by its hash.
func (f *FS) Lookup(dir uint64, name string) (uint64, error) {
	if f.isDead(dir) {
		return 0, fmt.Errorf("%q in inode %d: %w", name, dir, filesys.ErrNotExist)
	}
	in, err := f.dir(dir)
	if err != nil {
		return 0, err
	}
	if checkName([]byte(name)) != nil {
		return 0, fmt.Errorf("%q in inode %d: %w", name, dir, filesys.ErrNotExist)
	}
	e, ok, err := in.t.lookup(in.obj, name)
	if err == nil && !ok {
		err = filesys.ErrNotExist
	}
	if err != nil {
		return 0, wrap(err, "%q in inode %d", name, dir)
	}
	ino, err := f.target(in, e)
	if err != nil {
		return 0, wrap(err, "%q in inode %d", name, dir)
	}
	return ino, nil
}

func (t *tree) lookup(dir uint64, name string) (entry, bool, error) {
	b, ok, err := t.get(key{dir, typeDirItem, nameHash(name)})
	if err != nil || !ok {
		return entry{}, false, err
	}
	for e, err := range dirEntries(b) {
		if err != nil {
			return entry{}, false, err
		}
		if string(e.name) == name {
			return e, true, nil
		}
	}
	return entry{}, false, nil
}

// ReadDir gives the entries in the order of their index, which grows with each
// entry that is made; Next is that index.
func (f *FS) ReadDir(dir uint64, cookie uint64, fn func(filesys.DirEntry) bool) error {
	if f.isDead(dir) {
		return nil
	}
	in, err := f.dir(dir)
	if err != nil {
		return err
	}
	if cookie == math.MaxUint64 {
		return nil
	}
	c, err := in.t.seek(key{in.obj, typeDirIndex, cookie + 1})
	for ; err == nil && c.at(in.obj, typeDirIndex); err = c.next() {
		for e, err := range dirEntries(c.data) {
			if err == nil {
				err = checkName(e.name)
			}
			if err == nil && int(e.kind) >= len(types) {
				err = corrupt("type %d", e.kind)
			}
			if err == nil && len(c.data) != 30+len(e.name)+len(e.data) {
				err = corrupt("more than one entry") // which would have one cookie
			}
			var ino uint64
			if err == nil {
				ino, err = f.target(in, e)
			}
			if err != nil {
				return wrap(err, "directory %d, entry %d", dir, c.k.off)
			}
			if !fn(filesys.DirEntry{Name: string(e.name), Ino: ino, Type: types[e.kind], Next: c.k.off}) {
				return nil
			}
		}
	}
	if err != nil {
		return wrap(err, "directory %d", dir)
	}
	return nil
}

// Parent of a subvolume's root is the directory where it hangs; only the root
// that f shows is its own parent.
func (f *FS) Parent(dir uint64) (uint64, error) {
	if dir == f.Root() {
		return dir, nil
	}
	if !f.isDead(dir) {
		if _, err := f.dir(dir); err != nil {
			return 0, err
		}
	}
	names, err := f.names(dir, 1)
	if err != nil {
		return 0, err
	}
	if len(names) == 0 {
		return 0, corrupt("directory %d has no parent", dir)
	}
	return names[0].Parent, nil
}
