package ntfs

import (
	"fmt"
	"strings"

	"cairn/mount/filesys"
)

// Namespaces of a name.
const (
	spacePOSIX = iota
	spaceWin32
	spaceDOS
	spaceBoth // a Win32 name that is a DOS name as well
)

// fileName is a decoded $FILE_NAME: an attribute of the file, and the key of
// its entry in the directory.
type fileName struct {
	parent uint64 // reference to the directory
	attrs  uint32 // file attributes, as the directory last heard of them
	space  uint8
	raw    string // UTF-16LE
}

func parseFileName(p []byte) (fileName, error) {
	if len(p) < 0x42 || len(p) < 0x42+2*int(p[0x40]) {
		return fileName{}, corrupt("a file name in %d bytes", len(p))
	}
	return fileName{parent: le.Uint64(p), attrs: le.Uint32(p[0x38:]), space: p[0x41], raw: string(p[0x42 : 0x42+2*int(p[0x40])])}, nil
}

// shown is the name as it is reported. ok is false where it would break a path.
func (n fileName) shown() (name string, ok bool) {
	name = decodeName(n.raw)
	return name, name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// eachName calls fn for each $FILE_NAME of an inode until it returns false.
func (in *inode) eachName(fn func(fileName) bool) error {
	call := func(a *attr) (bool, error) {
		if a.nonresident {
			return false, corrupt("inode %d: a name is not resident", in.num)
		}
		n, err := parseFileName(a.value)
		if err != nil {
			return false, fmt.Errorf("inode %d: %w", in.num, err)
		}
		return fn(n), nil
	}
	if in.list == nil {
		for i := range in.base.attrs {
			if a := &in.base.attrs[i]; a.typ == attrFileName {
				if more, err := call(a); !more {
					return err
				}
			}
		}
		return nil
	}
	for _, e := range in.list {
		if e.typ != attrFileName {
			continue
		}
		rec, err := in.fs.extension(in.base, e.ref)
		if err != nil {
			return err
		}
		a, err := rec.piece(e)
		if err != nil {
			return err
		}
		if more, err := call(a); !more {
			return err
		}
	}
	return nil
}

// Names lists all names of an inode, but for DOS names.
func (f *FS) Names(ino uint64) (names []filesys.Name, err error) {
	in, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	var bad error
	err = in.eachName(func(n fileName) bool {
		if n.space == spaceDOS {
			return true
		}
		name, ok := n.shown()
		if !ok {
			return true
		}
		var parent uint64
		if parent, bad = f.resolve(n.parent); bad != nil {
			return false
		}
		names = append(names, filesys.Name{Parent: parent, Name: name})
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("names of inode %d: %w", ino, err)
	}
	return names, nil
}

// Parent is the directory that a directory's name is in.
func (f *FS) Parent(dir uint64) (uint64, error) {
	in, err := f.dir(dir)
	if err != nil {
		return 0, err
	}
	return in.parent()
}

func (in *inode) parent() (parent uint64, err error) {
	if in.num == inoRoot {
		return inoRoot, nil
	}
	ref, found := uint64(0), false
	if err := in.eachName(func(n fileName) bool {
		ref, found = n.parent, true
		return false
	}); err != nil {
		return 0, err
	}
	if !found {
		return 0, corrupt("inode %d has no name", in.num)
	}
	return in.fs.resolve(ref)
}
