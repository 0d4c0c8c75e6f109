package raid

import (
	"fmt"

	"cairn/mount/filesys"
)

// Layouts of levels 5 and 6, as md numbers them. "Left" parity starts on the last
// leg and moves to the left with each row, "right" starts on the first; data
// start behind the parity (symmetric) or on the first leg (asymmetric).
const (
	LeftAsymmetric  = 0
	RightAsymmetric = 1
	LeftSymmetric   = 2
	RightSymmetric  = 3
	ParityFirst     = 4
	ParityLast      = 5
	// Those of DDF, level 6 only.
	ZeroRestart = 8
	NRestart    = 9
	NContinue   = 10
	// A level 5 with the second parity on a leg of its own, the last.
	LeftAsymmetric6  = 16
	RightAsymmetric6 = 17
	LeftSymmetric6   = 18
	RightSymmetric6  = 19
	ParityFirst6     = 20
)

// parity is levels 4, 5 and 6: rows of one chunk on each leg, of which one or two
// are computed from the others.
type parity struct {
	level, layout int
	n             int64 // legs
	data          int64 // chunks of data in a row
	chunk         int64
	inStep        func(off, n int64) (bool, error)
}

func newParity(c Config) (layout, int64, error) {
	p := &parity{level: c.Level, layout: c.Layout, n: int64(len(c.Legs)), chunk: c.Chunk, inStep: c.InStep}
	known := c.Layout >= LeftAsymmetric && c.Layout <= ParityLast
	p.data = p.n - 1
	switch c.Level {
	case 4:
		p.layout, known = ParityLast, true
	case 6:
		p.data = p.n - 2
		known = known || c.Layout >= ZeroRestart && c.Layout <= NContinue || c.Layout >= LeftAsymmetric6 && c.Layout <= ParityFirst6
	}
	if !known {
		return nil, 0, fmt.Errorf("raid%d layout %d: %w", c.Level, c.Layout, filesys.ErrUnsupported)
	}
	if p.data < 1 {
		return nil, 0, fmt.Errorf("raid%d on %d devices: %w", c.Level, p.n, filesys.ErrCorrupt)
	}
	return p, c.LegSize / c.Chunk * c.Chunk * p.data, nil
}

// row tells on which legs a row has its parity. Q is -1 in levels 4 and 5.
func (p *parity) row(row int64) (pLeg, qLeg int64) {
	n := p.n
	turn := row % n
	switch p.layout {
	case LeftAsymmetric, LeftSymmetric, NContinue:
		pLeg = n - 1 - turn
	case RightAsymmetric, RightSymmetric, ZeroRestart:
		pLeg = turn
	case NRestart:
		pLeg = n - 1 - (row+1)%n
	case ParityFirst, ParityFirst6:
		pLeg = 0
	case ParityLast:
		pLeg = p.data
	case LeftAsymmetric6, LeftSymmetric6:
		pLeg = p.data - row%(n-1)
	case RightAsymmetric6, RightSymmetric6:
		pLeg = row % (n - 1)
	}
	switch {
	case p.level != 6:
		return pLeg, -1
	case p.layout == NContinue:
		return pLeg, (pLeg + n - 1) % n
	case p.layout >= LeftAsymmetric6:
		return pLeg, n - 1
	default:
		return pLeg, (pLeg + 1) % n
	}
}

// leg tells on which leg the i-th chunk of data of a row is.
func (p *parity) leg(i, pLeg, qLeg int64) int64 {
	switch p.layout {
	case LeftSymmetric, RightSymmetric, NContinue:
		behind := pLeg
		if p.level == 6 && p.layout != NContinue {
			behind = qLeg
		}
		return (behind + 1 + i) % p.n
	case LeftSymmetric6, RightSymmetric6:
		return (pLeg + 1 + i) % (p.n - 1)
	}
	// The others go from the first leg to the last, past those with parity.
	low, high := min(pLeg, qLeg), max(pLeg, qLeg)
	if low >= 0 && i >= low {
		i++
	}
	if i >= high {
		i++
	}
	return i
}

func (p *parity) copies(off int64, spots []spot) ([]spot, int64) {
	in := off % p.chunk
	chunk := off / p.chunk
	row := chunk / p.data
	pLeg, qLeg := p.row(row)
	return append(spots, spot{int(p.leg(chunk%p.data, pLeg, qLeg)), row*p.chunk + in}), p.chunk - in
}

// power tells by which power of 2 the data of a leg goes into Q. The legs are
// counted from behind Q on; in DDF's layouts from the first on, and those with
// parity are counted too.
func (p *parity) power(leg, pLeg, qLeg int64) int64 {
	if p.layout >= ZeroRestart && p.layout <= NContinue {
		return leg
	}
	k := (leg - qLeg - 1 + p.n) % p.n
	if (pLeg-qLeg-1+p.n)%p.n < k {
		k--
	}
	return k
}
