package extract

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// Copy copies sources to dest: into it when it is a directory, else (one source
// only) as it. An error that is not ErrIncomplete means that it was stopped.
func Copy(ctx context.Context, sources []Source, dest string, opts Options) (Progress, error) {
	root, name, err := openDest(sources, dest)
	if err != nil {
		return Progress{}, fmt.Errorf("copy to %s: %w", dest, err)
	}
	c := &copier{job: newJob(ctx, opts), root: root.fd, links: make(map[inode]*linked)}
	// The queue is short: the directories of what waits in it are open.
	c.tasks = make(chan func(), 2*c.opts.Parallel)
	var workers sync.WaitGroup
	for range c.opts.Parallel {
		workers.Go(func() {
			for task := range c.tasks {
				task()
			}
		})
	}
	root.pending.Store(1)
	for _, s := range sources {
		c.dirs = make(map[uint64]struct{}) // sources may overlap, and be of several points
		if s.contents() {
			c.entries(s.Node, root, s.Path, 0)
			continue
		}
		as := name
		if as == "" {
			as = s.name()
		}
		c.node(s.Node, root, as, s.Path, 0)
	}
	close(c.tasks)
	workers.Wait()
	root.done(c)
	return c.finish()
}

// openDest opens the directory that the copies go into, and gives the name for
// the only one when dest names it.
func openDest(sources []Source, dest string) (*dir, string, error) {
	names := map[string]bool{}
	for _, s := range sources {
		if s.contents() {
			continue
		}
		if names[s.name()] { // which of them would be there in the end?
			return nil, "", fmt.Errorf("two of the sources are called %q: copy them one by one, to different names", s.name())
		}
		names[s.name()] = true
	}
	st, err := os.Stat(dest)
	if err == nil && st.IsDir() {
		d, err := openDir(unix.AT_FDCWD, dest, 0)
		return d, "", err
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, "", err
	}
	switch {
	case len(sources) != 1:
		return nil, "", errors.New("to copy several things it must be an existing directory")
	case sources[0].contents():
		return nil, "", errors.New("to copy a directory's contents it must be an existing directory")
	case strings.HasSuffix(dest, "/"):
		if a, err := sources[0].Node.Attr(context.Background()); err != nil || a.Mode&filesys.TypeMask != filesys.TypeDir {
			return nil, "", errors.New("the directory does not exist")
		}
	}
	dest = filepath.Clean(dest)
	d, err := openDir(unix.AT_FDCWD, filepath.Dir(dest), 0)
	if err != nil {
		return nil, "", fmt.Errorf("open directory %s: %w", filepath.Dir(dest), err)
	}
	return d, filepath.Base(dest), nil
}

// dir is an open directory of the destination. It is finished, with its times,
// when everything below it is.
type dir struct {
	fd      int
	rel     []string // names from the root of the destination
	parent  *dir
	pending atomic.Int32
	finish  func()
}

// openDir opens name in the directory at. The user's own path to the destination
// may lead through symlinks; below that nofollow is set.
func openDir(at int, name string, nofollow int) (*dir, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|nofollow, 0)
	if err != nil {
		return nil, err
	}
	return &dir{fd: fd}, nil
}

func (d *dir) done(c *copier) {
	for d != nil && d.pending.Add(-1) == 0 {
		if d.finish != nil {
			d.finish()
		}
		unix.Close(d.fd)
		d = d.parent
	}
}

// copier is one call of Copy. A single goroutine walks the source and makes
// directories; workers make everything else.
type copier struct {
	*job
	root  int // the destination directory
	tasks chan func()
	dirs  map[uint64]struct{} // directories met in this source; the walker's own

	linksMu sync.Mutex
	links   map[inode]*linked
}

// inode is a file of one of the sources. Numbers alone are unique in one point only,
// and a file of another point, though it has the same number, is another file.
type inode struct {
	vol *tree.Volume
	ino uint64
}

// node copies n as name into d. src is its path for messages.
func (c *copier) node(n tree.Node, d *dir, name, src string, depth int) {
	if c.ctx.Err() != nil {
		return
	}
	a, err := n.Attr(c.ctx)
	if err == nil {
		err = checkName(name)
	}
	if err != nil {
		c.fail(src, err)
		return
	}
	if a.Mode&filesys.TypeMask == filesys.TypeDir {
		if err := c.directory(n, a, d, name, src, depth); err != nil {
			c.fail(src, err)
		}
		return
	}
	if a.Mode&filesys.TypeMask == filesys.TypeRegular {
		c.count.total.Add(a.Size)
	}
	d.pending.Add(1)
	c.tasks <- func() {
		defer d.done(c)
		if c.ctx.Err() == nil {
			c.fail(src, c.leaf(n, a, d, name, src))
		}
	}
}

// checkName refuses what is not one plain name. Readers do not report such
// names; nothing here depends on that.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q cannot be a file's name: %w", name, filesys.ErrCorrupt)
	}
	return nil
}

func (c *copier) directory(n tree.Node, a filesys.Attr, parent *dir, name, src string, depth int) error {
	if !c.opts.Recursive {
		return errors.New("it is a directory; use -r to copy it")
	}
	if depth >= tree.MaxDepth {
		return fmt.Errorf("directories nested deeper than %d: %w", tree.MaxDepth, filesys.ErrCorrupt)
	}
	err := unix.Mkdirat(parent.fd, name, 0o700)
	created := err == nil
	if err != nil && err != unix.EEXIST {
		return written("make directory", err)
	}
	d, err := openDir(parent.fd, name, unix.O_NOFOLLOW)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return errors.New("something that is not a directory has its name at the destination")
	}
	if err != nil {
		return written("open directory", err)
	}
	d.rel = append(append([]string(nil), parent.rel...), name)
	d.parent = parent
	d.pending.Store(1)
	parent.pending.Add(1)
	if created || c.opts.Force {
		d.finish = func() {
			c.metadata(d.fd, n, a, src)
			if err := setTimes(d.fd, ".", a); err != nil {
				c.unset(src, "a directory's times", err)
			}
		}
	}
	c.count.dirs.Add(1)
	c.entries(n, d, src, depth)
	d.done(c)
	return nil
}

// entries copies what a directory holds into d.
func (c *copier) entries(n tree.Node, d *dir, src string, depth int) {
	a, err := n.Attr(c.ctx)
	if err != nil {
		c.fail(src, err)
		return
	}
	if _, met := c.dirs[a.Ino]; met {
		c.fail(src, fmt.Errorf("directory with two names: %w", filesys.ErrCorrupt))
		return
	}
	c.dirs[a.Ino] = struct{}{}
	c.unreadable(n, src)
	err = tree.Entries(c.ctx, n, func(e tree.Entry) error {
		c.node(e.Node, d, e.Name, path.Join(src, e.Name), depth+1)
		return c.ctx.Err()
	}, func(err error) error { return fmt.Errorf("list directory: %w", err) })
	c.fail(src, err)
}

// leaf copies anything but a directory.
func (c *copier) leaf(n tree.Node, a filesys.Attr, d *dir, name, src string) error {
	over := c.opts.Force
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return errors.New("a directory has its name at the destination")
		}
		if !c.replace(src, d, name) {
			return ErrExists
		}
		over = true
	}
	if a.Nlink > 1 {
		l, first := c.claim(inode{n.Volume(), a.Ino}, a)
		if !first {
			err := c.hardLink(l, d, name, over)
			if err == nil {
				c.count.hardLinks.Add(1)
				c.count.done.Add(a.Size)
			}
			if err == nil || errors.Is(err, ErrExists) {
				return err
			}
			// The first name failed, or the destination has no hard links:
			// a copy is as good.
		} else {
			err := c.create(n, a, d, name, src, over)
			l.settle(append(append([]string(nil), d.rel...), name), err == nil)
			return err
		}
	}
	return c.create(n, a, d, name, src, over)
}

// replace says whether what has a name at the destination is to be replaced.
func (c *copier) replace(src string, d *dir, name string) bool {
	if c.opts.Force || c.opts.Replace == nil {
		return c.opts.Force
	}
	c.asks.Lock()
	defer c.asks.Unlock()
	return c.ctx.Err() == nil && c.opts.Replace(src, strings.Join(append(append([]string(nil), d.rel...), name), "/"))
}

// create makes a file, symlink or special file under a temporary name and moves
// it to its own, over what has that name if over is set.
func (c *copier) create(n tree.Node, a filesys.Attr, d *dir, name, src string, over bool) (err error) {
	tmp := ".cairn-" + rand.Text()
	kind := a.Mode & filesys.TypeMask
	switch kind {
	case filesys.TypeRegular:
		// A further name of it may replace something later.
		sync := over || a.Nlink > 1 && (c.opts.Force || c.opts.Replace != nil)
		err = c.regular(n, a, d.fd, tmp, src, sync)
	case filesys.TypeSymlink:
		err = c.symlink(n, a, d.fd, tmp, src)
	default:
		if !c.opts.Archive {
			c.skip(src, "special files are left out without -a")
			return nil
		}
		var made bool
		if made, err = c.special(n, a, d.fd, tmp, src); err == nil && !made {
			return nil
		}
	}
	if err == nil {
		err = c.place(d.fd, tmp, name, over)
	}
	if err != nil {
		_ = unix.Unlinkat(d.fd, tmp, 0)
		return err
	}
	switch kind {
	case filesys.TypeRegular:
		c.count.files.Add(1)
	case filesys.TypeSymlink:
		c.count.symlinks.Add(1)
	default:
		c.count.specials.Add(1)
	}
	c.progress(src, false)
	return nil
}

func (c *copier) regular(n tree.Node, a filesys.Attr, dirfd int, tmp, src string, sync bool) error {
	f, err := n.Open(c.ctx)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dirfd, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return written("create", err)
	}
	err = c.copyContent(src, f, fd)
	if err == nil {
		c.metadata(fd, n, a, src)
		if sync { // what is replaced is lost: the copy must not be, whatever happens
			err = written("sync", unix.Fsync(fd))
		}
	}
	if cerr := unix.Close(fd); err == nil {
		err = written("close", cerr)
	}
	if err == nil {
		if terr := setTimes(dirfd, tmp, a); terr != nil {
			c.unset(src, "times", terr)
		}
	}
	return err
}

// place moves the finished tmp to name. Without Force it fails if name exists,
// also when it has come into being just now.
func (c *copier) place(dirfd int, tmp, name string, over bool) error {
	if over {
		err := unix.Renameat(dirfd, tmp, dirfd, name)
		// Renaming one link of a file onto another does nothing at all.
		_ = unix.Unlinkat(dirfd, tmp, 0)
		return written("rename", err)
	}
	err := unix.Renameat2(dirfd, tmp, dirfd, name, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		// A file system without that: a link does not replace either.
		if err = unix.Linkat(dirfd, tmp, dirfd, name, 0); err == nil {
			return written("remove", unix.Unlinkat(dirfd, tmp, 0))
		}
		if err == unix.EPERM || err == unix.EOPNOTSUPP {
			err = unix.Renameat(dirfd, tmp, dirfd, name)
		}
	}
	if err == unix.EEXIST {
		return ErrExists
	}
	return written("rename", err)
}
