package mdraid

import (
	"encoding/binary"
	"fmt"
	"slices"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
)

// badLog is where a member's bad block log is: entries of 64 bits, the sector
// (from the start of the device) in the upper 54, how many in the lower ten. All
// ones end it.
type badLog struct {
	at, size int64
	shift    int
}

// maxBadLog is the kernel's own limit.
const maxBadLog = 4096

// read gives the bad ranges of a member's data, which begins at dataOff.
func (l badLog) read(d blockdev.Device, dataOff int64) ([]raid.Range, error) {
	if l.size == 0 {
		return nil, nil
	}
	if l.size > maxBadLog || l.shift > 32 {
		return nil, fmt.Errorf("bad block log of %d bytes, shift %d: %w", l.size, l.shift, filesys.ErrCorrupt)
	}
	b, err := readAll(d, l.at, l.size)
	if err != nil {
		return nil, fmt.Errorf("bad block log: %w", err)
	}
	var list []raid.Range
	for ; len(b) >= 8; b = b[8:] {
		e := binary.LittleEndian.Uint64(b)
		if e == 1<<64-1 {
			break
		}
		sector, n := e>>10<<l.shift, int64(e&0x3FF)<<l.shift
		if n == 0 {
			continue
		}
		if sector > 1<<53 || n > 1<<53 {
			return nil, fmt.Errorf("bad block log: %d sectors at %d: %w", n, sector, filesys.ErrCorrupt)
		}
		from := int64(sector)*sectorSize - dataOff
		end := from + n*sectorSize
		if from = max(from, 0); end > from {
			list = append(list, raid.Range{Off: from, Len: end - from})
		}
	}
	slices.SortFunc(list, func(a, b raid.Range) int {
		if a.Off < b.Off {
			return -1
		}
		return 1
	})
	// Ranges must be disjoint.
	out := list[:0]
	for _, r := range list {
		if n := len(out); n > 0 && r.Off <= out[n-1].Off+out[n-1].Len {
			out[n-1].Len = max(out[n-1].Len, r.Off+r.Len-out[n-1].Off)
			continue
		}
		out = append(out, r)
	}
	return out, nil
}
