package ext4

import (
	"fmt"

	"cairn/mount/filesys"
	"cairn/mount/jbd2"
)

// loadJournal reads the journal if it has to be replayed, and gives nil if not;
// with it comes the file that it stands in.
//
// As with the kernel, the superblock's recovery flag decides: a journal that
// still holds transactions behind a volume without that flag has been written
// back. Backups of the superblock never have the flag; with one of those the
// journal itself decides.
func (f *FS) loadJournal() (*jbd2.Log, *file, error) {
	s := f.sb
	dirty := s.incompat&incompatRecover != 0
	if s.compat&compatHasJournal == 0 || !dirty && !s.backup {
		return nil, nil, nil
	}
	ino, device := s.u32(0xE0), s.u32(0xE4)
	if ino == 0 {
		if !dirty {
			return nil, nil, nil
		}
		return nil, nil, fmt.Errorf("the file system needs recovery from an external journal (device %#x): %w",
			device, filesys.ErrUnsupported)
	}
	in, err := f.anyInode(uint64(ino))
	if err != nil {
		return nil, nil, required(err, "journal")
	}
	if !in.isRegular() || in.isInline() {
		return nil, nil, corrupt("journal inode %d with mode %o", ino, in.mode)
	}
	c, err := f.content(in)
	if err != nil {
		return nil, nil, wrap(err, "journal")
	}
	log, err := jbd2.Load(c, c.Size())
	if err != nil {
		return nil, nil, wrap(err, "journal")
	}
	if report := log.Report(); report.Clean && s.backup {
		return nil, nil, nil
	} else if report.BlockSize != int(s.blockSize) {
		return nil, nil, corrupt("journal with blocks of %d bytes in a file system with %d", report.BlockSize, s.blockSize)
	}
	return log, c, nil
}

// journalWarnings tells that and how the journal was replayed.
func journalWarnings(log *jbd2.Log) []string {
	report := log.Report()
	list := []string{fmt.Sprintf("The file system was not unmounted: %v.", report)}
	if report.Errno != 0 {
		list = append(list, fmt.Sprintf("The guest's kernel had aborted the journal (error %d).", -report.Errno))
	}
	return list
}
