// Package diskmap maps a disk's blocks to their digests, as a Merkle tree of
// pages, so that one digest vouches for every byte of a recovery point's disk.
//
// # Format
//
// A disk of Size bytes is cut into blocks of BlockSize; the last one is padded
// with zeros before it is hashed. Pages map block indexes to digests. This
// layout is part of the format:
//
//	page: exactly 8192 bytes
//	┌─────────────┬─────────────┬─────┬───────────────┐
//	│ 0 … 31      │ 32 … 63     │     │ 8160 … 8191   │
//	│ entry 0     │ entry 1     │  …  │ entry 255     │
//	└─────────────┴─────────────┴─────┴───────────────┘
//
//	level 1  entry i of page p = digest of block 256·p + i
//	level n  entry i of page p = digest of page 256·p + i of level n−1
//	depth    the smallest n ≥ 1 with 256ⁿ ≥ number of blocks; 0 for an empty disk
//	root     the digest of the only page of level depth
//
// 32 zero bytes (block.Zero) stand for a block of zeros, or for a page whose
// entries are all zero, at every level up to the root: such pages are never
// stored. Entries behind the end of the disk are zero. So the same content at
// the same size has one root, whatever way it was built, and readers refuse a
// page that breaks these rules as corrupt.
//
// A page is stored like any other block, named by its digest. Its length is no
// legal block size, so data is never mistaken for a page.
//
// # Use
//
// A Builder makes a map, from nothing or over an older one, of which it reuses
// what did not change. Walk lists blocks, WalkPages visits pages (verify and
// reclaim prune what they know), Diff compares two maps in time proportional to
// the difference, and Image reads the disk as an io.ReaderAt.
//
// Maps and pages may come from anyone. A tree cannot loop or be deeper than its
// size says, since levels are counted down from Depth; a malformed page is an
// error that matches block.ErrCorrupt and names level, index and digest.
//
// The package imports cairn/blockstore/block and nothing else of Cairn: where
// blocks come from is behind BlockReader. Agents, server and mounts use it.
package diskmap
