package xfs

import (
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
	// Entries fill the lowest blocks first, so that a directory was never
	// larger than its volume. One that claims to be maps blocks again and
	// again, and walking it might never end.
	if in.data.form != formLocal && (in.size > leafOffset || uint64(in.size) > f.sb.blocks<<f.sb.blockBits ||
		in.size == 0 || in.size&(1<<f.sb.dirBits-1) != 0) {
		return nil, corrupt("directory %d of %d bytes", ino, in.size)
	}
	return in, nil
}

// dirent is one entry of a directory. Its name refers to cached metadata.
type dirent struct {
	ino  uint64
	kind uint8
	name []byte
	off  uint64 // of the entry in the directory
	next uint64 // of what is behind it
}

// direntTypes turns the file types of entries into S_IFMT bits. Type 8 is a
// whiteout, which is a character device.
var direntTypes = [...]uint32{0, filesys.TypeRegular, filesys.TypeDir, filesys.TypeChar,
	filesys.TypeBlock, filesys.TypeFIFO, filesys.TypeSocket, filesys.TypeSymlink, filesys.TypeChar}

// sane says whether a name may stand in a path.
func sane(name []byte) bool {
	return len(name) > 0 && strings.IndexByte(string(name), '/') < 0 && strings.IndexByte(string(name), 0) < 0
}

func isDots(name []byte) bool { return string(name) == "." || string(name) == ".." }

// ReadDir streams a directory. A cookie is the byte offset in the directory of
// the entry to go on with, so that resuming reads one block again, not more. An
// entry or a block that is damaged does not hide those behind it: the error
// comes at the end.
func (f *FS) ReadDir(dir, cookie uint64, fn func(filesys.DirEntry) bool) error {
	in, err := f.dir(dir)
	if err != nil {
		return err
	}
	var bad error
	more := true
	err = f.eachDirent(in, cookie, func(d dirent) bool {
		switch {
		case isDots(d.name):
			return true
		case !sane(d.name):
			if bad == nil {
				bad = corrupt("directory %d has the name %q", dir, d.name)
			}
			return true
		}
		e := filesys.DirEntry{Name: string(d.name), Ino: d.ino, Next: d.next}
		if int(d.kind) < len(direntTypes) {
			e.Type = direntTypes[d.kind]
		}
		more = fn(e)
		return more
	})
	if err == nil && more {
		err = bad
	}
	return err
}

// Lookup finds a name by the directory's hashes if they are sound, and else by
// reading its entries.
func (f *FS) Lookup(dir uint64, name string) (uint64, error) {
	in, err := f.dir(dir)
	if err != nil {
		return 0, err
	}
	if name == "" || len(name) > nameMax || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return 0, absent(dir, name)
	}
	m := f.matcher(name)
	if in.data.form == formLocal {
		err = f.eachDirent(in, 0, m.entry)
	} else if err = f.indexLookup(in, f.hash([]byte(name)), m.entry); err != nil && errors.Is(err, filesys.ErrCorrupt) {
		// The entries themselves are enough; without all of them, that a
		// name is absent cannot be known.
		err = f.eachDirent(in, 0, m.entry)
	}
	switch {
	case m.exact || m.found != 0 && err == nil:
		return m.found, nil
	case err != nil:
		return 0, wrap(err, "look up %q", name)
	}
	return 0, absent(dir, name)
}

func absent(dir uint64, name string) error {
	return fmt.Errorf("%q in directory %d: %w", name, dir, filesys.ErrNotExist)
}

// matcher looks for a name among entries.
type matcher struct {
	name  string
	fold  bool // another case will do
	found uint64
	exact bool
}

func (f *FS) matcher(name string) *matcher { return &matcher{name: name, fold: f.sb.ignoresCase()} }

// entry takes the next entry and says whether to go on.
func (m *matcher) entry(d dirent) bool {
	switch {
	case string(d.name) == m.name:
		m.found, m.exact = d.ino, true
	case m.fold && m.found == 0 && sameFolded(d.name, m.name):
		m.found = d.ino
	}
	return !m.exact
}

func sameFolded(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

// fold makes small letters of the capitals of ISO 8859-1, byte by byte: that is
// what a volume that ignores case does, whatever its names are encoded in.
func fold(c byte) byte {
	if c >= 'A' && c <= 'Z' || c >= 0xC0 && c <= 0xDE && c != 0xD7 {
		return c + 0x20
	}
	return c
}

// hash is that of a directory's index: seven bits to the left, and the next byte.
func (f *FS) hash(name []byte) (h uint32) {
	if f.sb.ignoresCase() {
		for _, c := range name {
			h = h<<7 | h>>25
			h ^= uint32(fold(c))
		}
		return h
	}
	return hashName(name)
}

// hashName is the hash of names that never ignore case: those of attributes.
func hashName(name []byte) (h uint32) {
	for _, c := range name {
		h = h<<7 | h>>25
		h ^= uint32(c)
	}
	return h
}

// Parent is the inode that ".." names.
func (f *FS) Parent(dir uint64) (uint64, error) {
	in, err := f.dir(dir)
	if err != nil {
		return 0, err
	}
	parent := uint64(0)
	if in.data.form == formLocal {
		sf, err := in.shortDir()
		if err != nil {
			return 0, err
		}
		parent = sf.parent
	} else {
		b, err := f.dirBlock(in, 0)
		if err != nil {
			return 0, err
		}
		if b == nil {
			return 0, corrupt("directory %d has no first block", dir)
		}
		if _, err := f.eachEntry(in, b, 0, func(d dirent) bool {
			if string(d.name) == ".." {
				parent = d.ino
			}
			return parent == 0
		}); err != nil {
			return 0, err
		}
	}
	if !f.sb.validInode(parent) {
		return 0, corrupt("directory %d has the parent %d", dir, parent)
	}
	return parent, nil
}
