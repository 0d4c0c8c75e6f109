package ntfs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"cairn/mount/filesys"
)

// $LogFile begins with two restart pages, of which the newer counts. A restart
// page is a record with an update sequence ("RSTR", or "CHKD" where chkdsk was
// the last to write) and, at the offset that it tells, the restart area: flags
// say that the volume was unmounted, and the list of clients is empty then.
const (
	restartClean   = 2
	noClient       = 0xFFFF
	maxRestartPage = 64 << 10
)

// logWarnings tells whether the volume was unmounted. A log is not replayed.
func (f *FS) logWarnings() []string {
	in, err := f.inode(inoLogFile)
	var s *stream
	if err == nil {
		s, err = in.stream(attrData, "")
	}
	if err != nil || s == nil {
		return []string{"The log ($LogFile) cannot be read; whether the volume was unmounted cannot be told."}
	}
	switch f.logState(s) {
	case logDirty:
		return []string{"The volume was not unmounted: its log ($LogFile) holds changes that are not replayed. " +
			"Files and directories that were being changed may be old, contradict each other, or be unreadable."}
	case logDamaged:
		return []string{"The log ($LogFile) is damaged; whether the volume was unmounted cannot be told."}
	}
	return nil
}

type logState int

const (
	logClean logState = iota
	logDirty
	logDamaged
)

// logState reads the restart pages. A log of only 0xFF is new.
func (f *FS) logState(s *stream) logState {
	head := make([]byte, 4096)
	if n, _ := s.ReadAt(head, 0); n < len(head) {
		return logDamaged
	}
	if len(bytes.Trim(head, "\xFF")) == 0 {
		return logClean
	}
	page := int64(le.Uint32(head[16:]))
	if page < 512 || page > maxRestartPage || page&(page-1) != 0 {
		page = 4096
	}
	state, newest, found := logDamaged, uint64(0), false
	for _, off := range [...]int64{0, page} {
		p := make([]byte, page)
		if n, _ := s.ReadAt(p, off); n < len(p) {
			return logDamaged // it may be the newer one
		}
		magic := string(p[:4])
		if magic != "RSTR" && magic != "CHKD" || fixup(p) != nil {
			continue
		}
		area := int(le.Uint16(p[24:]))
		if area < 30 || area+48 > len(p) {
			continue
		}
		lsn := le.Uint64(p[area:])
		if found && lsn <= newest {
			continue
		}
		found, newest, state = true, lsn, logDirty
		if le.Uint16(p[area+14:])&restartClean != 0 || le.Uint16(p[area+12:]) == noClient || magic == "CHKD" {
			state = logClean
		}
	}
	return state
}

// hibernationWarnings says so if Windows sleeps on this volume: fast startup
// does that at every shutdown. What it has in memory is not on the disk.
func (f *FS) hibernationWarnings() []string {
	asleep, err := f.hibernated()
	switch {
	case err != nil:
		return []string{fmt.Sprintf("Whether Windows is hibernated cannot be told (hiberfil.sys: %v).", err)}
	case asleep:
		return []string{"Windows is hibernated (or was shut down with fast startup): what it keeps in memory is missing here."}
	}
	return nil
}

func (f *FS) hibernated() (bool, error) {
	ino, err := f.lookupFold(inoRoot, "hiberfil.sys")
	if errors.Is(err, filesys.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	in, err := f.inode(ino)
	if err != nil {
		return false, err
	}
	s, err := in.stream(attrData, "")
	if err != nil || s == nil {
		return false, err
	}
	head := make([]byte, 4)
	if n, err := s.ReadAt(head, 0); n < len(head) {
		return false, notEOF(err)
	}
	return strings.EqualFold(string(head), "hibr"), nil
}
