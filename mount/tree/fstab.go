package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"cairn/mount/filesys"
	"cairn/mount/lvm2"
	"cairn/mount/volume"
)

// A path that a person knows, /home/ann/notes, is one of the running guest,
// where several volumes are mounted into one tree. Which, the guest's own
// /etc/fstab says. It is a hint and nothing more: what it names is looked up like
// any other path.

// rootDirs are where a volume may have the guest's root directory: distributions
// that use btrfs keep it in a subvolume of the top level.
var rootDirs = []string{"", "@", "@rootfs", "root"}

// maxFstab is how much of an /etc/fstab is read.
const maxFstab = 64 << 10

// mounted is one mount point of the guest.
type mounted struct {
	at  string // "/", "/home"
	dir string // its root in the tree: "/volumes/vg0-home", "/volumes/vda2/@home"
	// own: it is another file system than the root's, and mounted at each start, so
	// that what the root has there is hidden.
	own bool
}

// GuestPath is where a path of the running guest lies in the tree of a point, if
// the guest's /etc/fstab tells: "/home/ann" may be "/volumes/vg0-home/ann". It is
// empty when there is no such file, or more than one, or the file system that it
// names for the path is none of the point's.
//
// own says that the guest mounts a file system of its own at p or above: what other
// volumes have at that path is hidden to the guest and something else, also when
// the file system is none of the point's.
func (t *Tree) GuestPath(ctx context.Context, p string) (at string, own bool, err error) {
	vols, err := t.Volumes(ctx)
	if err != nil {
		return "", false, nil // the tree of an item: the path begins with a point
	}
	var table []mounted
	for _, v := range vols {
		if v.Made == volume.Subvolume && table != nil {
			continue // another view of a file system that was looked into
		}
		fs, err := v.FS()
		if err != nil {
			continue // said by the volume's own entry
		}
		for _, root := range rootDirs {
			b, err := v.readSmall(ctx, fs, path.Join("/", root, "etc/fstab"))
			if errors.Is(err, filesys.ErrNotExist) || errors.Is(err, filesys.ErrNotDir) {
				continue
			}
			if err != nil {
				return "", false, fmt.Errorf("where the guest has %s cannot be told, for %s of volume %s cannot be read; write the path with its volume, such as /volumes/%s%s: %w",
					p, path.Join("/", root, "etc/fstab"), v.Name, v.Name, path.Clean("/"+p), err)
			}
			if table != nil {
				return "", false, nil // two systems on one machine: which one is meant?
			}
			table = append(fstab(string(b), vols), mounted{"/", path.Join("/volumes", v.Name, root), false})
		}
	}
	p = path.Clean("/" + p)
	var best *mounted
	for i := range table {
		m := &table[i]
		if m.at == "/" || p == m.at || strings.HasPrefix(p, m.at+"/") {
			if best == nil || len(m.at) > len(best.at) {
				best = m
			}
		}
	}
	if best == nil || best.dir == "" {
		return "", best != nil && best.own, nil
	}
	return path.Join(best.dir, strings.TrimPrefix(p, best.at)), best.own, nil
}

// readSmall reads a file of a volume, up to maxFstab of it; symlinks are not
// followed.
func (v *Volume) readSmall(ctx context.Context, fs filesys.FS, p string) ([]byte, error) {
	var n Node = v.root(fs)
	for _, name := range strings.Split(strings.Trim(p, "/"), "/") {
		var err error
		if n, err = n.Lookup(ctx, name); err != nil {
			return nil, err
		}
	}
	a, err := n.Attr(ctx)
	if err != nil || a.Mode&filesys.TypeMask != filesys.TypeRegular {
		return nil, errors.Join(err, filesys.ErrNotExist)
	}
	f, err := n.Open(ctx)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, min(f.Size(), maxFstab)))
	return b, err
}

// fstab reads the lines of an fstab(5). A mount point whose volume is not among
// the point's has an empty dir: its files are elsewhere, not below "/".
func fstab(text string, vols []*Volume) (table []mounted) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || !strings.HasPrefix(f[1], "/") || f[1] == "/" {
			continue
		}
		switch f[2] {
		case "proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "swap":
			continue
		}
		m := mounted{at: path.Clean(unescape(f[1])), own: len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), "noauto")}
		if v := named(unescape(f[0]), vols); v != nil {
			m.dir = path.Join("/volumes", v.Name)
			if len(f) > 3 {
				for _, opt := range strings.Split(f[3], ",") {
					if sub, ok := strings.CutPrefix(opt, "subvol="); ok {
						m.dir = path.Join("/volumes", topLevel(v, vols), unescape(sub))
					}
				}
			}
		}
		table = append(table, m)
	}
	return table
}

// topLevel names the volume from which the subvolumes of v are named.
func topLevel(v *Volume, vols []*Volume) string {
	for _, t := range vols {
		if t.Made == volume.Subvolume && slices.Contains(t.Of, v.Name) {
			return t.Name
		}
	}
	return v.Name
}

// unescape undoes the octal escapes of fstab(5).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// named finds the volume that the first field of an fstab line means, or nil if
// none or several could be meant.
func named(spec string, vols []*Volume) (found *Volume) {
	var match func(*Volume) bool
	tag, value, _ := strings.Cut(spec, "=")
	value = strings.Trim(value, `"`)
	for dir, t := range map[string]string{"by-uuid": "UUID", "by-label": "LABEL", "by-partuuid": "PARTUUID", "by-partlabel": "PARTLABEL"} {
		if rest, ok := strings.CutPrefix(spec, "/dev/disk/"+dir+"/"); ok {
			tag, value = t, rest
		}
	}
	switch tag {
	case "UUID":
		match = func(v *Volume) bool { return value != "" && strings.EqualFold(v.Part.Content.UUID, value) }
	case "LABEL":
		match = func(v *Volume) bool { return value != "" && v.Part.Content.Label == value }
	case "PARTUUID":
		match = func(v *Volume) bool { return value != "" && strings.EqualFold(v.Part.UUID, value) }
	case "PARTLABEL":
		match = func(v *Volume) bool { return value != "" && v.Part.Label == value }
	default:
		name, ok := strings.CutPrefix(spec, "/dev/")
		if !ok {
			return nil
		}
		if rest, ok := strings.CutPrefix(name, "mapper/"); ok {
			name = rest
		} else if rest, ok := strings.CutPrefix(name, "md/"); ok {
			name = "md-" + rest
		} else if vg, lv, ok := strings.Cut(name, "/"); ok {
			name = lvm2.MapperName(vg, lv)
		}
		match = func(v *Volume) bool {
			return v.Name == name || letters(v.Name) != "" && letters(v.Name) == letters(name)
		}
	}
	for _, v := range vols {
		if !v.HoldsFiles() || !match(v) {
			continue
		}
		if found != nil {
			return nil
		}
		found = v
	}
	return found
}

// letters is what names of one disk and partition have in common, whatever bus
// the guest sees it on: a1 of sda1, vda1 and xvda1. It is empty for other names.
func letters(name string) string {
	for _, bus := range []string{"sd", "vd", "xvd", "hd"} {
		if rest, ok := strings.CutPrefix(name, bus); ok && rest != "" && strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789") == "" {
			return rest
		}
	}
	return ""
}
