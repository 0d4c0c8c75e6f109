// Package extract brings files out of a recovery point: what `cairn cp` does. It
// copies nodes of a tree.Tree into a directory of this host, or streams one file
// or a tar archive.
//
// The guest is not trusted, and neither is what lies at the destination:
//
//   - Everything is created relative to the open directory that it belongs in,
//     one name at a time, and never through a symlink. A guest's names cannot
//     lead out of the destination, nor can symlinks that the guest has, that lie
//     there already, or that somebody puts there meanwhile.
//   - A file appears under its name when it is complete: it is written under a
//     temporary name and renamed. What fails leaves nothing behind.
//   - Nothing that exists is replaced, unless Force or Replace says so; then a
//     file is, once its copy is complete and on the disk, a directory never.
//     Directories are merged.
//   - A volume that cannot be read is an error, also where a whole point is
//     copied, with the note about it.
//   - Directories that contain themselves, and files that claim absurd sizes,
//     cost an error each.
//
// One file that cannot be read does not stop the rest: it is reported, counted,
// and Copy returns ErrIncomplete in the end. A destination that is full or
// read-only stops everything.
//
// Holes stay holes, hard links within one call stay hard links. Modes and times
// are kept; with Archive also owners, extended attributes, set-id bits and
// special files, as far as this user may: what may not be set is counted and
// said once. What the point has of these and cannot be read is a failure.
//
// A tar archive is in the PAX format: names, sizes and times of any kind, extended
// attributes and access control lists as GNU tar, star and bsdtar write them, hard
// links, and sparse files without their holes (sparse.go). Sockets alone have no
// place in it.
//
// The package imports mount/tree and mount/filesys, nothing of FUSE.
package extract

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/tree"
)

// ErrIncomplete: some files could not be copied; Options.Report told which.
var ErrIncomplete = errors.New("not everything could be copied")

// ErrExists: something of that name is there, and Force was not set.
var ErrExists = errors.New("it exists already; use --force to replace it")

const (
	// chunkSize is how much is read at once.
	chunkSize = 1 << 20
	// DefaultParallel is how many reads are under way at a time: enough to
	// cover the way to a server.
	DefaultParallel = 8
	// progressEvery is the shortest time between two calls of Progress.
	progressEvery = 100 * time.Millisecond
)

// Source is something to copy.
type Source struct {
	// Path is how the user named it. Its last element is the name of the copy
	// in a destination directory; when it ends in "/." the directory's entries
	// are copied instead of itself, as with cp.
	Path string
	Node tree.Node
}

func (s Source) contents() bool {
	return s.Path == "." || strings.HasSuffix(s.Path, "/.")
}

func (s Source) name() string {
	if base := path.Base(s.Path); base != "/" && base != "." && base != ".." {
		return base
	}
	return "point"
}

// Options tune a copy.
type Options struct {
	Recursive bool // directories too
	Archive   bool // owners, attributes, special files; implies Recursive
	Force     bool // replace files that exist
	// Replace is asked, without Force, whether a file that exists is to be replaced:
	// path is where the copy comes from, dest the name of what is there, from the
	// destination on. It is not called twice at a time. Nil: nothing is replaced.
	Replace  func(path, dest string) bool
	Parallel int // reads under way at a time; 0: DefaultParallel
	// Report is told of each file that could not be copied, and of each kind
	// of attribute that could not be set. It is not called twice at a time.
	Report func(path string, err error)
	// Progress is called now and then, and at the end. It is not called twice
	// at a time.
	Progress func(Progress)
}

// Progress is what has been done so far.
type Progress struct {
	Files     int64 // regular files that are complete
	Dirs      int64
	Symlinks  int64
	HardLinks int64
	Specials  int64 // devices, fifos, sockets
	Bytes     int64 // data written; holes do not count
	Done      int64 // bytes of the files' sizes that are dealt with, holes too
	Total     int64 // sum of the sizes of the files met so far
	Skipped   int64 // special files left out
	Failed    int64 // what could not be copied
	Unset     int64 // attributes that could not be set
	Path      string
}

// counters are a Progress that many goroutines add to.
type counters struct {
	files, dirs, symlinks, hardLinks, specials atomic.Int64
	bytes, done, total, skipped, failed, unset atomic.Int64
}

func (c *counters) snapshot(path string) Progress {
	return Progress{
		Files: c.files.Load(), Dirs: c.dirs.Load(), Symlinks: c.symlinks.Load(), HardLinks: c.hardLinks.Load(),
		Specials: c.specials.Load(), Bytes: c.bytes.Load(), Done: c.done.Load(), Total: c.total.Load(),
		Skipped: c.skipped.Load(), Failed: c.failed.Load(), Unset: c.unset.Load(), Path: path,
	}
}

// job is what Copy and Tar have in common: options, counters, reporting.
type job struct {
	opts   Options
	count  counters
	ctx    context.Context
	cancel context.CancelCauseFunc
	reads  chan struct{} // slots for reads

	mu   sync.Mutex // guards said and the callbacks, but for Replace
	asks sync.Mutex // guards Replace, which waits for a person
	said map[string]bool
	last atomic.Int64 // when Progress was called last
}

func newJob(ctx context.Context, opts Options) *job {
	if opts.Parallel <= 0 {
		opts.Parallel = DefaultParallel
	}
	opts.Recursive = opts.Recursive || opts.Archive
	j := &job{opts: opts, reads: make(chan struct{}, opts.Parallel), said: make(map[string]bool)}
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	return j
}

// fail reports what could not be copied. Errors that every other file would meet
// too end the job.
func (j *job) fail(path string, err error) {
	if err == nil || j.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // the job has ended, which its own cause says
	}
	for _, fatal := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS} {
		var w *writeError
		if errors.As(err, &w) && errors.Is(err, fatal) {
			j.cancel(fmt.Errorf("%s: %w", path, err))
			return
		}
	}
	j.count.failed.Add(1)
	j.report(path, err)
}

// unset reports an attribute that could not be set: counted always, said once
// for each kind.
func (j *job) unset(path, kind string, err error) {
	j.count.unset.Add(1)
	if j.first(kind) {
		j.report(path, fmt.Errorf("%s cannot be set (others like it are only counted): %w", kind, err))
	}
}

// skip counts what is left out, and says so once.
func (j *job) skip(path, why string) {
	j.count.skipped.Add(1)
	if j.first(why) {
		j.report(path, errors.New(why+" (others like it are only counted)"))
	}
}

// first says whether it is asked about a kind of message for the first time.
func (j *job) first(kind string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	said := j.said[kind]
	j.said[kind] = true
	return !said
}

func (j *job) report(path string, err error) {
	if j.opts.Report == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.opts.Report(path, err)
}

// progress calls Progress if it is time, or if this is the end.
func (j *job) progress(path string, end bool) {
	if j.opts.Progress == nil {
		return
	}
	last, now := j.last.Load(), time.Now().UnixNano()
	if !end && (now-last < int64(progressEvery) || !j.last.CompareAndSwap(last, now)) {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.opts.Progress(j.count.snapshot(path))
}

// finish gives a job's result and error.
func (j *job) finish() (Progress, error) {
	j.progress("", true)
	res := j.count.snapshot("")
	if err := context.Cause(j.ctx); err != nil {
		return res, err
	}
	j.cancel(nil)
	if res.Failed > 0 {
		return res, fmt.Errorf("%w: %d failed", ErrIncomplete, res.Failed)
	}
	return res, nil
}

// writeError is an error of the destination, not of the recovery point.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// written wraps an error of a system call at the destination.
func written(op string, err error) error {
	if err == nil {
		return nil
	}
	return &writeError{fmt.Errorf("%s: %w", op, err)}
}
