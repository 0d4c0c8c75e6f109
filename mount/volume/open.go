package volume

import (
	"fmt"
	"io"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
)

// Reader opens a volume of size bytes as one kind of file system.
type Reader func(r io.ReaderAt, size int64) (filesys.FS, error)

// readers are the file systems that Cairn can read. A new one adds its lines
// here and nothing elsewhere.
var readers = map[Kind]Reader{
	Ext2: openExt,
	Ext3: openExt,
	Ext4: openExt,
}

func openExt(r io.ReaderAt, size int64) (filesys.FS, error) {
	fs, err := ext4.Open(r, size)
	if err != nil {
		return nil, err // not fs: a nil *ext4.FS in an interface is not nil
	}
	return fs, nil
}

// CanRead says whether OpenFS has a reader for the kind.
func CanRead(k Kind) bool { return readers[k] != nil }

// OpenFS opens the file system on the volume r of size bytes.
//
// A volume that cannot hold files, or holds nothing recognisable, gives
// filesys.ErrWrongType; a format that is known but has no reader gives
// filesys.ErrUnsupported. The message names what was found.
func OpenFS(r io.ReaderAt, size int64) (filesys.FS, error) {
	c, err := Detect(r, size)
	if err != nil {
		return nil, fmt.Errorf("detect file system: %w", err)
	}
	open := readers[c.Kind]
	switch {
	case open != nil:
		return open(r, size)
	case c.Kind.Class() == ClassNothing:
		return nil, &openError{"the volume holds " + c.Kind.Title(), filesys.ErrWrongType}
	default:
		return nil, &openError{c.Kind.Title() + " is recognised but not readable yet", filesys.ErrUnsupported}
	}
}

// openError says in a whole sentence what its sentinel means here, without
// repeating the sentinel's own words.
type openError struct {
	text     string
	sentinel error
}

func (e *openError) Error() string { return e.text }
func (e *openError) Unwrap() error { return e.sentinel }
