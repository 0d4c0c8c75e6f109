package storetest

import (
	"encoding/binary"
	"math/rand/v2"

	"cairn/blockstore"
	"cairn/blockstore/block"
)

// Blocks makes n blocks of size bytes for a disk: about a sixth are zeros, a
// sixth repeat an earlier one, the rest are random bytes or compressible.
func Blocks(rng *rand.Rand, n, size int) [][]byte {
	bs := make([][]byte, n)
	for i := range bs {
		switch k := rng.IntN(6); {
		case k == 0:
			bs[i] = make([]byte, size)
		case k == 1 && i > 0:
			bs[i] = bs[rng.IntN(i)]
		default:
			bs[i] = Block(rng, size)
		}
	}
	return bs
}

// Block makes a block that is not zero; every third compresses well.
func Block(rng *rand.Rand, size int) []byte {
	p := make([]byte, size)
	random := p
	if rng.IntN(3) == 0 {
		random = p[:64]
	}
	for i := 0; i < len(random); i += 8 {
		binary.LittleEndian.PutUint64(random[i:], rng.Uint64())
	}
	random[rng.IntN(len(random))] |= 1
	return p
}

// Digest is the block's name in a map: block.Zero for zeros.
func Digest(plain []byte) block.Digest {
	if block.IsZero(plain) {
		return block.Zero
	}
	return block.Sum(plain)
}

// Digests are those of several blocks.
func Digests(plain [][]byte) []block.Digest {
	ds := make([]block.Digest, len(plain))
	for i, p := range plain {
		ds[i] = Digest(p)
	}
	return ds
}

// Encode makes blocks ready to put, in any of the compressions.
func Encode(rng *rand.Rand, plain ...[]byte) []blockstore.Block {
	bs := make([]blockstore.Block, len(plain))
	for i, p := range plain {
		bs[i] = blockstore.Block{Digest: block.Sum(p), Stored: block.Encode(nil, p, block.Compression(rng.IntN(3)))}
	}
	return bs
}
