package luks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/aead/serpent"
	//lint:ignore SA1019 volumes that use it are to be read
	"golang.org/x/crypto/twofish"
)

var le = binary.LittleEndian

// blockSize is that of the ciphers that are known.
const blockSize = 16

// cipherSpec is a cipher with its mode and its initial vectors.
type cipherSpec struct {
	name  string // of the whole
	block func(key []byte) (cipher.Block, error)
	sizes []int // of keys for the block cipher
	xts   bool
	iv    string // plain, plain64, essiv
	hash  string // of essiv
}

// parseCipher reads a specification like "aes-xts-plain64".
func parseCipher(spec string) (cipherSpec, error) {
	name, rest, _ := strings.Cut(spec, "-")
	mode, iv, _ := strings.Cut(rest, "-")
	s := cipherSpec{name: spec}
	switch name {
	case "aes":
		s.block, s.sizes = aes.NewCipher, []int{16, 24, 32}
	case "twofish":
		s.block = func(key []byte) (cipher.Block, error) { return twofish.NewCipher(key) }
		s.sizes = []int{16, 24, 32}
	case "serpent":
		s.block, s.sizes = serpent.NewCipher, []int{16, 24, 32}
	default:
		return s, unsupported("cipher %q", spec)
	}
	iv, hash, hashed := strings.Cut(iv, ":")
	s.iv, s.hash = iv, hash
	s.xts = mode == "xts"
	switch {
	case mode != "xts" && mode != "cbc":
	case (iv == "plain" || iv == "plain64") && !hashed:
		return s, nil
	case iv == "essiv" && mode == "cbc":
		h, err := hashes(hash)
		if err == nil && !slices.Contains(s.sizes, h().Size()) {
			err = unsupported("cipher %q, whose hash makes no key", spec)
		}
		return s, err
	}
	return s, unsupported("cipher %q", spec)
}

// keySize says whether keys may have n bytes.
func (s cipherSpec) keySize(n int) error {
	want := n
	if s.xts {
		want = n / 2
	}
	if !slices.Contains(s.sizes, want) || s.xts && n%2 != 0 {
		return corrupt("a key of %d bits for %s", 8*n, s.name)
	}
	return nil
}

// sectors decrypts sectors with a key.
type sectors struct {
	xts   bool
	block cipher.Block
	tweak cipher.Block // xts: encrypts sector numbers; essiv: likewise
	short bool         // sector numbers of 32 bits
}

// with makes a sectors of a key.
func (s cipherSpec) with(key []byte) (*sectors, error) {
	if err := s.keySize(len(key)); err != nil {
		return nil, err
	}
	out := &sectors{xts: s.xts, short: s.iv == "plain"}
	var err error
	tweakKey := []byte(nil)
	switch {
	case s.xts:
		key, tweakKey = key[:len(key)/2], key[len(key)/2:]
	case s.iv == "essiv":
		newHash, err := hashes(s.hash)
		if err != nil {
			return nil, err
		}
		h := newHash()
		h.Write(key)
		tweakKey = h.Sum(nil)
	}
	if out.block, err = s.block(key); err != nil {
		return nil, corrupt("key for %s: %v", s.name, err)
	}
	if tweakKey != nil {
		if out.tweak, err = s.block(tweakKey); err != nil {
			return nil, corrupt("key for %s: %v", s.name, err)
		}
	}
	return out, nil
}

// decrypt decrypts whole sectors of size bytes in place. number is that of the
// first, in units of 512 bytes, whatever the size.
func (s *sectors) decrypt(p []byte, number uint64, size int) {
	var tweaks []byte
	if s.xts {
		tweaks = make([]byte, size)
	}
	for ; len(p) > 0; p = p[size:] {
		var iv [blockSize]byte
		if s.short {
			le.PutUint32(iv[:], uint32(number))
		} else {
			le.PutUint64(iv[:], number)
		}
		if s.tweak != nil {
			s.tweak.Encrypt(iv[:], iv[:])
		}
		if s.xts {
			s.decryptXTS(p[:size], tweaks, iv)
		} else {
			cipher.NewCBCDecrypter(s.block, iv[:]).CryptBlocks(p[:size], p[:size])
		}
		number += uint64(size / 512)
	}
}

// decryptXTS decrypts one sector. Each block is xored with the tweak before and
// behind the cipher, which is multiplied by x in GF(2¹²⁸) from block to block:
// all tweaks of the sector are made first, so that the rest is done by loops
// that the processor is good at.
func (s *sectors) decryptXTS(p, tweaks []byte, tweak [blockSize]byte) {
	lo, hi := le.Uint64(tweak[:]), le.Uint64(tweak[8:])
	for i := 0; i+blockSize <= len(tweaks); i += blockSize {
		le.PutUint64(tweaks[i:], lo)
		le.PutUint64(tweaks[i+8:], hi)
		carry := uint64(int64(hi)>>63) & 0x87
		hi = hi<<1 | lo>>63
		lo = lo<<1 ^ carry
	}
	subtle.XORBytes(p, p, tweaks)
	for i := 0; i+blockSize <= len(p); i += blockSize {
		b := p[i : i+blockSize : i+blockSize]
		s.block.Decrypt(b, b)
	}
	subtle.XORBytes(p, p, tweaks)
}
