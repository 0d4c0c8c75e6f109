package jbd2

import (
	"errors"
	"fmt"
	"io"

	"cairn/mount/filesys"
)

// overlay is a volume with a log's blocks in place of its own.
type overlay struct {
	*Log
	base io.ReaderAt
}

// Overlay returns base with the log's blocks laid over it. Offsets are bytes of
// the file system's volume. It is safe for concurrent use if base and the
// journal are. A read that touches no logged block is one read of base; one that
// does reads base only between them. A logged block that fails its checksum is
// an error that wraps filesys.ErrCorrupt.
func (l *Log) Overlay(base io.ReaderAt) io.ReaderAt {
	if len(l.tags) == 0 {
		return base
	}
	return &overlay{l, base}
}

// ReadAt implements io.ReaderAt.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	bs := int64(o.sb.blockSize)
	i, _ := find(o.tags, uint64(off/bs))
	var whole []byte // for blocks of which p wants a part
	done := 0
	for done < len(p) {
		at := off + int64(done)
		rest := p[done:]
		if i == len(o.tags) || int64(o.tags[i].block)*bs-at >= int64(len(rest)) {
			n, err := o.base.ReadAt(rest, at)
			return done + n, err
		}
		t := &o.tags[i]
		start := int64(t.block) * bs
		if gap := start - at; gap > 0 {
			n, err := o.base.ReadAt(rest[:gap], at)
			done += n
			if n < int(gap) {
				return done, err
			}
			continue
		}
		if at == start && int64(len(rest)) >= bs {
			if err := o.readTag(t, rest[:bs]); err != nil {
				return done, err
			}
			done += int(bs)
		} else {
			if whole == nil {
				whole = make([]byte, bs)
			}
			if err := o.readTag(t, whole); err != nil {
				return done, err
			}
			done += copy(rest, whole[at-start:])
		}
		i++
	}
	return done, nil
}

// readTag fills block with the logged content of t.
func (l *Log) readTag(t *tag, block []byte) error {
	n := l.sb.logBlock(t.at)
	if err := readFull(l.journal, block, int64(n)*int64(len(block))); err != nil {
		return fmt.Errorf("read log block %d for block %d: %w", n, t.block, err)
	}
	if !l.sb.dataOK(t, block) {
		return fmt.Errorf("log block %d for block %d fails its checksum: %w", n, t.block, filesys.ErrCorrupt)
	}
	if t.escaped {
		be.PutUint32(block, magic)
	}
	return nil
}
