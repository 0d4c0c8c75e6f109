package luks

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"hash"

	"github.com/jzelinskie/whirlpool"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/blake2s"
	//lint:ignore SA1019 volumes that use it are to be read
	"golang.org/x/crypto/ripemd160"
)

// hashes gives the function of a hash's name.
func hashes(name string) (func() hash.Hash, error) {
	switch name {
	case "sha1":
		return sha1.New, nil
	case "sha224":
		return sha256.New224, nil
	case "sha256":
		return sha256.New, nil
	case "sha384":
		return sha512.New384, nil
	case "sha512":
		return sha512.New, nil
	case "sha3-224":
		return func() hash.Hash { return sha3.New224() }, nil
	case "sha3-256":
		return func() hash.Hash { return sha3.New256() }, nil
	case "sha3-384":
		return func() hash.Hash { return sha3.New384() }, nil
	case "sha3-512":
		return func() hash.Hash { return sha3.New512() }, nil
	case "ripemd160":
		return ripemd160.New, nil
	case "whirlpool":
		return whirlpool.New, nil
	case "blake2b-512":
		return func() hash.Hash {
			h, err := blake2b.New512(nil)
			if err != nil {
				panic(err) // without a key there is nothing to be wrong
			}
			return h
		}, nil
	case "blake2s-256":
		return func() hash.Hash {
			h, err := blake2s.New256(nil)
			if err != nil {
				panic(err)
			}
			return h
		}, nil
	}
	return nil, unsupported("hash %q", name)
}

// merge is the reverse of the anti-forensic split: of stripes, all but the last
// are added (xor) and stirred one after the other, and the last added.
func merge(stripes []byte, size int, hashName string) ([]byte, error) {
	newHash, err := hashes(hashName)
	if err != nil {
		return nil, err
	}
	key := make([]byte, size)
	for len(stripes) > size {
		subtle.XORBytes(key, key, stripes[:size])
		diffuse(key, newHash())
		stripes = stripes[size:]
	}
	subtle.XORBytes(key, key, stripes)
	return key, nil
}

// diffuse replaces each piece of the size of a digest by the digest of its
// number and itself. The last may be shorter.
func diffuse(key []byte, h hash.Hash) {
	n := h.Size()
	var sum []byte
	for i := 0; i*n < len(key); i++ {
		piece := key[i*n : min(len(key), i*n+n)]
		h.Reset()
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		h.Write(piece)
		sum = h.Sum(sum[:0])
		copy(piece, sum)
	}
}
