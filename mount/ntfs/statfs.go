package ntfs

import (
	"encoding/binary"
	"math/bits"
)

// countFree counts the clusters that $Bitmap has as free, in bytes. What cannot
// be read counts as full.
func (f *FS) countFree() (int64, error) {
	in, err := f.inode(inoBitmap)
	if err != nil {
		return 0, unread(err)
	}
	s, err := in.stream(attrData, "")
	if err != nil || s == nil {
		return 0, unread(err)
	}
	free, left := int64(0), f.b.clusters
	buf := make([]byte, 1<<16)
	for off := int64(0); left > 0; off += int64(len(buf)) {
		n, err := s.ReadAt(buf, off)
		if unread(err) != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		clear(buf[n:])
		taken := min(uint64(n)*8, left)
		used := 0
		for i := uint64(0); i < (taken+63)/64; i++ {
			w := binary.LittleEndian.Uint64(buf[i*8:])
			if rest := taken - i*64; rest < 64 {
				w &= 1<<rest - 1
			}
			used += bits.OnesCount64(w)
		}
		free += int64(taken) - int64(used)
		left -= taken
		if err != nil {
			break
		}
	}
	return free << f.b.clusterBits, nil
}
