package rpc

import (
	"encoding/hex"
	"fmt"
	"math"
	"strings"
)

// UUID names a domain for life.
type UUID [16]byte

// ParseUUID reads a UUID of 32 hexadecimal digits, with dashes anywhere or
// nowhere, as libvirt does.
func ParseUUID(s string) (u UUID, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("libvirt: %q is not a UUID", s)
	}
	return UUID(b), nil
}

// String is the form with dashes: 8-4-4-4-12 digits.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// Domain is the handle of a domain, as of when it was looked up. Calls find
// the domain by its UUID.
type Domain struct {
	Name string
	UUID UUID
	ID   int // of this run; -1 when the domain is not active
}

// Params are named values: int64 and uint64 for whole numbers, as the daemon
// has them signed or unsigned, float64, bool or string.
type Params map[string]any

// Int64 returns a whole number; 0 if there is none of that name. One that is
// too large becomes the largest.
func (p Params) Int64(name string) int64 {
	switch v := p[name].(type) {
	case int64:
		return v
	case uint64:
		return int64(min(v, math.MaxInt64))
	}
	return 0
}

// Bool returns a truth value; false if there is none of that name.
func (p Params) Bool(name string) bool {
	v, _ := p[name].(bool)
	return v
}

// Text returns a string; "" if there is none of that name.
func (p Params) Text(name string) string {
	v, _ := p[name].(string)
	return v
}

// Version is a version as libvirt counts them: major × 1,000,000 + minor ×
// 1000 + release, so that they can be compared.
type Version uint64

func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v/1e6, v/1e3%1e3, v%1e3)
}
