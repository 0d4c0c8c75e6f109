package luks

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// maxSlots is how many key slots the format has.
const maxSlots = 32

// parseV2 understands the text of a header.
func parseV2(c *copyHeader, size int64) (*volume, error) {
	var m metadata
	if err := json.Unmarshal(c.text, &m); err != nil {
		return nil, corrupt("the text of the header: %v", err)
	}
	v := &volume{Header: Header{Version: 2, UUID: c.uuid, Label: c.label, Subsystem: c.subsystem, SectorSize: 512}}
	if r := m.Config.Requirements.Mandatory; len(r) > 0 {
		for i := range r {
			if strings.Contains(r[i], "reencrypt") {
				r[i] = "a re-encryption that has not ended (" + r[i] + ")"
			}
		}
		return v, unsupported("%.200s", strings.Join(r, ", "))
	}
	// Backup segments are only there while a re-encryption is going on.
	if len(m.Segments) != 1 {
		return v, unsupported("a volume of %d segments", len(m.Segments))
	}
	var id string
	var s jsonSegment
	for id, s = range m.Segments {
	}
	if err := v.segment(s, size); err != nil {
		return v, err
	}
	if v.Offset < 2*c.size {
		return v, unsupported("a header apart from its cipher text")
	}
	return v, v.keyslots(&m, id)
}

// segment takes over where and how the cipher text is.
func (v *volume) segment(s jsonSegment, size int64) error {
	v.Cipher, v.Offset, v.ivOffset = s.Encryption, s.Offset, s.IVTweak
	switch {
	case s.Type != "crypt":
		return unsupported("a segment of type %.40q", s.Type)
	case len(s.Flags) > 0:
		return unsupported("a segment with flags %.100q", s.Flags)
	case s.Integrity != nil:
		return unsupported("integrity (dm-integrity, %.40s)", s.Integrity.Type)
	case s.SectorSize < 512 || s.SectorSize > 4096 || s.SectorSize&(s.SectorSize-1) != 0:
		return corrupt("sectors of %d bytes", s.SectorSize)
	case s.Offset < 0 || s.Offset%512 != 0 || s.Offset > size:
		return corrupt("cipher text at %d of a device of %d bytes", s.Offset, size)
	}
	v.SectorSize = int(s.SectorSize)
	v.Size = size - s.Offset
	if s.Size != "dynamic" {
		n, err := strconv.ParseInt(s.Size, 10, 64)
		if err != nil || n <= 0 || n%s.SectorSize != 0 {
			return corrupt("cipher text of %.40q bytes", s.Size)
		}
		v.Size = n
	}
	return nil
}

// keyslots takes over the slots whose key is that of the segment.
func (v *volume) keyslots(m *metadata, segment string) error {
	if len(m.Keyslots) > maxSlots || len(m.Digests) > maxSlots {
		return corrupt("%d key slots and %d digests", len(m.Keyslots), len(m.Digests))
	}
	var owner *jsonDigest
	for _, id := range slices.Sorted(maps.Keys(m.Digests)) {
		if d := m.Digests[id]; slices.Contains(d.Segments, segment) {
			if owner != nil {
				return corrupt("two digests for one segment")
			}
			owner = &d
		}
	}
	if owner == nil {
		return corrupt("no digest for the key")
	}
	if owner.Type != "pbkdf2" {
		return unsupported("a digest of type %.40q", owner.Type)
	}
	dig := &digest{hash: owner.Hash, iterations: owner.Iterations, salt: owner.Salt, sum: owner.Digest}
	number := func(id string) int {
		n, err := strconv.Atoi(id)
		if err != nil {
			return -1
		}
		return n
	}
	ids := slices.SortedFunc(maps.Keys(m.Keyslots), func(a, b string) int { return cmp.Or(number(a)-number(b), strings.Compare(a, b)) })
	for _, id := range ids {
		if !slices.Contains(owner.Keyslots, id) {
			continue // of another key, which opens nothing here
		}
		n := number(id)
		if n < 0 || n >= maxSlots {
			return corrupt("key slot %.20q", id)
		}
		k := m.Keyslots[id].slot(n)
		k.digest = dig
		if v.KeyBits == 0 {
			v.KeyBits = 8 * k.keySize
		}
		v.addSlot(k)
	}
	if v.KeyBits == 0 {
		// Erased, or of slots that are not known: nothing that a cipher could
		// be wrong about.
		spec, err := parseCipher(v.Cipher)
		if err != nil {
			return err
		}
		if v.KeyBits = 8 * slices.Max(spec.sizes); spec.xts {
			v.KeyBits *= 2
		}
	}
	return nil
}

// slot is a key slot as both versions have it.
func (s jsonSlot) slot(id int) keySlot {
	k := keySlot{
		id: id, priority: 1, stripes: s.AF.Stripes, afHash: s.AF.Hash,
		area: s.Area.Offset, areaSize: s.Area.Size, areaCipher: s.Area.Encryption,
		kdf: kdf{kind: s.KDF.Type, hash: s.KDF.Hash, iterations: s.KDF.Iterations, salt: s.KDF.Salt,
			time: s.KDF.Time, memory: s.KDF.Memory, cpus: s.KDF.CPUs},
	}
	if s.Priority != nil {
		k.priority = *s.Priority
	}
	switch {
	case s.Type != "luks2":
		k.problem = unsupported("a key slot of type %.40q", s.Type)
	case s.AF.Type != "luks1":
		k.problem = unsupported("a split of type %.40q", s.AF.Type)
	case s.Area.Type != "raw":
		k.problem = unsupported("key material of type %.40q", s.Area.Type)
	case s.KeySize < 1 || s.KeySize > maxKey || s.Area.KeySize < 1 || s.Area.KeySize > maxKey:
		k.problem = corrupt("keys of %d and %d bytes", s.KeySize, s.Area.KeySize)
	case k.priority < 0 || k.priority > 2:
		k.problem = corrupt("priority %d", k.priority)
	}
	if k.problem == nil {
		k.keySize, k.areaKey = int(s.KeySize), int(s.Area.KeySize)
	}
	return k
}
