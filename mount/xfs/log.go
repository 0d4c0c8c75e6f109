package xfs

import (
	"errors"
	"fmt"
	"io"

	"cairn/mount/filesys"
	"cairn/mount/xfslog"
)

// loadLog reads the log of the volume r, whose superblock is s. It gives nil
// when nothing is to be laid over the volume, and warnings: what the log held,
// or that it is ignored. stale says that it should have been replayed and was
// not, or may have been.
func loadLog(r io.ReaderAt, s *superblock, o filesys.Options) (log *xfslog.Log, stale bool, warnings []string, err error) {
	external := be.Uint64(s.raw[48:]) == 0
	if external {
		err = fmt.Errorf("the log is on another device, and may hold changes: %w", filesys.ErrUnsupported)
	} else {
		var g xfslog.Geometry
		if g, err = xfslog.ParseGeometry(s.raw); err == nil {
			log, err = xfslog.Load(r, g)
		}
	}
	switch {
	case err == nil && log.Clean():
		return nil, false, nil, nil
	case err == nil:
		return log, false, log.Report().Warnings(), nil
	case !errors.Is(err, filesys.ErrUnsupported) && !errors.Is(err, filesys.ErrCorrupt):
		return nil, false, nil, err // a read failed
	case o.IgnoreLog:
		return nil, true, []string{fmt.Sprintf("The log is ignored (%v): what is shown may be old, and may contradict itself.", err)}, nil
	}
	return nil, false, nil, fmt.Errorf("the log must be replayed and cannot be; --ignore-log opens the volume "+
		"without it, as an older and perhaps inconsistent state: %w", err)
}

// replayedRanges are the bytes of a volume of size bytes that the log decides.
func replayedRanges(log *xfslog.Log, size int64) []filesys.Range {
	if r, ok := any(log).(interface{ Ranges() []filesys.Range }); ok {
		return r.Ranges()
	}
	return []filesys.Range{{Len: size}}
}
