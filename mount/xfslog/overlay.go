package xfslog

import (
	"errors"
	"io"
)

// overlay is a volume on which the log has been replayed.
type overlay struct {
	*Log
	base io.ReaderAt
}

// Overlay returns base, the volume that Load was given (or a cache of it), with
// everything in it as it would be after the kernel's replay: buffers and inodes
// with their newest content, log sequence number and checksum.
//
// It is safe for concurrent use if base and the volume are. A read that touches
// nothing the log changes is one read of base. One that touches a buffer or
// inode which cannot be replayed is an error that wraps filesys.ErrCorrupt; its
// older content is never shown instead.
func (l *Log) Overlay(base io.ReaderAt) io.ReaderAt {
	if len(l.ops) == 0 && len(l.edits) == 0 {
		return base
	}
	return &overlay{l, base}
}

// ReadAt implements io.ReaderAt.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	// All of it as it is on disk, and then what the log changes in place.
	n, err := o.base.ReadAt(p, off)
	if replayed, err := o.replay(p[:n], off); err != nil {
		return replayed, err
	}
	o.edits.apply(p[:n], off)
	return n, err
}

// replay brings p, the bytes at off of the volume, up to date, and gives how many
// are.
func (o *overlay) replay(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	i := o.find(off)
	// What begins before may reach into it.
	if i > 0 {
		first := o.find(o.ops[i-1].address())
		if q := &o.ops[first]; q.address()+o.size(q) > off {
			i = first
		}
	}
	var whole []byte
	for i < len(o.ops) {
		run := o.run(i)
		i += len(run)
		start, size := run[0].address(), o.size(&run[0])
		if start >= end {
			break
		}
		var block []byte
		inside := start >= off && start+size <= end
		if inside {
			block = p[start-off : start-off+size]
		} else {
			if int64(cap(whole)) < size {
				whole = make([]byte, size)
			}
			block = whole[:size]
			if n, err := o.base.ReadAt(block, start); n < len(block) {
				if err == io.EOF {
					err = corrupt("the log changes sector %d behind the end of the volume", start/sector)
				}
				return int(max(0, start-off)), err
			}
		}
		replay := o.replayBuffer
		if run[0].isInode() {
			replay = o.replayInode
		}
		if err := replay(run, block); err != nil {
			return int(max(0, start-off)), err
		}
		if !inside {
			from := max(start, off)
			copy(p[from-off:], block[from-start:])
		}
	}
	return len(p), nil
}
