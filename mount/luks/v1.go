package luks

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"cairn/mount/blockdev"
)

var be = binary.BigEndian

const magic = "LUKS\xba\xbe"

// Layout of the header of LUKS1, in bytes:
//
//	0 magic   6 version   8 cipher   40 mode   72 hash   104 offset of the cipher
//	text in sectors   108 key size   112 digest   132 its salt   164 its iterations
//	168 UUID   208 eight slots of 48 bytes:
//	  0 state   4 iterations   8 salt   40 offset in sectors   44 stripes
const (
	v1Size    = 592
	v1Slots   = 8
	v1Active  = 0x00AC71F3
	v1Dead    = 0x0000DEAD
	v1Digest  = 20
	maxKey    = 512 // bytes of a volume key that make sense
	maxSplit  = 4 << 20
	v1SlotOff = 208
)

// text is a field that ends at a NUL.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.ToValidUTF8(string(b), "\uFFFD")
}

func readV1(d blockdev.Device) (*volume, error) {
	p := make([]byte, v1Size)
	if err := readFull(d, p, 0); err != nil {
		return nil, err
	}
	keySize := int(be.Uint32(p[108:]))
	if keySize == 0 || keySize > maxKey {
		return nil, corrupt("a key of %d bytes", uint32(keySize))
	}
	hash := text(p[72:104])
	v := &volume{Header: Header{
		Version: 1, UUID: text(p[168:208]), Cipher: text(p[8:40]) + "-" + text(p[40:72]),
		KeyBits: 8 * keySize, SectorSize: 512, Offset: int64(be.Uint32(p[104:])) * 512,
	}}
	v.Size = d.Size() - v.Offset
	dig := &digest{hash: hash, iterations: int64(be.Uint32(p[164:])), salt: p[132:164], sum: p[112:132]}
	for i := range v1Slots {
		s := p[v1SlotOff+48*i:][:48]
		switch state := be.Uint32(s); state {
		case v1Active:
		case v1Dead:
			continue
		default:
			return nil, corrupt("key slot %d is in state %#x", i, state)
		}
		k := keySlot{
			id: i, priority: 1, keySize: keySize, stripes: int64(be.Uint32(s[44:])), afHash: hash,
			area: int64(be.Uint32(s[40:])) * 512, areaCipher: v.Cipher, areaKey: keySize, digest: dig,
			kdf: kdf{kind: "pbkdf2", hash: hash, iterations: int64(be.Uint32(s[4:])), salt: s[8:40]},
		}
		k.areaSize = int64(k.keySize) * k.stripes
		v.addSlot(k)
	}
	if v.Offset == 0 {
		return v, unsupported("a header apart from its cipher text")
	}
	if v.Offset < v1Size {
		return nil, corrupt("cipher text at %d", v.Offset)
	}
	return v, nil
}

// addSlot adds a slot in use, and says of it what a person may know.
func (v *volume) addSlot(k keySlot) {
	s := Slot{ID: k.id, KDF: k.kdf.String(), Problem: k.check()}
	if s.Problem != nil {
		s.Problem = fmt.Errorf("key slot %d: %w", k.id, s.Problem)
	}
	v.Slots = append(v.Slots, s)
	v.slots = append(v.slots, k)
}
