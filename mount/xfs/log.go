package xfs

import (
	"errors"
	"fmt"
	"io"

	"cairn/mount/filesys"
	"cairn/mount/xfslog"
)

// errLog marks an error of the log, without which the volume can still be
// opened by whoever asks for that.
type errLog struct{ error }

func (e errLog) Unwrap() error { return e.error }

// loadLog reads the log of the volume r, whose superblock is s. It gives nil
// when there is nothing to replay. A log that must be replayed, or may have to,
// and cannot be read or replayed, is an errLog.
func loadLog(r io.ReaderAt, s *superblock) (*xfslog.Log, error) {
	if be.Uint64(s.raw[48:]) == 0 {
		return nil, errLog{fmt.Errorf("the log is on another device, and may hold changes: %w", filesys.ErrUnsupported)}
	}
	g, err := xfslog.ParseGeometry(s.raw)
	if err != nil {
		return nil, err
	}
	log, err := xfslog.Load(r, g)
	switch {
	case errors.Is(err, filesys.ErrUnsupported) || errors.Is(err, filesys.ErrCorrupt):
		return nil, errLog{wrap(err, "the log is dirty and cannot be replayed")}
	case err != nil:
		return nil, errLog{wrap(err, "the log cannot be read")}
	case log.Clean():
		return nil, nil
	}
	return log, nil
}
