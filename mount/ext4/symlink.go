package ext4

import (
	"bytes"
	"fmt"

	"cairn/mount/filesys"
)

// pathMax is Linux's limit of a path, its final NUL included.
const pathMax = 4096

// Readlink gives the target of a symlink.
func (f *FS) Readlink(ino uint64) (string, error) {
	in, err := f.inode(ino)
	switch {
	case err != nil:
		return "", err
	case in.mode&filesys.TypeMask != filesys.TypeSymlink:
		return "", fmt.Errorf("readlink of inode %d with mode %o: %w", ino, in.mode, filesys.ErrInvalid)
	case in.flags&flagEncrypt != 0:
		return "", fmt.Errorf("target of symlink %d: encryption: %w", ino, filesys.ErrUnsupported)
	case in.size <= 0 || in.size >= pathMax:
		return "", corrupt("symlink %d has a target of %d bytes", ino, in.size)
	}
	var target []byte
	if f.fastSymlink(in) {
		if in.size >= inlineHead {
			return "", corrupt("symlink %d keeps %d bytes in its inode", ino, in.size)
		}
		target = in.iblock()[:in.size]
	} else if target, err = f.readAll(in, pathMax); err != nil {
		return "", err
	}
	if bytes.IndexByte(target, 0) >= 0 {
		return "", corrupt("symlink %d has a NUL in its target", ino)
	}
	return string(target), nil
}
