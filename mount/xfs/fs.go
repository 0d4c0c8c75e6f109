package xfs

import (
	"fmt"
	"io"
	"sync"

	"cairn/mount/filesys"
)

// FS is an opened volume. It is immutable but for its cache, and safe for
// concurrent use if the reader below it is.
type FS struct {
	r        io.ReaderAt // the volume, with the log's changes over it
	sb       *superblock
	cache    *cache
	warnings []string
	// replayed are the bytes of the volume that the log decides.
	replayed []filesys.Range
	stale    bool // the log was ignored
	recount  bool // the superblock's counters are not to be believed
	usage    func() usage
}

var (
	_ filesys.FS     = (*FS)(nil)
	_ filesys.Differ = (*FS)(nil)
	_ filesys.Namer  = (*FS)(nil)
)

// Open reads the superblock of a volume of size bytes and, if the guest did not
// unmount it, lays its log over it. Errors wrap filesys.ErrWrongType when there
// is no XFS superblock, ErrUnsupported with the name of every feature that would
// have to be known or when the log cannot be replayed, ErrCorrupt when the
// superblock, the log or the root directory cannot be used, or what r returned.
//
// With o.IgnoreLog, a log that cannot be replayed and a mark that the volume
// needs repair are warnings instead.
//
// r must stay usable for as long as the FS is used.
func Open(r io.ReaderAt, size int64, o filesys.Options) (*FS, error) {
	f, err := open(r, size, o)
	if err != nil {
		return nil, fmt.Errorf("open XFS file system: %w", err)
	}
	return f, nil
}

func open(r io.ReaderAt, size int64, o filesys.Options) (*FS, error) {
	sb, warnings, err := anySuper(r, size)
	if err != nil {
		return nil, err
	}
	isCopy := len(warnings) > 0
	log, stale, logWarnings, err := loadLog(r, sb, o)
	if err != nil {
		return nil, err
	}
	f := newFS(r, sb)
	if log != nil {
		// The superblock may be among what the log holds.
		f = newFS(log.Overlay(r), sb)
		if sb, warnings, err = anySuper(f.r, size); err != nil {
			return nil, wrap(err, "after the replay of the log")
		}
		f.sb, f.replayed = sb, replayedRanges(log, size)
	}
	f.warnings = append(append(warnings, logWarnings...), sb.stateWarnings()...)
	f.stale, f.recount = stale, isCopy || stale || log != nil
	if sb.needsRepair() && !o.IgnoreLog {
		return nil, fmt.Errorf("the file system is marked as in need of repair (needsrepair), which the guest's "+
			"xfs_repair would do; --ignore-log opens it as it is: %w", filesys.ErrUnsupported)
	}
	if _, err := f.dir(sb.root); err != nil {
		return nil, required(err, "root directory")
	}
	return f, nil
}

func newFS(r io.ReaderAt, sb *superblock) *FS {
	f := &FS{r: r, sb: sb, cache: newCache(cacheBytes)}
	f.usage = sync.OnceValue(func() usage { return f.countUsage() })
	return f
}

// stateWarnings tells what the superblock has to say to a person.
func (s *superblock) stateWarnings() (list []string) {
	if s.needsRepair() {
		list = append(list, "The file system is marked as in need of repair (needsrepair); it may contradict itself.")
	}
	if unknown := s.ro &^ roKnown; unknown != 0 {
		list = append(list, "Features that only matter for writing are not known: "+
			featureNames(unknown, "read-only compatible", nil)+".")
	}
	if be.Uint64(s.raw[16:]) != 0 {
		list = append(list, "The file system has a real-time device, whose files cannot be read.")
	}
	return list
}

// Root is the inode number of the root directory.
func (f *FS) Root() uint64 { return f.sb.root }

// Attr is what stat tells about an inode.
func (f *FS) Attr(ino uint64) (filesys.Attr, error) {
	in, err := f.inode(ino)
	if err != nil {
		return filesys.Attr{}, err
	}
	return f.attributes(in), nil
}

// Info describes the volume. After a crash, the first call reads the headers of
// every group.
func (f *FS) Info() filesys.Info {
	s, u := f.sb, f.usage()
	return filesys.Info{
		Type: "xfs", Label: s.label(), UUID: s.userUUID(), BlockSize: int(s.blockSize),
		Size: int64(u.size << s.blockBits), Free: int64(u.free << s.blockBits), Available: int64(u.free << s.blockBits),
		Files: u.inodes, FilesFree: u.freeNode, NameMax: nameMax, Warnings: f.warnings,
	}
}
