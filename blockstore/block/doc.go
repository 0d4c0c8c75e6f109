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
// The files in testdata/ hold test vectors, made so that another implementation
// can run them.
//
// Decode and Open take hostile bytes: memory stays within a small multiple of
// MaxSize, and what they refuse matches ErrCorrupt. They are Go code in every
// build.
//
// # Compression
//
// Backups use Fastest, which is zstd level 1: on two cores compression is what
// bounds a full backup, and the repository should not be larger than the peers'.
// Measured on the distinct blocks of 64 KiB of an ext4 image that holds a Debian
// /usr (one in 64 of 5354 MiB), one core of a shared Xeon, best of nine runs:
//
//	encoder                           ratio   encode MB/s   decode MB/s
//	zstd 1, reference (C)   Fastest    2.62           364           876
//	zstd 3, reference (C)   Default    2.70           262           836
//	zstd fastest, Go        Fastest    2.55           198           889
//	zstd default, Go        Default    2.67           134           865
//	zstd -1, reference (C)             2.39           402          1111
//	S2, Go                             2.08           691          2080
//	MinLZ 1, Go                        2.07           715          2422
//
// (On one block in 8 Fastest gives 2.65 in C and 2.59 in Go: 2023 and 2070 MiB
// for the whole of it.)
//
// So the C encoder is used where cgo is, the Go one elsewhere. Both skip what
// cannot shrink by themselves: 64 KiB of random bytes cost them 15–20 µs, so a
// probe in front of them would only add to that. S2 or MinLZ for every block
// would cost a quarter more space, 2540 MiB; choosing per block between them and zstd with
// perfect foresight saves 17% of the time of encoding and decoding within 2120
// MiB, too little for a second codec and a guess. Smaller windows, other hash
// sizes or match lengths, and storing raw what shrinks by a few percent only, made
// no difference that could be told from noise.
//
// The package keeps no state but pooled coders, is safe for concurrent use, and
// imports nothing of Cairn. Agents, server, block store and disk maps use it.
package block
