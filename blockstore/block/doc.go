// Package block says what a stored block is: its digest, when it counts as
// zero, and the bytes that stand for it on the wire and on disk.
//
// A disk is cut into aligned blocks of one size, a power of two from MinSize to
// MaxSize. A block's name is the BLAKE3-256 digest of its plain bytes, whatever
// compression is used, so the same content has one name everywhere. A block of
// zeros is never stored: the reserved digest Zero stands for it.
//
// # Stored form
//
// This layout is part of the format; it never changes for a given codec number.
//
//	┌────────┬──────────────────────────┬─────────────────────────────┐
//	│ byte 0 │ bytes 1–3                │ bytes 4 …                   │
//	│ codec  │ plain length, u24,       │ payload, to the end of the  │
//	│        │ little endian, 1 … 4 MiB │ value: nothing follows it   │
//	└────────┴──────────────────────────┴─────────────────────────────┘
//
//	codec 0, raw   payload = the plain bytes, exactly plain length of them
//	codec 1, zstd  payload = exactly one Zstandard frame (RFC 8878), which
//	               states its content size, equal to plain length; names no
//	               dictionary; has a window of 4 MiB at most (a single-segment
//	               frame's window is its content); a content checksum is
//	               allowed, and checked. No skippable frame, nothing after it.
//	other codecs   reserved: ErrUnknownCodec
//
// The stored form carries no checksum of its own: whoever reads a block knows
// its digest and calls Open, which hashes what it decoded.
//
// Decode and Open take hostile bytes: they never allocate more than MaxSize for
// the plain bytes, and what they refuse matches ErrCorrupt.
//
// The package keeps no state but pooled coders, is safe for concurrent use, and
// imports nothing of Cairn.
package block
