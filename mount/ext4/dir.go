package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"cairn/mount/filesys"
)

// nameMax is the longest name of a directory entry in bytes.
const nameMax = 255

// dir reads the inode of a directory.
func (f *FS) dir(ino uint64) (*inode, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	if !in.isDir() {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotDir)
	}
	if in.flags&flagIndex != 0 && !f.sb.hasDirIndex() && f.sb.metadataCsum() {
		return nil, corrupt("directory %d has an index, the volume none", ino)
	}
	// No directory is larger than its volume. One that claims to be maps blocks
	// again and again, and walking it might never end.
	if uint64(in.size) > f.sb.blocks<<f.sb.blockBits {
		return nil, corrupt("directory %d of %d bytes", ino, in.size)
	}
	return in, nil
}

// ReadDir streams a directory. A cookie is the byte offset in the directory of
// the entry to go on with, so that resuming reads one block again, not more.
func (f *FS) ReadDir(dir, cookie uint64, fn func(filesys.DirEntry) bool) error {
	in, err := f.dir(dir)
	if err != nil {
		return err
	}
	names, err := f.dirNames(in)
	if err != nil {
		return err
	}
	types := f.sb.incompat&incompatFiletype != 0
	return f.eachDirent(in, cookie, func(d dirent) bool {
		name, ok := names.show(d)
		if !ok {
			return true
		}
		e := filesys.DirEntry{Name: name, Ino: uint64(d.ino), Next: d.next}
		if types && int(d.kind) < len(direntTypes) {
			e.Type = direntTypes[d.kind]
		}
		return fn(e)
	})
}

// Lookup finds a name by the directory's hash tree if it has a sound one, and
// else by reading the directory.
func (f *FS) Lookup(dir uint64, name string) (uint64, error) {
	in, err := f.dir(dir)
	if err != nil {
		return 0, err
	}
	if name == "" || len(name) > nameMax || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return 0, absent(dir, name)
	}
	names, err := f.dirNames(in)
	if err != nil {
		return 0, err
	}
	want, ok := names.parse(name)
	if !ok {
		return 0, absent(dir, name)
	}
	found := uint64(0)
	match := func(d dirent) bool {
		if want.equal(d.name) {
			found = uint64(d.ino)
		}
		return found == 0
	}
	err = errNoIndex
	if names.index != nil && want.hashed {
		err = f.indexLookup(in, names.index, want.hash, match)
	}
	if errors.Is(err, errNoIndex) {
		far := uint64(maxIdleBlocks) << f.sb.blockBits
		last := uint64(0)
		err = f.eachDirent(in, 0, func(d dirent) bool {
			last = d.off
			return last < far && match(d)
		})
		if err == nil && last >= far {
			err = corrupt("directory %d is too large to be searched without an index", dir)
		}
	}
	switch {
	case err != nil:
		return 0, err
	case found == 0:
		return 0, absent(dir, name)
	}
	return found, nil
}

func absent(dir uint64, name string) error {
	return fmt.Errorf("%q in directory %d: %w", name, dir, filesys.ErrNotExist)
}

// Parent is the inode that ".." names.
func (f *FS) Parent(dir uint64) (uint64, error) {
	in, err := f.dir(dir)
	if err != nil {
		return 0, err
	}
	parent := uint64(0)
	if in.isInline() {
		parent = uint64(le.Uint32(in.iblock()))
	} else {
		b, err := f.dirBlock(in, 0)
		if err != nil {
			return 0, err
		}
		// ".." is the second entry; in the root of an index its length covers
		// the whole index.
		if _, err := f.eachEntry(in, b, 0, func(d dirent) bool {
			if bytes.Equal(d.name, []byte("..")) {
				parent = uint64(d.ino)
			}
			return parent == 0 && d.off == 0
		}); err != nil {
			return 0, err
		}
	}
	if parent == 0 || parent > uint64(f.sb.inodes) {
		return 0, corrupt("directory %d has no parent", dir)
	}
	return parent, nil
}
