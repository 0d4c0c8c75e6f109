package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"cairn/mount/tree"
)

const (
	// cacheTime is for how long the kernel may keep what never changes.
	cacheTime = time.Hour
	// requestSize is the largest read request, and how far the kernel reads
	// ahead if it lets us set that.
	requestSize = 1 << 20
	// background is how many requests of readahead the kernel may have under
	// way.
	background = 64
)

// Options tune a mount.
type Options struct {
	// Name is shown as the source of the mount, in df and /proc/mounts.
	Name string
	// AllowOther lets other users of this host in, as far as the guest's
	// permission bits let them. Needs root, or user_allow_other in
	// /etc/fuse.conf.
	AllowOther bool
	// MapOwner shows everything as owned by the user who mounts.
	MapOwner bool
	// UIDs and GIDs say which users and groups of the guest are shown as others,
	// in owners and in access control lists. All others are shown as they are.
	UIDs, GIDs []IDRange
	// Log gets a line for whatever programs see as an I/O error. Nil: no log.
	Log *slog.Logger

	// helper mounts through fusermount3 though this is root, for tests.
	helper bool
	// maxNodes is another limit than the constant, for tests.
	maxNodes int64
}

// Server is a mounted tree.
type Server struct {
	dir    string
	srv    *fuse.Server
	dev    string // the mount's device number, "0:53"
	direct bool   // mounted without fusermount3
	log    *slog.Logger
	root   *node
	done   chan struct{} // closed when the file system is gone
}

// Mount shows the tree below root at dir, an existing empty directory, and
// returns when it can be used. The tree must stay open until Wait returns.
//
// Errors say what is wrong with dir or with FUSE on this host and what to do
// about it.
func Mount(dir string, root tree.Node, opts Options) (*Server, error) {
	s, err := start(dir, root, opts)
	if err != nil {
		return nil, fmt.Errorf("mount on %s: %w", dir, err)
	}
	return s, nil
}

func start(dir string, root tree.Node, opts Options) (*Server, error) {
	dir, err := checkDir(dir)
	if err != nil {
		return nil, err
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{dir: dir, direct: os.Geteuid() == 0 && !opts.helper, log: log, done: make(chan struct{})}
	if err := checkHost(s.direct, opts.AllowOther); err != nil {
		return nil, err
	}
	a, err := root.Attr(context.Background())
	if err != nil {
		return nil, err
	}
	m := &mounted{reporter: reporter{log: log}, maxNodes: maxNodes}
	if opts.maxNodes > 0 {
		m.maxNodes = opts.maxNodes
	}
	if m.uids, m.gids, err = opts.idMaps(); err != nil {
		return nil, err
	}
	timeout := cacheTime
	quiet := slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	fo := &fs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout, NegativeTimeout: &timeout,
		NullPermissions: true, // a mode of 0 is the guest's own
		RootStableAttr:  &fs.StableAttr{Ino: a.Ino},
		Logger:          quiet,
		MountOptions: fuse.MountOptions{
			FsName: source(opts.Name), Name: "cairn",
			MaxWrite: requestSize, MaxReadAhead: requestSize, MaxBackground: background,
			AllowOther: opts.AllowOther, DisableSplice: true, Logger: quiet,
			PanicHandler: func(p any) fuse.Status {
				log.Error("bug: panic while serving a request", "panic", fmt.Sprint(p))
				return fuse.EIO
			},
		},
	}
	if opts.AllowOther {
		fo.Options = append(fo.Options, "default_permissions")
	}
	if s.direct {
		fo.DirectMountStrict = true
		fo.DirectMountFlags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_RDONLY
	} else {
		fo.Options = append(fo.Options, "ro", "nosuid", "nodev")
	}
	s.root = &node{mnt: m, n: root}
	s.srv, err = fs.Mount(dir, s.root, fo)
	if err != nil {
		return nil, fuseError(err, s.direct)
	}
	s.tune()
	go func() {
		s.srv.Wait()
		m.prunes.Wait()
		close(s.done)
	}()
	return s, nil
}

// source makes a name fit for the mount table.
func source(name string) string {
	name = strings.Map(func(r rune) rune {
		if r <= ' ' || r == ',' || r == '\\' || r == 0x7f {
			return '_'
		}
		return r
	}, name)
	if name == "" {
		return "cairn"
	}
	return name
}

// Dir is where the tree is mounted, absolute and without symlinks.
func (s *Server) Dir() string { return s.dir }

// Wait returns when the file system is unmounted, by whomever, and every
// request has been answered.
func (s *Server) Wait() { <-s.done }

// Done is closed when Wait would return.
func (s *Server) Done() <-chan struct{} { return s.done }

// checkDir refuses what is not an existing empty directory, and says what to do.
func checkDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(abs)
	switch {
	case errors.Is(err, syscall.ENOTCONN):
		return "", fmt.Errorf("a dead mount is still there (%w): whatever served it ended without unmounting; remove it with: fusermount3 -u %s", syscall.ENOTCONN, abs)
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("the directory does not exist; create it with: mkdir -p %s", abs)
	case err != nil:
		return "", err
	case !st.IsDir():
		return "", errors.New("it is not a directory; a mount point must be an empty directory")
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", err
	}
	if m := mountAt(abs); m != nil && strings.HasPrefix(m.fstype, "fuse") {
		return "", fmt.Errorf("%s is already mounted there; unmount it with: fusermount3 -u %s", m.source, abs)
	}
	f, err := os.Open(abs)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if names, _ := f.Readdirnames(1); len(names) > 0 {
		return "", fmt.Errorf("the directory is not empty (it holds %q); choose an empty one, its files would be hidden", names[0])
	}
	return abs, nil
}
