package ext4

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"cairn/mount/filesys"
	"cairn/mount/jbd2"
)

// FS is an opened volume. It is immutable but for its cache, and safe for
// concurrent use if the reader below it is.
type FS struct {
	r        io.ReaderAt // the volume, with the journal's blocks over it
	sb       *superblock
	cache    *cache
	warnings []string
	// orphans are the sectors that the kernel would take from inodes whose
	// truncation it would finish; see orphan.go.
	orphans map[uint32]int64
	freed   freedSpace
	usage   func() usage
	// log is what was laid over the volume, nil if nothing was, and journal the
	// file that it is read from; see stored.go and differ.go.
	log     *jbd2.Log
	journal *file
}

var _ filesys.Briefer = (*FS)(nil)

// Open reads the superblock of a volume of size bytes and, if the guest did not
// unmount it, lays its journal over it. Errors wrap filesys.ErrWrongType when
// there is no ext2/3/4 superblock, ErrUnsupported with the name of every
// feature that would have to be known, ErrCorrupt when the superblock, the
// journal or the root directory cannot be used, or what r returned. With
// o.IgnoreLog a journal that has to be replayed is left alone.
//
// r must stay usable for as long as the FS is used.
func Open(r io.ReaderAt, size int64, o filesys.Options) (*FS, error) {
	f, err := open(r, size, o)
	if err != nil {
		return nil, fmt.Errorf("open ext file system: %w", err)
	}
	return f, nil
}

func open(r io.ReaderAt, size int64, o filesys.Options) (*FS, error) {
	sb, warnings, err := anySuper(r, size)
	if err != nil {
		return nil, err
	}
	f := newFS(r, sb)
	var log *jbd2.Log
	var journal *file
	switch {
	case !o.IgnoreLog:
		if log, journal, err = f.loadJournal(); err != nil {
			return nil, fmt.Errorf("%w (--ignore-log opens it without its journal, as of an earlier moment)", err)
		}
	case sb.incompat&incompatRecover != 0:
		warnings = append(warnings, "The file system was not unmounted and its journal is ignored: what the journal "+
			"holds is missing, and files may contradict each other.")
	}
	if log != nil {
		// The superblock and the descriptors may be among the log's blocks.
		r = log.Overlay(r)
		if sb, warnings, err = anySuper(r, size); err != nil {
			return nil, wrap(err, "after the replay of the journal")
		}
		f = newFS(r, sb)
		f.log, f.journal = log, journal
		warnings = append(warnings, journalWarnings(log)...)
	}
	f.warnings = append(warnings, stateWarnings(sb)...)
	if _, err := f.dir(rootIno); err != nil {
		return nil, required(err, "root directory")
	}
	f.cleanOrphans()
	return f, nil
}

func newFS(r io.ReaderAt, sb *superblock) *FS {
	f := &FS{r: r, sb: sb, cache: newCache(cacheBytes)}
	f.usage = sync.OnceValue(f.countUsage)
	return f
}

// anySuper reads the superblock or, if the primary is damaged, its copy in
// group 1. A volume without the magic number in its place is never searched
// for copies: they outlive the file system when the volume is formatted anew.
func anySuper(r io.ReaderAt, size int64) (*superblock, []string, error) {
	sb, err := readSuper(r, superOffset, size)
	var bad errSuperblock
	if !errors.As(err, &bad) {
		return sb, nil, err
	}
	uuid := make([]byte, 16)
	if readFull(r, uuid, superOffset+0x68) != nil {
		return nil, nil, err
	}
	backup, backupErr := findBackup(r, size, uuid)
	if backupErr != nil {
		return nil, nil, err
	}
	return backup, []string{fmt.Sprintf("The primary superblock is damaged (%v); "+
		"its backup in block %d is used, some of whose figures may be old.", bad.error, backup.location)}, nil
}

// stateWarnings tells what the guest's kernel noted about the file system.
func stateWarnings(s *superblock) (list []string) {
	if s.state()&stateErrors != 0 {
		list = append(list, "The guest's kernel had found errors in this file system; it should be checked there.")
	}
	if s.state()&stateClean == 0 && s.compat&compatHasJournal == 0 {
		list = append(list, "The file system has no journal and was not unmounted; it may contradict itself.")
	}
	if unknown := s.ro &^ roKnown; unknown != 0 {
		list = append(list, "Features that only matter for writing are not known: "+
			featureNames(unknown, roNames, "R")+".")
	}
	return list
}

// Root is the inode number of the root directory.
func (f *FS) Root() uint64 { return rootIno }

// Attr is what stat tells about an inode.
func (f *FS) Attr(ino uint64) (filesys.Attr, error) {
	in, err := f.inode(ino)
	if err != nil {
		return filesys.Attr{}, err
	}
	return f.attr(in), nil
}

// Info describes the volume. The first call reads every group descriptor.
func (f *FS) Info() filesys.Info {
	s, u, info := f.sb, f.usage(), f.Brief()
	info.Size, info.Free = int64(u.size<<s.blockBits), int64(u.free<<s.blockBits)
	info.Available = int64(u.available << s.blockBits)
	info.Files, info.FilesFree = uint64(s.inodes), u.inodes
	return info
}

// Brief describes the volume without reading the group descriptors.
func (f *FS) Brief() filesys.Info {
	s := f.sb
	return filesys.Info{
		Type: s.kind(), Label: s.label(), UUID: s.uuid(), BlockSize: int(s.blockSize), NameMax: nameMax,
		Written: s.written(), Warnings: f.warnings,
	}
}
