package ntfs

import (
	"fmt"

	"cairn/mount/filesys"
)

var (
	_ filesys.Stored = (*stream)(nil)
	_ filesys.Stored = (*wof)(nil)
)

// Open gives the content of a regular file.
func (f *FS) Open(ino uint64) (filesys.File, error) {
	in, err := f.inode(ino)
	switch {
	case err != nil:
		return nil, err
	case in.isDir():
		return nil, fmt.Errorf("inode %d: %w", ino, filesys.ErrIsDir)
	case in.mode&filesys.TypeMask != filesys.TypeRegular:
		return nil, fmt.Errorf("open inode %d with mode %o: %w", ino, in.mode, filesys.ErrInvalid)
	case in.refused != nil:
		return nil, in.refused
	case in.wof != nil:
		return in.wof, nil
	}
	if err := in.data.readable(); err != nil {
		return nil, err
	}
	return in.data, nil
}
