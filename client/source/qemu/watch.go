package qemu

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cairn/client/source"
)

const (
	// settle is how long to wait after something happened in the directory: a
	// file that is being written is one change.
	settle = 100 * time.Millisecond
	// pollEvery is how often machines are asked whether they have changed.
	pollEvery = 3 * time.Second
)

// watched are the events after which descriptors may be other ones.
const watched = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// Watch implements source.Source. Descriptors are watched; machines are asked
// every few seconds, see the package comment.
func (s *Source) Watch(ctx context.Context, changed func()) error {
	events := make(chan struct{}, 1)
	if in, err := watchDir(s.o.Dir); err != nil {
		s.o.Log.Warn("directory of QEMU machines cannot be watched; it is looked at every few seconds", "err", err)
	} else {
		done := make(chan struct{})
		go func() {
			defer close(done)
			forward(in, events)
		}()
		defer func() {
			in.Close()
			<-done
		}()
	}
	seen := map[string]string{}
	for first := true; ; first = false {
		now, err := s.fingerprints(ctx, seen)
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		if first || !maps.Equal(seen, now) {
			changed()
		}
		seen = now
		timer := time.NewTimer(pollEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-events:
			timer.Reset(settle)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return nil
			}
			select { // what came while it settled is seen by the next look
			case <-events:
			default:
			}
		case <-timer.C:
		}
	}
}

// fingerprints tell for each machine what would change its description. A
// monitor that does not answer for the moment leaves the machine as it was.
func (s *Source) fingerprints(ctx context.Context, before map[string]string) (map[string]string, error) {
	list, err := descriptors(s.o.Dir)
	if err != nil {
		return nil, err
	}
	prints := make([]string, len(list))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for n, d := range list {
		g.Go(func() error {
			prints[n] = s.fingerprint(gctx, d, before[d.id])
			return nil
		})
	}
	g.Wait()
	all := map[string]string{}
	for n, d := range list {
		all[d.id] = prints[n]
	}
	return all, nil
}

func (s *Source) fingerprint(ctx context.Context, d *descriptor, before string) string {
	h := fnv.New64a()
	put := func(v ...any) { fmt.Fprintf(h, "%#v", v) } // %q would take sizes for characters
	put(d.Name, d.QMP, d.Agent, d.UUID, d.problem)
	if d.problem == "" {
		i, err := s.inspect(ctx, d)
		switch {
		case errors.Is(err, source.ErrHypervisor) && before != "":
			return before
		case err != nil:
			put("gone", errors.Is(err, errGone))
		default:
			put(i.status, i.uuid, i.agentUp)
			for _, disk := range i.disks {
				put(disk.Target, disk.Path, disk.Format, disk.Size, disk.Problem)
			}
		}
	}
	return strconv.FormatUint(h.Sum64(), 16)
}

// watchDir returns an inotify instance that reports events of a directory.
func watchDir(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, dir, watched); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// forward puts a token into events when there are any, until in is closed.
func forward(in *os.File, events chan<- struct{}) {
	var b [16 << 10]byte
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
