package btrfs

import (
	"errors"
	"fmt"

	"cairn/mount/filesys"
)

// dataBatch is how much is read and verified at a time.
const dataBatch = 1 << 20

// readData fills p from a logical address, of whichever mirror has it right.
// sums says that every sector has a checksum.
func (v *volume) readData(p []byte, logical uint64, sums bool) error {
	for !sums && len(p) > 0 {
		n, err := v.run(logical, uint64(len(p)))
		if err == nil {
			err = v.readUnverified(p[:n], logical)
		}
		if err != nil {
			return err
		}
		p, logical = p[n:], logical+n
	}
	sector := uint64(v.super.sector)
	var buf []byte
	for len(p) > 0 {
		in := logical % sector
		if in == 0 && uint64(len(p)) >= sector {
			n, err := v.run(logical, min(uint64(len(p))/sector*sector, dataBatch))
			if err != nil {
				return err
			}
			part := p[:n]
			if err := v.readVerified(part, logical); err != nil {
				return err
			}
			p, logical = p[len(part):], logical+uint64(len(part))
			continue
		}
		if buf == nil {
			buf = make([]byte, sector)
		}
		if err := v.readVerified(buf, logical-in); err != nil {
			return err
		}
		n := copy(p, buf[in:])
		p, logical = p[n:], logical+uint64(n)
	}
	return nil
}

// run cuts n to what the same devices have in one piece.
func (v *volume) run(logical, n uint64) (uint64, error) {
	c, err := v.chunks.find(logical)
	if err != nil {
		return 0, err
	}
	_, _, _, run := c.at(logical-c.start, 0)
	return min(n, run), nil
}

// readUnverified reads what has no checksums, which must then not come from a
// device that was away while the others were written.
func (v *volume) readUnverified(p []byte, logical uint64) error {
	mirrors, fresh, err := v.order(logical)
	if err != nil {
		return err
	}
	if fresh == 0 {
		return corrupt("logical address %d: only a stale device has it, and there are no checksums to verify it", logical)
	}
	for i, m := range mirrors[:fresh] {
		mirrorErr := v.readMirror(p, logical, m)
		if mirrorErr == nil {
			return nil
		}
		if i == 0 {
			err = mirrorErr
		}
	}
	return err
}

// readVerified fills p, whole sectors, with what fits the checksums.
func (v *volume) readVerified(p []byte, logical uint64) error {
	sector, size := int(v.super.sector), v.super.sums.size
	want := make([]byte, len(p)/sector*size)
	if err := v.sumsOf(want, logical); err != nil {
		return err
	}
	mirrors, _, err := v.order(logical)
	if err != nil {
		return err
	}
	if len(mirrors) == 0 {
		return corrupt("logical address %d: no device has it", logical)
	}
	firstErr := v.readMirror(p, logical, mirrors[0])
	if firstErr != nil && len(mirrors) == 1 {
		return firstErr
	}
	for i := range len(p) / sector {
		s, sum := p[i*sector:(i+1)*sector], want[i*size:(i+1)*size]
		if firstErr == nil && v.super.sums.ok(s, sum) {
			continue
		}
		at := logical + uint64(i*sector)
		err := fmt.Errorf("logical address %d: wrong %s checksum: %w", at, v.super.sums.name, filesys.ErrCorrupt)
		if firstErr != nil {
			err = firstErr
		}
		found := false
		for _, m := range mirrors[1:] {
			mirrorErr := v.readMirror(s, at, m)
			if mirrorErr == nil && v.super.sums.ok(s, sum) {
				found = true
				break
			}
			if mirrorErr != nil && !errors.Is(mirrorErr, filesys.ErrCorrupt) {
				err = mirrorErr // the device, not the data, is to blame
			}
		}
		if !found {
			return err
		}
	}
	return nil
}

// sumsOf fills want with the checksums of the sectors from logical on. A sector
// of a file that should have one and does not is as good as damaged.
func (v *volume) sumsOf(want []byte, logical uint64) error {
	sector, size := uint64(v.super.sector), uint64(v.super.sums.size)
	end := logical + uint64(len(want))/size*sector
	have := uint64(0) // sectors found
	fill := func(t *tree, count bool) error {
		c, err := t.seekLast(key{csumObjectID, typeExtentCsum, logical})
		for ; err == nil && c.at(csumObjectID, typeExtentCsum) && c.k.off < end; err = c.next() {
			n := uint64(len(c.data)) / size
			if c.k.off%sector != 0 || uint64(len(c.data))%size != 0 || c.k.off > end {
				return corrupt("checksums of %d: %d bytes", c.k.off, len(c.data))
			}
			from, to := max(c.k.off, logical), min(c.k.off+n*sector, end)
			if from >= to {
				continue
			}
			copy(want[(from-logical)/sector*size:], c.data[(from-c.k.off)/sector*size:(to-c.k.off)/sector*size])
			if count {
				have += (to - from) / sector
			}
		}
		return err
	}
	if v.sumTree != nil {
		if err := fill(v.sumTree, true); err != nil {
			return wrap(err, "checksums of logical address %d", logical)
		}
	}
	if v.logSums != nil {
		// The log's are newer, and may be all there are: what neither has
		// stays zero, and fits no data.
		if err := fill(v.logSums, false); err != nil {
			return wrap(err, "checksums of logical address %d", logical)
		}
	} else if have < (end-logical)/sector {
		return corrupt("logical address %d: no checksum", logical)
	}
	return nil
}

// extentKey names a decompressed extent. Who may read without verifying must
// not spare others from it.
type extentKey struct {
	disk, diskLen, ram uint64
	compression        uint8
	verified           bool
}

// decompressed gives a compressed extent whole.
func (v *volume) decompressed(e extent, sums bool) ([]byte, error) {
	k := extentKey{e.disk, e.diskLen, e.ram, e.compression, sums}
	return v.extents.get(k, func() ([]byte, int, error) {
		stored := make([]byte, e.diskLen)
		if err := v.readData(stored, e.disk, sums); err != nil {
			return nil, 0, err
		}
		b := make([]byte, e.ram)
		if err := decompressors[e.compression](b, stored, int(v.super.sector)); err != nil {
			return nil, 0, wrap(err, "extent at logical address %d", e.disk)
		}
		return b, len(b), nil
	})
}
