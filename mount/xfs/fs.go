package xfs

import (
	"errors"
	"fmt"
	"io"

	"cairn/mount/filesys"
	"cairn/mount/xfslog"
)

// FS is an opened volume. It is immutable but for its cache, and safe for
// concurrent use if the reader below it is.
type FS struct {
	r        io.ReaderAt // the volume, with the log's changes over it
	sb       *superblock
	cache    *cache
	warnings []string
	// log is what was replayed, nil if nothing; replayed are the bytes of the
	// volume that it decides.
	log      *xfslog.Log
	replayed []filesys.Range
	stale    bool // the log was ignored
	recount  bool // the superblock's counters are not to be believed
	usage    onceUsage
}

var (
	_ filesys.Briefer = (*FS)(nil)
	_ filesys.Differ  = (*FS)(nil)
	_ filesys.Namer   = (*FS)(nil)
)

// Open reads the superblock of a volume of size bytes and, if the guest did not
// unmount it, lays its log over it. Errors wrap filesys.ErrWrongType when there
// is no XFS superblock, ErrUnsupported with the name of every feature that would
// have to be known or when the log cannot be replayed, ErrCorrupt when the
// superblock, the log or the root directory cannot be used, or what r returned.
//
// With o.IgnoreLog, a log that cannot be read or replayed and a mark that the
// volume needs repair are warnings instead.
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
	f, err := replay(r, size, sb, o)
	var bad errLog
	switch {
	case errors.As(err, &bad) && o.IgnoreLog:
		f = newFS(r, sb)
		f.stale, f.recount = true, true
		f.warnings = []string{fmt.Sprintf("The log is ignored (%v): what is shown may be old, and may contradict itself.", bad.error)}
		err = f.check(o)
	case errors.As(err, &bad):
		err = fmt.Errorf("%w; --ignore-log opens the volume without it, in an older and perhaps inconsistent state", err)
	}
	if err != nil {
		return nil, err
	}
	f.recount = f.recount || len(warnings) > 0
	f.warnings = append(warnings, f.warnings...)
	return f, nil
}

// replay opens a volume with what its log holds over it.
func replay(r io.ReaderAt, size int64, sb *superblock, o filesys.Options) (*FS, error) {
	log, err := loadLog(r, sb)
	if err != nil {
		return nil, err
	}
	if log == nil {
		f := newFS(r, sb)
		return f, f.check(o)
	}
	r = log.Overlay(r)
	// The superblock may be among it.
	if sb, _, err = anySuper(r, size); err != nil {
		return nil, errLog{wrap(err, "after the replay of the log")}
	}
	f := newFS(r, sb)
	f.log, f.replayed, f.recount = log, log.Ranges(), true
	f.warnings = log.Report().Warnings()
	if err := f.check(o); errors.Is(err, filesys.ErrCorrupt) {
		return nil, errLog{wrap(err, "after the replay of the log")}
	} else if err != nil {
		return nil, err
	}
	return f, nil
}

// check looks at what decides whether the volume can be shown.
func (f *FS) check(o filesys.Options) error {
	f.warnings = append(f.warnings, f.sb.stateWarnings()...)
	if f.sb.needsRepair() && !o.IgnoreLog {
		return fmt.Errorf("the file system is marked as in need of repair (needsrepair), which the guest's "+
			"xfs_repair would do; --ignore-log opens it as it is: %w", filesys.ErrUnsupported)
	}
	if _, err := f.dir(f.sb.root); err != nil {
		return required(err, "root directory")
	}
	return nil
}

func newFS(r io.ReaderAt, sb *superblock) *FS {
	return &FS{r: r, sb: sb, cache: newCache(cacheBytes)}
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
	s, info := f.sb, f.Brief()
	u, err := f.counted()
	if err != nil {
		info.Warnings = append(info.Warnings[:len(info.Warnings):len(info.Warnings)], fmt.Sprintf("The free space cannot be counted in full: %v.", err))
	}
	info.Size, info.Free = int64(u.size<<s.blockBits), int64(u.free<<s.blockBits)
	info.Available, info.Files, info.FilesFree = info.Free, u.inodes, u.freeNode
	return info
}

// Brief describes the volume without reading the headers of its groups.
func (f *FS) Brief() filesys.Info {
	s := f.sb
	return filesys.Info{
		Type: "xfs", Label: s.label(), UUID: s.userUUID(), BlockSize: int(s.blockSize), NameMax: nameMax, Warnings: f.warnings,
	}
}
