// Package tree is the read-only name space of recovery points: what `cairn
// mount` shows through FUSE and what `cairn ls` and `cairn cp` show without it.
// All three walk the same Nodes, so they cannot disagree.
//
// A point looks like this, an item holds one such directory per point, named by
// its time, and a symlink `latest`:
//
//	point.json                  what the point is, and a list of its volumes
//	disks/vda.raw               the whole disk, sparse
//	volumes/vda1/…              the files of partition 1
//	volumes/vdb/…               the files of a disk without partitions
//	volumes/vda2.UNREADABLE.txt a volume that cannot be shown, and why
//	volumes/vda5.SWAP.txt       one that holds no files, and what it is
//	volumes/vg0-root/…          a logical volume, wherever it lies
//
// Every partition, and everything that is made of partitions, has exactly one
// entry in volumes/: a directory when its files can be read, else a small text.
// So a listing never looks complete when it is not, and a script that expects
// volumes/vda2/ fails instead of copying nothing.
//
// Rules:
//
//   - Nothing is read before somebody asks. A disk's partition table is read
//     when volumes/ or point.json is first looked at, a file system is opened
//     when its entry is: once, whoever asks at the same time waits.
//   - What went wrong with the medium (corrupt, unsupported) is remembered; what
//     went wrong on the way to it (the server did not answer) is tried again.
//   - Inode numbers are unique in the whole tree, so that programs which match
//     hard links by number never match across volumes, and hard links in a
//     volume share theirs. They stay the same as long as the Tree lives.
//   - Names and symlink targets are the guest's raw bytes. Resolve follows
//     guest symlinks inside their own volume only, as if it were mounted at /.
//   - Errors wrap the sentinels of mount/filesys, and errors of the Image as
//     they are. Turning them into errno is the FUSE adapter's business.
//
// The package imports mount/filesys and mount/volume, nothing of FUSE and
// nothing of the client: a disk is anything that has the methods of Image.
package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"cairn/mount/filesys"
	"cairn/mount/volume"
)

// ErrLoop: Resolve met more than maxLinks symlinks on one path.
var ErrLoop = errors.New("too many levels of symbolic links")

// Node is a file, directory, symlink or special file of the tree. All methods
// are safe for concurrent use. Methods that the node's type does not have
// return filesys.ErrNotDir, ErrIsDir or ErrInvalid.
type Node interface {
	// Attr is what stat shows; Ino is unique in the tree.
	Attr(ctx context.Context) (filesys.Attr, error)
	// Lookup finds a directory's entry, or filesys.ErrNotExist.
	Lookup(ctx context.Context, name string) (Node, error)
	// ReadDir streams the entries, without "." and "..", from behind the one
	// whose Next is cookie (0: all), until fn returns false.
	ReadDir(ctx context.Context, cookie uint64, fn func(Entry) bool) error
	Readlink(ctx context.Context) (string, error)
	// Open gives the content of a regular file. There is nothing to close.
	Open(ctx context.Context) (File, error)
	// Xattrs and Xattr are as in filesys.FS.
	Xattrs(ctx context.Context) ([]string, error)
	Xattr(ctx context.Context, name string) ([]byte, error)
	// Volume is the guest volume that the node belongs to, nil for what Cairn
	// adds around them.
	Volume() *Volume
	// Fresh says for how long the node's attributes, and a directory's
	// entries, may be cached: 0 is for ever.
	Fresh() time.Duration
}

// Entry is one name in a directory.
type Entry struct {
	Name string
	Ino  uint64
	Type uint32 // S_IFMT bits, or 0 when only Attr can tell
	Next uint64 // resumes ReadDir behind this entry; never 0
	Node Node
}

// File is the content of a file or disk, safe for concurrent reads.
type File interface {
	io.ReaderAt
	Size() int64 // bytes
	// Extent says whether the byte at off (0 ≤ off < Size) is data or a hole,
	// and for how many bytes that stays so (at least 1). Neighbouring extents
	// may be of the same kind.
	Extent(ctx context.Context, off int64) (data bool, length int64, err error)
}

// Image is a disk of a recovery point; *diskmap.Image is one.
type Image = File

// Options tune a Tree.
type Options struct {
	// Log gets a line for each volume that was opened with a warning or could
	// not be opened. Nil: no log.
	Log *slog.Logger
	// Volumes says how volumes are opened: keys of encrypted ones, what to do
	// about logs that cannot be replayed.
	Volumes volume.Options
	// OpenFS opens a volume's file system; nil opens what it holds. Tests put
	// a reader of their own here.
	OpenFS func(r io.ReaderAt, size int64) (filesys.FS, error)
}

// Tree is a recovery point, or an item with many of them, laid out as files.
type Tree struct {
	root    Node
	opts    Options
	ino     atomic.Uint64 // the last number given to a node that Cairn added
	slot    atomic.Uint64 // the last slot given to a volume
	keeping keeping
	uid     uint32 // who owns what Cairn added
	gid     uint32

	mu     sync.Mutex
	closed bool
	closes []func() error
}

func newTree(opts Options) *Tree {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Tree{opts: opts, uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}
}

// Root is the tree's top directory.
func (t *Tree) Root() Node { return t.root }

// Close releases the points that were opened (Point.Close). Nodes must not be
// used afterwards.
func (t *Tree) Close() error {
	t.mu.Lock()
	closes := t.closes
	t.closes, t.closed = nil, true
	t.mu.Unlock()
	var errs []error
	for _, c := range closes {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// onClose remembers what Close has to do; when that is past, it is done at once.
func (t *Tree) onClose(c func() error) error {
	if c == nil {
		return nil
	}
	t.mu.Lock()
	if !t.closed {
		t.closes = append(t.closes, c)
		t.mu.Unlock()
		return nil
	}
	t.mu.Unlock()
	return errors.Join(errors.New("the tree is closed"), c())
}

func (t *Tree) newIno() uint64 { return t.ino.Add(1) }

// Inode numbers have two parts: the volume's slot in the upper 20 bits (0 for
// what Cairn adds) and the guest's own number in the lower 44. Guest numbers of
// 2^43 and above, which only hostile or exotic volumes have, are replaced by
// numbers counted from 2^43 as they are met.
const (
	inoBits  = 44
	inoLimit = 1 << (inoBits - 1)
)

type inodes struct {
	slot uint64
	mu   sync.Mutex
	big  map[uint64]uint64
}

func (n *inodes) number(guest uint64) uint64 {
	if guest < inoLimit {
		return n.slot<<inoBits | guest
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	small, ok := n.big[guest]
	if !ok {
		if n.big == nil {
			n.big = make(map[uint64]uint64)
		}
		small = inoLimit + uint64(len(n.big))
		n.big[guest] = small
	}
	return n.slot<<inoBits | small
}

// lazy computes a value once; callers that come meanwhile wait. An error is
// not kept: the next call tries again.
type lazy[T any] struct {
	mu   sync.Mutex
	done atomic.Bool
	v    T
}

func (l *lazy[T]) get(compute func() (T, error)) (T, error) {
	if l.done.Load() {
		return l.v, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done.Load() {
		return l.v, nil
	}
	v, err := compute()
	if err != nil {
		return v, err
	}
	l.v = v
	l.done.Store(true)
	return v, nil
}

// permanent tells errors that lie in the guest's volume, and will not go away,
// from those of the way to it.
func permanent(err error) bool {
	for _, s := range []error{filesys.ErrCorrupt, filesys.ErrUnsupported, filesys.ErrWrongType, filesys.ErrInvalid} {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

func notExist(name string) error { return fmt.Errorf("%q: %w", name, filesys.ErrNotExist) }
