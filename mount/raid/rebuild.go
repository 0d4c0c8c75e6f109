package raid

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"cairn/mount/filesys"
)

// rebuildPiece is how many bytes are computed at once.
const rebuildPiece = 64 << 10

// rebuild computes p, the data at s, from the other legs of its row. p lies inside
// of one chunk.
func (d *device) rebuild(p []byte, s spot) error {
	y := d.parity
	ok, err := false, error(nil)
	if y.inStep != nil {
		ok, err = y.inStep(s.off, int64(len(p)))
	}
	if err != nil {
		return fmt.Errorf("tell whether the parity of byte %d of the devices matches: %w", s.off, err)
	}
	if !ok {
		return fmt.Errorf("device %d from byte %d on would have to be computed from parity, which may not match: the array was in use or not in step: %w",
			s.leg, s.off, filesys.ErrUnsupported)
	}
	r := row{d: d, n: len(p), off: s.off, want: int64(s.leg), other: -1}
	r.p, r.q = y.row(s.off / y.chunk)
	if y.level != 6 {
		r.q = -1
	}
	return r.solve(p)
}

// row computes a piece of one leg.
//
// With D the data of the legs, P = ΣD and Q = Σ2^k·D, sums and products in the
// field of 256 elements with the polynomial 0x11d. That is two equations, which
// determine two unknown D's.
type row struct {
	d           *device
	n           int
	off         int64 // on all legs
	p, q        int64 // the legs with parity
	want, other int64 // the leg that is computed, and another one that is not there
}

func (r *row) solve(out []byte) error {
	y := r.d.parity
	var xor, syndrome []byte = out, nil
	clear(xor)
	if r.q >= 0 {
		syndrome = make([]byte, r.n)
	}
	buf := make([]byte, r.n)
	var errs []error
	for leg := range y.n {
		if leg == r.want || leg == r.p || leg == r.q {
			continue
		}
		if err := r.read(leg, buf); err != nil {
			errs = append(errs, err)
			if r.q < 0 || r.other >= 0 {
				return fmt.Errorf("compute device %d of the array: %w", r.want, errors.Join(errs...))
			}
			r.other = leg
			continue
		}
		subtle.XORBytes(xor, xor, buf)
		if syndrome != nil {
			addProduct(syndrome, buf, pow2(y.power(leg, r.p, r.q)))
		}
	}
	// xor and syndrome have all that is known of ΣD and Σ2^k·D.
	errP := r.read(r.p, buf)
	if errP == nil {
		subtle.XORBytes(xor, xor, buf)
		if r.other < 0 {
			return nil
		}
	}
	if r.q < 0 || errP != nil && r.other >= 0 {
		return fmt.Errorf("compute device %d of the array: %w", r.want, errors.Join(append(errs, errP)...))
	}
	if err := r.read(r.q, buf); err != nil {
		return fmt.Errorf("compute device %d of the array: %w", r.want, errors.Join(append(errs, errP, err)...))
	}
	subtle.XORBytes(syndrome, syndrome, buf)
	a := pow2(y.power(r.want, r.p, r.q))
	if r.other < 0 { // Q alone: a·want = syndrome
		clear(xor)
		addProduct(xor, syndrome, inverse(a))
		return nil
	}
	// want + other = xor, a·want + b·other = syndrome
	b := pow2(y.power(r.other, r.p, r.q))
	addProduct(syndrome, xor, b) // (a+b)·want
	clear(xor)
	addProduct(xor, syndrome, inverse(a^b))
	return nil
}

// read reads a leg, if what it has there may be used.
func (r *row) read(leg int64, buf []byte) error {
	l := &r.d.legs[leg]
	if ok, n := l.usable(r.off); !ok || n < int64(len(buf)) {
		return fmt.Errorf("device %d is missing, being rebuilt or damaged at byte %d: %w", leg, r.off, filesys.ErrCorrupt)
	}
	_, err := Full(l.Dev, buf, r.off)
	if err != nil {
		return fmt.Errorf("device %d of the array: %w", leg, err)
	}
	return nil
}

// The field: powers of 2, twice over, and their logarithms.
var (
	powers [510]byte
	logs   [256]int
)

func init() {
	x := 1
	for i := range 255 {
		powers[i], powers[i+255], logs[x] = byte(x), byte(x), i
		if x <<= 1; x > 255 {
			x ^= 0x11d
		}
	}
}

func pow2(k int64) byte { return powers[k%255] }

func inverse(a byte) byte { return powers[255-logs[a]] }

// addProduct adds c·src to dst.
func addProduct(dst, src []byte, c byte) {
	if c == 0 {
		return
	}
	var table [256]byte
	for v := 1; v < 256; v++ {
		table[v] = powers[logs[v]+logs[c]]
	}
	for i, v := range src {
		dst[i] ^= table[v]
	}
}
