package history

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cairn/mount/filesys"
)

// What says in what a file differs from an earlier state of it.
type What uint16

// The parts of a file that are compared.
const (
	Type    What = 1 << iota // it is of another type: a directory where a file was
	Content                  // bytes of a regular file
	Target                   // of a symlink
	Device                   // number of a device
	Mode                     // permissions
	Owner                    // user or group
	Mtime                    // modification time, not of directories
	Xattrs                   // extended attributes, ACLs among them
)

var whatNames = []string{"type", "content", "target", "device", "mode", "owner", "mtime", "xattrs"}

// words lists the parts by name.
func (w What) words() []string {
	list := []string{}
	for i, name := range whatNames {
		if w>>i&1 != 0 {
			list = append(list, name)
		}
	}
	return list
}

func (w What) String() string { return strings.Join(w.words(), ", ") }

// MarshalJSON gives an array of words.
func (w What) MarshalJSON() ([]byte, error) { return json.Marshal(w.words()) }

// differing compares inode x of a with inode y of b. Of contents it says
// nothing.
func differing(a filesys.FS, x filesys.Attr, b filesys.FS, y filesys.Attr) (w What, err error) {
	if kind(x) != kind(y) {
		return Type, nil
	}
	const perm = 0o7777
	if x.Mode&perm != y.Mode&perm {
		w |= Mode
	}
	if x.UID != y.UID || x.GID != y.GID {
		w |= Owner
	}
	switch kind(x) {
	case filesys.TypeDir:
	case filesys.TypeChar, filesys.TypeBlock:
		if x.Rdev != y.Rdev {
			w |= Device
		}
		fallthrough
	default:
		if !x.Mtime.Equal(y.Mtime) {
			w |= Mtime
		}
	}
	if kind(x) == filesys.TypeSymlink {
		t, errT := a.Readlink(x.Ino)
		u, errU := b.Readlink(y.Ino)
		switch {
		case errT != nil || errU != nil:
			return w, fmt.Errorf("read target: %w", errors.Join(errT, errU))
		case t != u:
			w |= Target
		}
	}
	same, err := sameXattrs(a, x.Ino, b, y.Ino)
	if err == nil && !same {
		w |= Xattrs
	}
	return w, err
}

func kind(a filesys.Attr) uint32 { return a.Mode & filesys.TypeMask }

func isDir(a filesys.Attr) bool { return kind(a) == filesys.TypeDir }

func sameXattrs(a filesys.FS, x uint64, b filesys.FS, y uint64) (bool, error) {
	ns, err := a.Xattrs(x)
	if err != nil {
		return false, fmt.Errorf("list extended attributes: %w", err)
	}
	ms, err := b.Xattrs(y)
	if err != nil {
		return false, fmt.Errorf("list extended attributes: %w", err)
	}
	slices.Sort(ns)
	slices.Sort(ms)
	if !slices.Equal(ns, ms) {
		return false, nil
	}
	for _, n := range ns {
		v, err := a.Xattr(x, n)
		if err != nil {
			return false, fmt.Errorf("read extended attribute %s: %w", n, err)
		}
		u, err := b.Xattr(y, n)
		if err != nil {
			return false, fmt.Errorf("read extended attribute %s: %w", n, err)
		}
		if !bytes.Equal(v, u) {
			return false, nil
		}
	}
	return true, nil
}

// identity says how sure it is that two attributes with one inode number are of
// the same file.
type identity int

const (
	other identity = iota // the number was given to another file
	maybe                 // the format keeps no time of creation
	sure
)

func identify(x, y filesys.Attr) identity {
	switch {
	case kind(x) != kind(y):
		return other
	case x.Btime.IsZero() || y.Btime.IsZero():
		return maybe
	case !x.Btime.Equal(y.Btime):
		return other
	}
	return sure
}

// renamed says whether the file of attributes x may be the one that later has y.
func renamed(x, y filesys.Attr) bool {
	switch identify(x, y) {
	case sure:
		return true
	case maybe:
		// A directory's times change with its entries. Should it be another one,
		// then its entries tell: they came and went.
		return isDir(x) || x.Size == y.Size && x.Mtime.Equal(y.Mtime)
	}
	return false
}
