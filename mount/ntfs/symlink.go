package ntfs

import (
	"errors"
	"fmt"
	"strings"

	"cairn/mount/filesys"
)

const (
	// maxTarget is the longest target that Linux follows.
	maxTarget = 4095
	// maxDepth bounds the directories on the way up from a link.
	maxDepth = 1024
	// symlinkRelative is the flag of a link that starts at its own directory.
	symlinkRelative = 1
)

// Readlink gives the target of a symlink or junction, such that it can be
// followed within the volume wherever that is mounted:
//
//   - A relative link is as Windows has it, with slashes; each part that exists
//     on the volume in another case gets the right one.
//   - An absolute link or a junction names a drive or volume, and NTFS does not
//     record which one it is itself. If the rest of the path exists here, it is
//     taken to be here and becomes relative to the link ("../../Users/Public").
//   - Otherwise it leads elsewhere and is given as it is, with slashes
//     ("D:/data", "Volume{…}/", "//server/share").
func (f *FS) Readlink(ino uint64) (string, error) {
	in, err := f.inode(ino)
	if err != nil {
		return "", err
	}
	if in.mode&filesys.TypeMask != filesys.TypeSymlink {
		return "", fmt.Errorf("readlink of inode %d with mode %o: %w", ino, in.mode, filesys.ErrInvalid)
	}
	return in.readlink()
}

func (in *inode) readlink() (string, error) {
	if in.target != nil {
		return *in.target, nil
	}
	target, relative, err := in.reparse.target()
	if err != nil {
		return "", fmt.Errorf("inode %d: %w", in.num, err)
	}
	if relative {
		return in.relativeTarget(target)
	}
	return in.absoluteTarget(target)
}

// target decodes the target of a symbolic link or junction ([MS-FSCC] sections
// 2.1.2.4 and 2.1.2.5): the place and length of two names, of which the first is
// what Windows follows.
func (r *reparse) target() (target string, relative bool, err error) {
	names := 8
	if r.tag == tagSymlink {
		names = 12
	}
	d := r.data
	if len(d) < names {
		return "", false, corrupt("a link of %d bytes", len(d))
	}
	off, n := int(le.Uint16(d)), int(le.Uint16(d[2:]))
	if off+n > len(d)-names {
		return "", false, corrupt("a target from %d to %d of %d", off, off+n, len(d)-names)
	}
	target = decodeName(string(d[names+off : names+off+n]))
	if i := strings.IndexByte(target, 0); i >= 0 {
		target = target[:i]
	}
	if target == "" {
		return "", false, corrupt("a link without a target")
	}
	return target, r.tag == tagSymlink && le.Uint32(d[8:])&symlinkRelative != 0, nil
}

// relativeTarget shows a relative target. One that begins with a backslash
// starts at the root of the volume.
func (in *inode) relativeTarget(target string) (string, error) {
	if strings.HasPrefix(target, `\`) {
		return in.fromRoot(strings.TrimLeft(target, `\`), slashes(target))
	}
	dir, err := in.parent()
	if err != nil {
		return "", err
	}
	path, _, err := in.fs.rightCase(dir, target)
	return limited(path, err)
}

// absoluteTarget shows a target of the NT namespace: \??\C:\path and the like.
func (in *inode) absoluteTarget(target string) (string, error) {
	for _, prefix := range []string{`\??\`, `\\?\`, `\DosDevices\`} {
		if strings.HasPrefix(target, prefix) {
			target = target[len(prefix):]
			break
		}
	}
	if rest, ok := cutFold(target, `UNC\`); ok {
		return limited("//"+slashes(rest), nil)
	}
	if len(target) >= 2 && target[1] == ':' && (len(target) == 2 || target[2] == '\\') {
		return in.fromRoot(strings.TrimLeft(target[2:], `\`), slashes(target))
	}
	return limited(slashes(target), nil)
}

// fromRoot gives the path from the directory of in to path, which is counted from
// the root of the volume, or otherwise if there is no such path.
func (in *inode) fromRoot(path, otherwise string) (string, error) {
	shown, exists, err := in.fs.rightCase(inoRoot, path)
	if err != nil {
		return "", err
	}
	if !exists {
		return limited(otherwise, nil)
	}
	dir, err := in.parent()
	if err != nil {
		return "", err
	}
	up := ""
	for depth := 0; dir != inoRoot; depth++ {
		if depth == maxDepth {
			return "", corrupt("inode %d lies more than %d directories deep", in.num, maxDepth)
		}
		if dir, err = in.fs.Parent(dir); err != nil {
			return "", err
		}
		up += "../"
	}
	switch {
	case shown == "" && up == "":
		return ".", nil
	case shown == "":
		return strings.TrimSuffix(up, "/"), nil
	}
	return limited(up+shown, nil)
}

func slashes(s string) string { return strings.ReplaceAll(s, `\`, "/") }

func cutFold(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		return s[len(prefix):], true
	}
	return s, false
}

func limited(target string, err error) (string, error) {
	if err == nil && len(target) > maxTarget {
		err = unsupported("a target of %d bytes", len(target))
	}
	return target, err
}

// rightCase gives a path of Windows with slashes and, as far as it exists, the
// case that its names have. exists says whether all of it does. Links in the
// path are not followed: what lies behind one counts as existing.
func (f *FS) rightCase(dir uint64, path string) (shown string, exists bool, err error) {
	parts := strings.Split(slashes(path), "/")
	known, lookups := true, 0
	exists = true
	for i, part := range parts {
		if !known || part == "" || part == "." {
			continue
		}
		if lookups++; lookups > 256 {
			return "", false, unsupported("a target of more than 256 names")
		}
		if part == ".." {
			if dir, err = f.Parent(dir); err != nil {
				return "", false, err
			}
			continue
		}
		e, name, err := f.findEntry(dir, part, true)
		switch {
		case errors.Is(err, filesys.ErrNotExist) || errors.Is(err, filesys.ErrNotDir):
			known, exists = false, false
			continue
		case err != nil:
			return "", false, err
		}
		// A DOS name stands for a longer one, but is an entry of its own.
		parts[i] = decodeName(name.raw)
		if dir, err = f.resolve(e.ref); err != nil {
			return "", false, err
		}
		rec, err := f.record(dir)
		if err != nil {
			return "", false, err
		}
		known = rec.fileAttrs()&fileReparse == 0
	}
	return strings.Join(parts, "/"), exists, nil
}
