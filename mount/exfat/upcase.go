package exfat

import (
	"io"
	"math/bits"

	"cairn/mount/fat/cluster"
)

// maxUpcase is the size of an upper-case table that is not compressed.
const maxUpcase = 2 << 16

// upcase maps UTF-16 units to their upper case.
type upcase [1 << 16]uint16

// plainUpcase is what is left without the volume's table: ASCII.
func plainUpcase() *upcase {
	u := new(upcase)
	for i := range u {
		u[i] = uint16(i)
	}
	for c := 'a'; c <= 'z'; c++ {
		u[c] = uint16(c - 'a' + 'A')
	}
	return u
}

// readUpcase reads the table that entry p of the root directory names.
func (f *FS) readUpcase(p []byte) (*upcase, error) {
	size := int64(le.Uint64(p[24:]))
	if size <= 0 || size > maxUpcase {
		return nil, cluster.Corrupt("it has %d bytes", uint64(size))
	}
	c, err := f.table.Chain(le.Uint32(p[20:]), f.table.Count(size))
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	if _, err := cluster.NewContent(c, size, size).ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	sum := uint32(0)
	for _, c := range b {
		sum = bits.RotateLeft32(sum, -1) + uint32(c)
	}
	if sum != le.Uint32(p[4:]) {
		return nil, cluster.Corrupt("its checksum is wrong")
	}
	return expandUpcase(b)
}

// expandUpcase undoes the compression: 0xFFFF and a count stand for as many
// characters that are their own upper case.
func expandUpcase(b []byte) (*upcase, error) {
	u := plainUpcase()
	at := 0
	for i := 0; i+2 <= len(b) && at < len(u); i += 2 {
		v := le.Uint16(b[i:])
		if v == 0xFFFF && i+4 <= len(b) && len(b) < maxUpcase {
			n := int(le.Uint16(b[i+2:]))
			for ; n > 0 && at < len(u); n-- {
				u[at] = uint16(at)
				at++
			}
			i += 2
			continue
		}
		u[at] = v
		at++
	}
	if at < 128 {
		return nil, cluster.Corrupt("it has %d characters", at)
	}
	return u, nil
}

// fold makes equal what differs in case only. What is no name is empty.
func (u *upcase) fold(name string) string {
	units, ok := cluster.EncodeUTF16(name)
	if !ok {
		return ""
	}
	b := make([]byte, 0, 2*len(units))
	for _, c := range units {
		b = le.AppendUint16(b, u[c])
	}
	return string(b)
}
