package ntfs

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// nameMax is the longest name in bytes: 255 UTF-16 units, of which each may take
// three.
const nameMax = 255 * 3

// maxUnits is the longest name in UTF-16 units.
const maxUnits = 255

// decodeName makes UTF-8 of UTF-16LE. A surrogate without its other half
// becomes the three bytes that it would be as a character of its own (WTF-8),
// so that every name has its own form and encodeName gives it back.
func decodeName(p string) string {
	var b strings.Builder
	for i := 0; i+1 < len(p); i += 2 {
		u := rune(p[i]) | rune(p[i+1])<<8
		if utf16.IsSurrogate(u) {
			if i+3 < len(p) {
				low := rune(p[i+2]) | rune(p[i+3])<<8
				if r := utf16.DecodeRune(u, low); r != utf8.RuneError {
					b.WriteRune(r)
					i += 2
					continue
				}
			}
			b.Write([]byte{0xE0 | byte(u>>12), 0x80 | byte(u>>6)&0x3F, 0x80 | byte(u)&0x3F})
			continue
		}
		b.WriteRune(u)
	}
	return b.String()
}

// encodeName is the reverse of decodeName. ok is false for what decodeName never
// gives.
func encodeName(name string) (encoded string, ok bool) {
	b := make([]byte, 0, 2*len(name))
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && n <= 1 {
			if len(name) < i+3 || name[i] != 0xED || name[i+1]&0xE0 != 0xA0 || name[i+2]&0xC0 != 0x80 {
				return "", false
			}
			r, n = 0xD000|rune(name[i+1]&0x3F)<<6|rune(name[i+2]&0x3F), 3
		}
		i += n
		if hi, lo := utf16.EncodeRune(r); r > 0xFFFF {
			b = append(b, byte(hi), byte(hi>>8), byte(lo), byte(lo>>8))
		} else {
			b = append(b, byte(r), byte(r>>8))
		}
	}
	return string(b), decodeName(string(b)) == name
}

// utf16le makes UTF-16LE of a name of this package.
func utf16le(s string) string {
	b := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		b = append(b, s[i], 0)
	}
	return string(b)
}

// upcase is the volume's table that makes capital letters of UTF-16 units.
type upcase []uint16

func (t upcase) up(u uint16) uint16 {
	if int(u) < len(t) {
		return t[u]
	}
	return u
}

// asciiUpcase knows the letters of ASCII alone.
var asciiUpcase = func() upcase {
	t := make(upcase, 128)
	for u := range t {
		t[u] = uint16(u)
		if 'a' <= u && u <= 'z' {
			t[u] -= 'a' - 'A'
		}
	}
	return t
}()

// all makes a name in UTF-16LE one of capital letters.
func (t upcase) all(name string) string {
	b := []byte(name)
	for i := 0; i+1 < len(b); i += 2 {
		le.PutUint16(b[i:], t.up(le.Uint16(b[i:])))
	}
	return string(b)
}

// compare orders two UTF-16LE names as an index does that ignores case.
func (t upcase) compare(a, b string) int {
	for i := 0; i+1 < len(a) && i+1 < len(b); i += 2 {
		x, y := t.up(uint16(a[i])|uint16(a[i+1])<<8), t.up(uint16(b[i])|uint16(b[i+1])<<8)
		if x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// loadUpcase reads $UpCase; nil if it cannot be used. An error says that it may
// be another time.
func (f *FS) loadUpcase() (upcase, error) {
	in, err := f.inode(inoUpcase)
	if err != nil {
		return nil, unread(err)
	}
	s, err := in.stream(attrData, "")
	if err != nil || s == nil {
		return nil, unread(err)
	}
	p, err := s.readAll(1 << 17)
	if err != nil || len(p) < 256 {
		return nil, unread(err)
	}
	t := make(upcase, len(p)/2)
	for i := range t {
		t[i] = le.Uint16(p[2*i:])
	}
	return t, nil
}
