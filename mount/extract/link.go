package extract

import (
	"crypto/rand"
	"errors"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

// linked is an inode with several names, of which the first is being copied.
type linked struct {
	left    uint32        // names that may still come; guarded by copier.linksMu
	settled chan struct{} // closed when the first name is there, or failed
	rel     []string      // where the first name is, from the destination
	ok      bool
}

func (l *linked) settle(rel []string, ok bool) {
	l.rel, l.ok = rel, ok
	close(l.settled)
}

// claim says whether this is the first name of the inode that is met. It is
// forgotten when as many names were met as the inode has.
func (c *copier) claim(of inode, a filesys.Attr) (l *linked, first bool) {
	c.linksMu.Lock()
	defer c.linksMu.Unlock()
	l = c.links[of]
	if l == nil {
		l = &linked{left: a.Nlink - 1, settled: make(chan struct{})}
		c.links[of] = l
		return l, true
	}
	if l.left--; l.left == 0 {
		delete(c.links, of)
	}
	return l, false
}

var errNotLinked = errors.New("the first name was not copied")

// hardLink gives the copy that l stands for another name. It waits until that
// copy is complete: it was queued earlier, so a worker has it.
func (c *copier) hardLink(l *linked, d *dir, name string, over bool) error {
	select {
	case <-l.settled:
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
	if !l.ok {
		return errNotLinked
	}
	// The directory of the first name is not open any more: walk to it, again
	// through no symlink.
	at, last := c.root, len(l.rel)-1
	for _, name := range l.rel[:last] {
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if at != c.root {
			unix.Close(at)
		}
		if err != nil {
			return err
		}
		at = next
	}
	if at != c.root {
		defer unix.Close(at)
	}
	tmp := ".cairn-" + rand.Text()
	if err := unix.Linkat(at, l.rel[last], d.fd, tmp, 0); err != nil {
		return err
	}
	if err := c.place(d.fd, tmp, name, over); err != nil {
		_ = unix.Unlinkat(d.fd, tmp, 0)
		return err
	}
	return nil
}
