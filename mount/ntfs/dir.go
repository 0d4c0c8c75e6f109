package ntfs

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"cairn/mount/filesys"
)

// dir reads the inode of a directory.
func (f *FS) dir(ino uint64) (*inode, error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	if !in.isDir() {
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrNotDir)
	}
	if in.refused != nil {
		return nil, in.refused
	}
	return in, nil
}

// asCorrupt makes of "there is no such thing", or of an end, what it means where
// the volume itself said that there is.
func asCorrupt(err error) error {
	if errors.Is(err, filesys.ErrNotExist) || errors.Is(err, io.EOF) && !errors.Is(err, filesys.ErrCorrupt) {
		return corrupt("%v", err)
	}
	return err
}

func notEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// A cookie is the place of the entry to go on with: the number of its block,
// plus one (0 is the root of the index), and its offset there.
const cookieBits = 17

// ReadDir streams a directory: the root of its index, then every block in use,
// in the order in which they lie. DOS names, the root's entry for itself and the
// file system's own files are left out.
func (f *FS) ReadDir(dir, cookie uint64, fn func(filesys.DirEntry) bool) error {
	in, err := f.dir(dir)
	if err != nil {
		return err
	}
	x, err := f.index(in, nameIndex)
	if err != nil {
		return err
	}
	nr, off := cookie>>cookieBits, int(cookie&(1<<cookieBits-1))
	if nr == 0 {
		if more, err := x.listNode(x.root, 0, off, fn); err != nil || !more {
			return err
		}
		nr, off = 1, 0
	}
	for {
		used, ok, err := x.nextUsed(nr - 1)
		if err != nil || !ok {
			return err
		}
		if used != nr-1 {
			off = 0
		}
		node, err := x.block(used)
		if err != nil {
			return err
		}
		if more, err := x.listNode(node, used+1, off, fn); err != nil || !more {
			return err
		}
		nr, off = used+2, 0
	}
}

// nextUsed finds the first block in use from nr on.
func (x *index) nextUsed(nr uint64) (uint64, bool, error) {
	buf := make([]byte, 4096)
	total := x.blocks()
	for nr < total {
		n, err := x.bitmap.ReadAt(buf, int64(nr/8))
		if n == 0 {
			return 0, false, corruptOr(notEOF(err), "inode %d: the bitmap of the index ends before block %d of %d", x.in.num, nr, total)
		}
		base := nr &^ 7
		for end := min(total, base+uint64(n)*8); nr < end; {
			b := buf[(nr-base)/8] >> (nr & 7)
			if b == 0 {
				nr = nr&^7 + 8
				continue
			}
			if b&1 != 0 {
				return nr, true, nil
			}
			nr++
		}
	}
	return 0, false, nil
}

// listNode reports the entries of a node from offset from on. nr is the node's
// number in cookies.
func (x *index) listNode(node []byte, nr uint64, from int, fn func(filesys.DirEntry) bool) (bool, error) {
	for off := 0; ; {
		e, err := x.parseEntry(node, off)
		if err != nil {
			return false, err
		}
		if e.last {
			return true, nil
		}
		off = e.next
		if e.off < from {
			continue
		}
		name, err := parseFileName(e.key)
		if err != nil {
			return false, fmt.Errorf("inode %d: %w", x.in.num, err)
		}
		shown, ok := name.shown()
		if !ok || name.space == spaceDOS || refNum(e.ref) < firstUser {
			continue
		}
		d := filesys.DirEntry{Name: shown, Next: nr<<cookieBits | uint64(e.next)}
		d.Ino, d.Type = x.in.fs.entryInode(e.ref)
		if !fn(d) {
			return false, nil
		}
	}
}

// entryInode gives the number and, where the record alone tells it, the type of
// the inode that a directory entry names. If the record is by now another
// file's, the number is one that has no attributes but an error.
func (f *FS) entryInode(ref uint64) (ino uint64, typ uint32) {
	num := refNum(ref)
	rec, err := f.record(num)
	if err != nil {
		return num, 0 // Attr has the same error
	}
	if rec.flags&recordInUse == 0 || rec.base != 0 || rec.seq != refSeq(ref) {
		return ref, 0
	}
	if rec.fileAttrs()&(fileReparse|fileSystem) != 0 || rec.find(attrReparse, "") != nil || rec.find(attrList, "") != nil {
		return num, 0
	}
	if rec.flags&recordIsDir != 0 {
		return num, filesys.TypeDir
	}
	return num, filesys.TypeRegular
}

// Lookup finds a name. Case matters; names that ReadDir leaves out are found.
func (f *FS) Lookup(dir uint64, name string) (uint64, error) {
	return f.lookup(dir, name, false)
}

// lookupFold finds a name in whatever case, but rather in the right one.
func (f *FS) lookupFold(dir uint64, name string) (uint64, error) {
	return f.lookup(dir, name, true)
}

func (f *FS) lookup(dir uint64, name string, fold bool) (uint64, error) {
	e, _, err := f.findEntry(dir, name, fold)
	if err != nil {
		return 0, err
	}
	ino, err := f.resolve(e.ref)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q in directory %d: %w", name, dir, err)
	case ino == inoMFT:
		return 0, absent(dir, name)
	}
	return ino, nil
}

func absent(dir uint64, name string) error {
	return fmt.Errorf("%q in directory %d: %w", name, dir, filesys.ErrNotExist)
}

// findEntry finds the directory entry of a name, in whatever case with fold.
func (f *FS) findEntry(dir uint64, name string, fold bool) (found entry, as fileName, err error) {
	in, err := f.dir(dir)
	if err != nil {
		return entry{}, fileName{}, err
	}
	raw, ok := encodeName(name)
	if !ok || name == "" || len(raw) > 2*maxUnits || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return entry{}, fileName{}, absent(dir, name)
	}
	x, err := f.index(in, nameIndex)
	if err != nil {
		return entry{}, fileName{}, err
	}
	hit, exact := false, false
	match := func(e entry) bool {
		n, err := parseFileName(e.key)
		if err != nil {
			return true
		}
		if n.raw == raw {
			found, as, hit, exact = e, n, true, true
		} else if fold && !hit {
			found, as, hit = e, n, true
		}
		return !exact
	}
	table, tableErr := f.upcase.get(f.loadUpcase)
	if tableErr != nil && fold && strings.ContainsFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return entry{}, fileName{}, tableErr // another time another name may be found
	}
	if table != nil {
		err = x.search(func(key []byte) (int, error) {
			n, err := parseFileName(key)
			return table.compare(n.raw, raw), err
		}, match)
	} else {
		// Without the table that sorts names, all must be looked at; letters
		// are those of ASCII then.
		err = x.each(func(e entry) bool {
			n, err := parseFileName(e.key)
			if err != nil || n.raw != raw && !(fold && asciiUpcase.compare(n.raw, raw) == 0) {
				return true
			}
			return match(e)
		})
	}
	if err == nil && !hit {
		err = absent(dir, name)
	}
	return found, as, err
}

// each calls fn for all entries of an index until it returns false.
func (x *index) each(fn func(entry) bool) error {
	node, nr := x.root, uint64(0)
	for {
		for off := 0; ; {
			e, err := x.parseEntry(node, off)
			if err != nil {
				return err
			}
			if e.last {
				break
			}
			if !fn(e) {
				return nil
			}
			off = e.next
		}
		used, ok, err := x.nextUsed(nr)
		if err != nil || !ok {
			return err
		}
		if node, err = x.block(used); err != nil {
			return err
		}
		nr = used + 1
	}
}
