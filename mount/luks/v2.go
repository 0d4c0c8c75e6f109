package luks

import (
	"bytes"
	"crypto/subtle"
	"fmt"

	"cairn/mount/blockdev"
)

// Layout of the binary header of LUKS2, in bytes:
//
//	0 magic   6 version   8 size with the text   16 number of the change
//	24 label   72 checksum's hash   104 salt   168 UUID   208 subsystem
//	256 offset of this header   448 checksum
const (
	v2Binary   = 4096
	v2Checksum = 448
	secondary  = "SKUL\xba\xbe"
	// maxHeader is the greatest size that the format has, maxJSON what is read
	// of it: a text of a megabyte takes thirty in memory at most.
	maxHeader = 4 << 20
	maxJSON   = 1 << 20
)

// copyHeader is one copy of the header.
type copyHeader struct {
	seq       uint64
	size      int64
	label     string
	uuid      string
	subsystem string
	text      []byte
}

// readV2 reads the newest good copy of the header.
func readV2(d blockdev.Device) (*volume, error) {
	first, firstErr := readCopy(d, 0, magic)
	if firstErr != nil && !damaged(firstErr) {
		return nil, firstErr
	}
	offsets := []int64{16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}
	if firstErr == nil {
		offsets = []int64{first.size}
	}
	var second *copyHeader
	var secondErr error
	for _, off := range offsets {
		if second, secondErr = readCopy(d, off, secondary); secondErr == nil {
			break
		}
		if !damaged(secondErr) {
			return nil, secondErr
		}
	}
	best, warning := first, ""
	switch {
	case firstErr != nil && secondErr != nil:
		return nil, firstErr
	case firstErr != nil:
		best, warning = second, fmt.Sprintf("The LUKS header is damaged (%v); its copy is used.", firstErr)
	case secondErr != nil:
		warning = fmt.Sprintf("The copy of the LUKS header is damaged (%v).", secondErr)
	case second.seq > first.seq:
		best, warning = second, "The copy of the LUKS header is newer than the header; the copy is used."
	}
	v, err := parseV2(best, d.Size())
	if v != nil && warning != "" {
		v.Warnings = append(v.Warnings, warning)
	}
	return v, err
}

// readCopy reads the copy at off, and verifies its checksum.
func readCopy(d blockdev.Device, off int64, magic string) (*copyHeader, error) {
	p := make([]byte, v2Binary)
	if err := readFull(d, p, off); err != nil {
		return nil, err
	}
	size := be.Uint64(p[8:])
	switch {
	case string(p[:6]) != magic || be.Uint16(p[6:]) != 2:
		return nil, corrupt("there is no header at %d", off)
	case int64(be.Uint64(p[256:])) != off:
		return nil, corrupt("the header at %d is that of another place", off)
	case size <= v2Binary || size > maxHeader || size%v2Binary != 0:
		return nil, corrupt("the header at %d has %d bytes", off, size)
	}
	name := text(p[72:104])
	newHash, err := hashes(name)
	if err != nil {
		return nil, fmt.Errorf("checksum of the header: %w", err)
	}
	p = append(p, make([]byte, size-v2Binary)...)
	if err := readFull(d, p[v2Binary:], off+v2Binary); err != nil {
		return nil, err
	}
	h := newHash()
	sum := bytes.Clone(p[v2Checksum : v2Checksum+64])
	clear(p[v2Checksum : v2Checksum+64])
	h.Write(p)
	if subtle.ConstantTimeCompare(h.Sum(nil), sum[:h.Size()]) != 1 {
		return nil, corrupt("the header at %d has the wrong checksum", off)
	}
	js, _, _ := bytes.Cut(p[v2Binary:], []byte{0})
	if len(js) > maxJSON {
		return nil, unsupported("a header with a text of %d bytes", len(js))
	}
	return &copyHeader{
		seq: be.Uint64(p[16:]), size: int64(size), label: text(p[24:72]), uuid: text(p[168:208]),
		subsystem: text(p[208:256]), text: bytes.Clone(js),
	}, nil
}

// The text of a header, as far as it is used. Numbers of 64 bits are strings.
type metadata struct {
	Keyslots map[string]jsonSlot    `json:"keyslots"`
	Segments map[string]jsonSegment `json:"segments"`
	Digests  map[string]jsonDigest  `json:"digests"`
	Config   struct {
		Requirements struct {
			Mandatory []string `json:"mandatory"`
		} `json:"requirements"`
	} `json:"config"`
}

type jsonSlot struct {
	Type     string `json:"type"`
	KeySize  int64  `json:"key_size"`
	Priority *int   `json:"priority"`
	AF       struct {
		Type    string `json:"type"`
		Stripes int64  `json:"stripes"`
		Hash    string `json:"hash"`
	} `json:"af"`
	Area struct {
		Type       string `json:"type"`
		Offset     int64  `json:"offset,string"`
		Size       int64  `json:"size,string"`
		Encryption string `json:"encryption"`
		KeySize    int64  `json:"key_size"`
	} `json:"area"`
	KDF struct {
		Type       string `json:"type"`
		Salt       []byte `json:"salt"`
		Hash       string `json:"hash"`
		Iterations int64  `json:"iterations"`
		Time       int64  `json:"time"`
		Memory     int64  `json:"memory"`
		CPUs       int64  `json:"cpus"`
	} `json:"kdf"`
}

type jsonSegment struct {
	Type       string   `json:"type"`
	Offset     int64    `json:"offset,string"`
	Size       string   `json:"size"`
	IVTweak    uint64   `json:"iv_tweak,string"`
	Encryption string   `json:"encryption"`
	SectorSize int64    `json:"sector_size"`
	Flags      []string `json:"flags"`
	Integrity  *struct {
		Type string `json:"type"`
	} `json:"integrity"`
}

type jsonDigest struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int64    `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}
