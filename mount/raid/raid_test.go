package raid_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/raid"
	"cairn/mount/raid/raidtest"
)

// everywhere: parity can be trusted.
func everywhere(off, n int64) (bool, error) { return true, nil }

// config makes a random array over disks, each of which is one leg.
func config(random *rand.Rand) (raid.Config, []*raidtest.Disk) {
	c := raid.Config{Chunk: 512 << random.IntN(4), InStep: everywhere}
	n := 1 + random.IntN(7)
	switch c.Level = []int{0, 1, 4, 5, 6, 10}[random.IntN(6)]; c.Level {
	case 0:
		c.Layout = 1 + random.IntN(2)
	case 4:
		n = max(n, 2)
	case 5:
		n, c.Layout = max(n, 2), random.IntN(6)
	case 6:
		n = max(n, 3)
		c.Layout = []int{0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20}[random.IntN(14)]
	case 10:
		near, far := 1+random.IntN(3), 1+random.IntN(3)
		n = max(n, near*far)
		c.Layout = raid.Raid10(near, far, random.IntN(2) == 1)
		// The first layout with sets puts copies on one leg if sets are small.
		if sets := random.IntN(3); sets != 1 || n/far >= near*far {
			c.Layout |= sets << 17
		}
	}
	c.LegSize = (20 + random.Int64N(20)) * c.Chunk
	var disks []*raidtest.Disk
	for i := range n {
		size := c.LegSize + random.Int64N(700)
		if c.Level == 0 {
			size = (3 + random.Int64N(4)) * c.Chunk * 2
		}
		d := &raidtest.Disk{Index: i, Data: make([]byte, size)}
		rand.NewChaCha8([32]byte{byte(i), byte(size)}).Read(d.Data)
		disks = append(disks, d)
		c.Legs = append(c.Legs, raid.Leg{Dev: d.Device(), InSync: size})
	}
	return c, disks
}

// TestPlaces: in any geometry each byte of the array has a place of its own.
func TestPlaces(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 120 {
		c, disks := config(random)
		what := fmt.Sprintf("level %d, layout %#x, %d legs of %d, chunk %d", c.Level, c.Layout, len(c.Legs), c.LegSize, c.Chunk)
		size, err := raid.Size(c)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		c.Size = size
		d, err := raid.New(c)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		seen := map[blockdev.Place]bool{}
		for off := int64(0); off < size; off += 512 {
			p, n, err := d.Place(off)
			if err != nil || n < 512 || n > size-off {
				t.Fatalf("%s: place of %d: %v, %d, %v", what, off, p, n, err)
			}
			if seen[p] || p.Off%512 != 0 || p.Off+512 > int64(len(disks[p.Disk].Data)) || c.Level != 0 && p.Off+512 > c.LegSize {
				t.Fatalf("%s: place of %d: %v", what, off, p)
			}
			seen[p] = true
		}
		raidtest.CheckPlaces(t, &raidtest.Fixture{Disks: disks}, what, d)
		raidtest.Exercise(t, &raidtest.Fixture{Disks: disks}, d)
		c.Size = size + 1
		if _, err := raid.New(c); !errors.Is(err, filesys.ErrCorrupt) {
			t.Fatalf("%s: an array larger than its legs: %v", what, err)
		}
	}
}

// TestLost: legs that are missing, valid in part, bad in places or failing give
// the right bytes or an error.
func TestLost(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	read, refused := 0, 0
	for range 250 {
		c, disks := config(random)
		if c.Level == 0 {
			continue
		}
		var err error
		c.Size, err = raid.Size(c)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, c.Size)
		rand.NewChaCha8([32]byte{byte(seed)}).Read(want)
		fill(t, c, disks, want)
		whole, err := raid.New(c)
		if err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("level %d, layout %#x, %d legs of %d, chunk %d", c.Level, c.Layout, len(c.Legs), c.LegSize, c.Chunk)
		got := make([]byte, c.Size)
		if _, err := whole.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: not what was written (%v)", what, err)
		}
		for _, i := range random.Perm(len(c.Legs))[:min(1+random.IntN(2), len(c.Legs))] {
			off := random.Int64N(c.LegSize/512) * 512
			n := 512 * (1 + random.Int64N(4))
			switch random.IntN(5) {
			case 0, 1:
				c.Legs[i].Dev = nil
			case 2:
				c.Legs[i].InSync = off
			case 3:
				c.Legs[i].Bad = []raid.Range{{Off: off, Len: n}}
			case 4:
				disks[i].Fail = func(from, len int64) error {
					if from < off+n && off < from+len {
						return raidtest.ErrMedium
					}
					return nil
				}
			}
			clear(disks[i].Data[off:min(off+n, c.LegSize)]) // nobody may read that
			if c.Legs[i].Dev == nil {
				clear(disks[i].Data)
			} else if c.Legs[i].InSync == off {
				clear(disks[i].Data[off:])
			}
		}
		d, err := raid.New(c)
		var missing *raid.MissingError
		if errors.As(err, &missing) {
			refused++
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for off := int64(0); off < c.Size; off += 700 {
			p := got[:min(700, c.Size-off)]
			if _, err := d.ReadAt(p, off); err != nil {
				refused++
				continue
			}
			if read++; !bytes.Equal(p, want[off:][:len(p)]) {
				t.Fatalf("%s: wrong bytes at %d", what, off)
			}
		}
	}
	if read < 2000 || refused < 10 {
		t.Errorf("%d reads, %d refused", read, refused)
	}
}

// fill writes an array's content to its disks, by a model that is not that of the
// package where it can be: the content's place is asked for leg by leg, parity is
// computed by the book.
func fill(t *testing.T, c raid.Config, disks []*raidtest.Disk, want []byte) {
	t.Helper()
	for _, d := range disks {
		clear(d.Data)
	}
	if c.Level == 1 || c.Level == 10 {
		// With all legs but one missing, or being avoided, each copy shows.
		for i := range c.Legs {
			one := c
			one.Legs = nil
			for k, l := range c.Legs {
				if k != i {
					l.InSync = 0
				}
				one.Legs = append(one.Legs, l)
			}
			d, err := raid.New(one)
			if err != nil {
				t.Fatal(err)
			}
			for off := int64(0); off < c.Size; off += 512 {
				if p, _, err := d.Place(off); err == nil {
					copy(disks[p.Disk].Data[p.Off:][:512], want[off:])
				}
			}
		}
		return
	}
	d, err := raid.New(c)
	if err != nil {
		t.Fatal(err)
	}
	used := map[blockdev.Place]bool{}
	for off := int64(0); off < c.Size; off += c.Chunk {
		p, _, err := d.Place(off)
		if err != nil {
			t.Fatal(err)
		}
		used[p] = true
		copy(disks[p.Disk].Data[p.Off:][:c.Chunk], want[off:])
	}
	n := len(disks)
	for row := int64(0); row < c.LegSize/c.Chunk; row++ {
		var parity []int
		for i := range disks {
			if !used[blockdev.Place{Disk: i, Off: row * c.Chunk}] {
				parity = append(parity, i)
			}
		}
		p, q := parity[0], -1
		if c.Level == 6 {
			p, q = order(c.Layout, parity, n)
		}
		for at := row * c.Chunk; at < (row+1)*c.Chunk; at++ {
			var sum, syndrome byte
			for k := range n {
				// From the highest power down: Horner's rule.
				i := n - 1 - k
				if c.Layout < 8 || c.Layout > 10 {
					i = (q + 1 + n - 1 - k) % n
				}
				if i == p || i == q {
					if c.Layout >= 8 && c.Layout <= 10 {
						syndrome = double(syndrome)
					}
					continue
				}
				sum ^= disks[i].Data[at]
				syndrome = double(syndrome) ^ disks[i].Data[at]
			}
			disks[p].Data[at] = sum
			if q >= 0 {
				disks[q].Data[at] = syndrome
			}
		}
	}
}

// order tells which of two legs with parity has Q: the one behind P, in one layout
// the one before it, in others the last leg.
func order(layout int, parity []int, n int) (p, q int) {
	a, b := parity[0], parity[1]
	switch {
	case layout >= 16:
		return a, b
	case layout == 10:
		if (b+1)%n == a {
			return a, b
		}
		return b, a
	case (a+1)%n == b && !(n == 2):
		return a, b
	}
	return b, a
}

func double(b byte) byte {
	if b&0x80 != 0 {
		return b<<1 ^ 0x1d
	}
	return b << 1
}

// TestGeometry: what makes no sense is refused.
func TestGeometry(t *testing.T) {
	leg := raid.Leg{Dev: (&raidtest.Disk{Data: make([]byte, 1<<16)}).Device(), InSync: 1 << 16}
	legs := func(n int) (l []raid.Leg) {
		for range n {
			l = append(l, leg)
		}
		return l
	}
	for _, c := range []raid.Config{
		{Level: 1},
		{Level: 7, Chunk: 512, Legs: legs(2)},
		{Level: 5, Chunk: 0, Legs: legs(3), LegSize: 1 << 16},
		{Level: 5, Chunk: 513, Legs: legs(3), LegSize: 1 << 16},
		{Level: 5, Chunk: 512, Legs: legs(1), LegSize: 1 << 16},
		{Level: 5, Chunk: 512, Legs: legs(3), LegSize: 1 << 62},
		{Level: 5, Chunk: 512, Layout: 6, Legs: legs(3), LegSize: 1 << 16},
		{Level: 6, Chunk: 512, Layout: 11, Legs: legs(4), LegSize: 1 << 16},
		{Level: 6, Chunk: 512, Legs: legs(2), LegSize: 1 << 16},
		{Level: 10, Chunk: 512, Layout: 0x102, Legs: legs(1), LegSize: 1 << 16},
		{Level: 10, Chunk: 512, Layout: 0x002, Legs: legs(2), LegSize: 1 << 16},
		{Level: 10, Chunk: 512, Layout: 3<<17 | 0x102, Legs: legs(2), LegSize: 1 << 16},
		{Level: 0, Chunk: 1 << 17, Layout: raid.Alternate, Legs: legs(2)},
		{Level: 0, Chunk: 512, Layout: -1, Legs: append(legs(1), raid.Leg{Dev: blockdev.Section(leg.Dev, 0, 1<<15), InSync: 1 << 15})},
		{Level: 1, Legs: legs(2), LegSize: 100, Size: 101},
	} {
		if _, err := raid.New(c); !errors.Is(err, filesys.ErrCorrupt) && !errors.Is(err, filesys.ErrUnsupported) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
