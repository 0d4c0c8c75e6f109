package source

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settle is how long nothing has to happen before a change is told, and
	// settleMost how long that may take: a copy of a directory is one change.
	settle     = 100 * time.Millisecond
	settleMost = 2 * time.Second

	// pollSure is how often the directory is looked at besides being watched:
	// network file systems do not tell what other hosts do. pollOnly is how
	// often if it cannot be watched.
	pollSure = time.Minute
	pollOnly = 2 * time.Second
)

// watched are the events after which Machines may answer differently. Writing
// to an image is none, only being done with it.
const watched = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// Watch implements Source.
func (s *Images) Watch(ctx context.Context, changed func()) error {
	events := make(chan struct{}, 1)
	poll := pollSure
	in, err := newInotify()
	if err == nil { // or this user has no instances left
		done := make(chan struct{})
		go func() {
			defer close(done)
			in.forward(events)
		}()
		defer func() {
			in.Close()
			<-done
		}()
	}
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for last := uint64(0); ; {
		// First watch, then look: what comes in between is an event.
		every := pollSure
		if in == nil || s.watchAll(in) != nil {
			every = pollOnly
		}
		if every != poll {
			poll = every
			ticker.Reset(poll)
		}
		if seen := s.fingerprint(); seen != last {
			last = seen
			changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			if !quiet(ctx, events) {
				return nil
			}
			last = 0 // tell, whatever it was
		case <-ticker.C:
		}
	}
}

// quiet waits until no more events come; false means that ctx is done.
func quiet(ctx context.Context, events <-chan struct{}) bool {
	most := time.After(settleMost)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-events:
		case <-time.After(settle):
			return true
		case <-most:
			return true
		}
	}
}

// watchAll watches the directory and its sub-directories. What is watched
// already stays so.
func (s *Images) watchAll(in *inotify) error {
	if _, err := in.watch(s.dir, watched); err != nil {
		return err
	}
	names, err := readDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue
		}
		_, err := in.watch(filepath.Join(s.dir, name), watched)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ELOOP) {
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// fingerprint sums up names, sizes and times. It is never 0.
func (s *Images) fingerprint() uint64 {
	h := fnv.New64a()
	var add func(dir string, deeper bool)
	add = func(dir string, deeper bool) {
		names, err := readDir(dir)
		fmt.Fprintln(h, dir, err)
		for _, name := range names {
			path := filepath.Join(dir, name)
			st, err := os.Stat(path)
			if err != nil {
				fmt.Fprintln(h, path, err)
				continue
			}
			if st.IsDir() && deeper {
				add(path, false)
			} else if extFormat(name) != "" {
				fmt.Fprintln(h, path, st.Mode(), st.Size(), st.ModTime().UnixNano())
			}
		}
	}
	add(s.dir, true)
	return h.Sum64() | 1
}

// inotify is a file from which the kernel's events are read.
type inotify struct{ *os.File }

func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &inotify{os.NewFile(uintptr(fd), "inotify")}, nil
}

func (in *inotify) watch(dir string, mask uint32) (wd int, err error) {
	rc, err := in.SyscallConn()
	if err != nil {
		return 0, err
	}
	if err2 := rc.Control(func(fd uintptr) { wd, err = unix.InotifyAddWatch(int(fd), dir, mask) }); err2 != nil {
		return 0, err2
	}
	return wd, err
}

// forward puts a token into events when there are any, until in is closed.
func (in *inotify) forward(events chan<- struct{}) {
	var b [64 << 10]byte
	for {
		if _, err := in.Read(b[:]); err != nil {
			return
		}
		select {
		case events <- struct{}{}:
		default: // one is waiting, which is as good
		}
	}
}
