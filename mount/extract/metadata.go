package extract

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// metadata sets what a file or directory has besides its content and times. The
// order matters: a change of owner clears set-id bits and capabilities, so it
// comes first.
func (c *copier) metadata(fd int, n tree.Node, a filesys.Attr, src string) {
	owned := false
	if c.opts.Archive {
		err := unix.Fchown(fd, int(a.UID), int(a.GID))
		if owned = err == nil; !owned {
			c.unset(src, "owners", err)
		}
		c.xattrs(n, src, func(name string, value []byte) error {
			return unix.Fsetxattr(fd, name, value, 0)
		})
	}
	if err := unix.Fchmod(fd, mode(a, owned)); err != nil {
		c.unset(src, "modes", err)
	}
}

// mode leaves out set-id bits unless the file belongs to whom they were meant
// for.
func mode(a filesys.Attr, owned bool) uint32 {
	if owned {
		return a.Mode & 0o7777
	}
	return a.Mode & 0o777
}

func (c *copier) xattrs(n tree.Node, src string, set func(name string, value []byte) error) {
	names, err := n.Xattrs(c.ctx)
	if err != nil {
		c.fail(src, fmt.Errorf("list extended attributes: %w", err))
		return
	}
	for _, name := range names {
		v, err := n.Xattr(c.ctx, name)
		if err != nil { // the copy lacks something that the point has
			c.fail(src, fmt.Errorf("read extended attribute %s: %w", name, err))
			continue
		}
		if err := set(name, v); err != nil {
			space, _, _ := strings.Cut(name, ".")
			c.unset(src, "extended attributes "+space+".*", fmt.Errorf("%s: %w", name, err))
		}
	}
}

// setTimes sets access and modification time of name in dirfd, not through a
// symlink.
func setTimes(dirfd int, name string, a filesys.Attr) error {
	return unix.UtimesNanoAt(dirfd, name, []unix.Timespec{timespec(a.Atime), timespec(a.Mtime)}, unix.AT_SYMLINK_NOFOLLOW)
}

func timespec(t time.Time) unix.Timespec {
	if t.IsZero() {
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

func (c *copier) symlink(n tree.Node, a filesys.Attr, dirfd int, tmp, src string) error {
	target, err := n.Readlink(c.ctx)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(target, dirfd, tmp); err != nil {
		return written("make symlink", err)
	}
	c.byName(n, a, dirfd, tmp, src)
	return nil
}

// special makes a device, fifo or socket. One that this user may not make is
// left out.
func (c *copier) special(n tree.Node, a filesys.Attr, dirfd int, tmp, src string) (made bool, err error) {
	err = unix.Mknodat(dirfd, tmp, a.Mode&filesys.TypeMask|0o600, int(a.Rdev))
	if err == unix.EPERM {
		c.skip(src, "devices can only be made by root and are left out")
		return false, nil
	}
	if err != nil {
		return false, written("make special file", err)
	}
	owned := c.byName(n, a, dirfd, tmp, src)
	if err := unix.Fchmodat(dirfd, tmp, mode(a, owned), 0); err != nil {
		c.unset(src, "modes", err)
	}
	return true, nil
}

// byName sets owner, attributes and times of what cannot be opened.
func (c *copier) byName(n tree.Node, a filesys.Attr, dirfd int, tmp, src string) (owned bool) {
	if c.opts.Archive {
		err := unix.Fchownat(dirfd, tmp, int(a.UID), int(a.GID), unix.AT_SYMLINK_NOFOLLOW)
		if owned = err == nil; !owned {
			c.unset(src, "owners", err)
		}
		// There is no setxattrat; the open directory has a path of its own.
		p := fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), dirfd, tmp)
		c.xattrs(n, src, func(name string, value []byte) error { return unix.Lsetxattr(p, name, value, 0) })
	}
	if err := setTimes(dirfd, tmp, a); err != nil {
		c.unset(src, "times", err)
	}
	return owned
}
