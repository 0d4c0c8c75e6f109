package xfs

import (
	"bytes"
	"fmt"

	"cairn/mount/filesys"
)

const (
	symlinkMax   = 1024
	symlinkMagic = 0x58534C4D // "XSLM"
)

// Readlink gives the target of a symlink.
func (f *FS) Readlink(ino uint64) (string, error) {
	in, err := f.inode(ino)
	switch {
	case err != nil:
		return "", err
	case in.mode&filesys.TypeMask != filesys.TypeSymlink:
		return "", fmt.Errorf("readlink of inode %d with mode %o: %w", ino, in.mode, filesys.ErrInvalid)
	case in.size <= 0 || in.size > symlinkMax:
		return "", corrupt("symlink %d has a target of %d bytes", ino, in.size)
	}
	var target []byte
	if in.data.form == formLocal {
		target = in.data.root[:in.size]
	} else if target, err = f.remoteTarget(in); err != nil {
		return "", wrap(err, "symlink %d", ino)
	}
	if bytes.IndexByte(target, 0) >= 0 {
		return "", corrupt("symlink %d has a NUL in its target", ino)
	}
	return string(target), nil
}

// remoteTarget reads a target that has blocks of its own, which is written an
// extent at a time. On version 5 each extent, however many blocks it has, begins
// with one header of 56 bytes: magic (32 bits), place in the target (32), length
// (32), then its stamp.
func (f *FS) remoteTarget(in *inode) ([]byte, error) {
	target := make([]byte, 0, in.size)
	for off := uint64(0); len(target) < int(in.size); {
		r, err := f.mapBlock(&in.data, off)
		if err != nil {
			return nil, err
		}
		// The longest target with its headers takes less than this.
		limit := uint64(2*symlinkMax)>>f.sb.blockBits + 1
		if !r.isData() || r.n > limit {
			return nil, corrupt("target has %d blocks at %d", r.n, off)
		}
		b := make([]byte, r.n<<f.sb.blockBits)
		if err := readFull(f.r, b, int64(r.phys<<f.sb.blockBits)); err != nil {
			return nil, err
		}
		off += r.n
		if f.sb.v5 {
			if err := f.sb.verify(b, stampRemote, f.sb.daddr(r.phys), in.ino); err != nil {
				return nil, wrap(err, "block %d", r.phys)
			}
			n := uint64(be.Uint32(b[8:]))
			if be.Uint32(b) != symlinkMagic || uint64(be.Uint32(b[4:])) != uint64(len(target)) || n > uint64(len(b)-56) || n == 0 {
				return nil, corrupt("block %d is not the target's at %d", r.phys, len(target))
			}
			b = b[56 : 56+n]
		}
		target = append(target, b[:min(len(b), int(in.size)-len(target))]...)
	}
	return target, nil
}
