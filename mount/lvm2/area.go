package lvm2

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

const (
	areaHeader = 512
	areaMagic  = " LVM2 x[5A%r0N*>"
	// maxText bounds the text of one group. lvm's default areas hold 1 MiB.
	maxText = 8 << 20
)

// text is where the text of a group is, and what tells it from others.
type text struct {
	name, id string
	seqno    int64
	pv       blockdev.Device
	parts    []area // one, or two where it goes over the end of the ring
	sum      uint32
}

// readArea finds the current text of a metadata area, nil when it has none. Its
// header:
//
//	 0 crc of what follows, up to 512
//	 4 magic
//	20 version, 1
//	24 offset of the area on the PV
//	32 size of the area
//	40 four times: offset in the area, size, crc, flags
//
// The first of the four is the current text; the second is one that was being
// written, which only lvm itself may take. Texts are written into the ring behind
// the header, and may begin again behind the header when they reach its end.
func readArea(d blockdev.Device, a area) (*text, error) {
	if a.off < 0 || a.size < areaHeader || a.off > d.Size()-areaHeader || a.size > d.Size()-a.off {
		return nil, fmt.Errorf("%d bytes at %d lie outside of the device: %w", a.size, a.off, filesys.ErrCorrupt)
	}
	h := make([]byte, areaHeader)
	if _, err := io.ReadFull(io.NewSectionReader(d, a.off, areaHeader), h); err != nil {
		return nil, fmt.Errorf("read header at %d: %w", a.off, err)
	}
	le := binary.LittleEndian
	if string(h[4:20]) != areaMagic || crc(h[4:]) != le.Uint32(h) {
		return nil, fmt.Errorf("header at %d: magic or checksum does not match: %w", a.off, filesys.ErrCorrupt)
	}
	if v := le.Uint32(h[20:]); v != 1 {
		return nil, fmt.Errorf("header at %d has version %d: %w", a.off, v, filesys.ErrUnsupported)
	}
	if int64(le.Uint64(h[24:])) != a.off || int64(le.Uint64(h[32:])) != a.size {
		return nil, fmt.Errorf("header at %d is that of another area: %w", a.off, filesys.ErrCorrupt)
	}
	off, size := int64(le.Uint64(h[40:])), int64(le.Uint64(h[48:]))
	if off == 0 || le.Uint32(h[60:])&1 != 0 {
		return nil, nil // no text yet, or the area is switched off
	}
	if off < areaHeader || off >= a.size || size <= 0 || size > a.size-areaHeader {
		return nil, fmt.Errorf("text of %d bytes at %d of the area: %w", size, off, filesys.ErrCorrupt)
	}
	if size > maxText {
		return nil, fmt.Errorf("text of %d bytes: %w", size, filesys.ErrUnsupported)
	}
	t := &text{pv: d, sum: le.Uint32(h[56:])}
	t.parts = []area{{a.off + off, min(size, a.size-off)}}
	if rest := size - t.parts[0].size; rest > 0 {
		t.parts = append(t.parts, area{a.off + areaHeader, rest})
	}
	g, err := t.load()
	if err != nil {
		return nil, err
	}
	t.name, t.id, t.seqno = strings.Clone(g.name), strings.Clone(g.id), g.seqno
	return t, nil
}

// load reads and parses a text. It is read piece by piece, so that there is one
// copy of it in memory.
func (t *text) load() (*group, error) {
	var b strings.Builder
	var size int64
	for _, p := range t.parts {
		size += p.size
	}
	b.Grow(int(size))
	sum := newCRC()
	buf := make([]byte, 64<<10)
	for _, p := range t.parts {
		for off, end := p.off, p.off+p.size; off < end; {
			n := min(int64(len(buf)), end-off)
			if _, err := raid.Full(t.pv, buf[:n], off); err != nil {
				return nil, fmt.Errorf("metadata text: %w", err)
			}
			sum = addCRC(sum, buf[:n])
			b.Write(buf[:n])
			off += n
		}
	}
	if ^sum != t.sum {
		return nil, fmt.Errorf("metadata text at %d: checksum does not match: %w", t.parts[0].off, filesys.ErrCorrupt)
	}
	s, err := parseConfig(b.String())
	if err != nil {
		return nil, fmt.Errorf("metadata text at %d: %w", t.parts[0].off, err)
	}
	g, err := parseGroup(s)
	if err != nil {
		return nil, fmt.Errorf("metadata text at %d: %w", t.parts[0].off, err)
	}
	return g, nil
}
