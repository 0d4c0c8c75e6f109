package cluster

import (
	"unicode/utf16"
	"unicode/utf8"
)

// DecodeUTF16 makes UTF-8 of a name. Half a surrogate pair becomes the three
// bytes that UTF-8 would have for its number, so that names stay different.
func DecodeUTF16(units []uint16) string {
	b := make([]byte, 0, 3*len(units))
	for i := 0; i < len(units); i++ {
		u := rune(units[i])
		if utf16.IsSurrogate(u) {
			r := rune(utf8.RuneError)
			if i+1 < len(units) {
				r = utf16.DecodeRune(u, rune(units[i+1]))
			}
			if r == utf8.RuneError {
				b = append(b, 0xE0|byte(u>>12), 0x80|byte(u>>6&0x3F), 0x80|byte(u&0x3F))
				continue
			}
			u = r
			i++
		}
		b = utf8.AppendRune(b, u)
	}
	return string(b)
}

// EncodeUTF16 is the reverse of DecodeUTF16. What is neither UTF-8 nor half a
// surrogate pair is no name.
func EncodeUTF16(name string) (units []uint16, ok bool) {
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && n == 1 {
			if i+3 > len(name) || name[i] != 0xED || name[i+1]&0xE0 != 0xA0 || name[i+2]&0xC0 != 0x80 {
				return nil, false
			}
			r, n = 0xD000|rune(name[i+1]&0x3F)<<6|rune(name[i+2]&0x3F), 3
			units = append(units, uint16(r))
		} else {
			units = utf16.AppendRune(units, r)
		}
		i += n
	}
	return units, true
}
