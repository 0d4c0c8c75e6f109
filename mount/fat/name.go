package fat

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"cairn/mount/fat/cluster"
)

// upperOEM is what the bytes from 0x80 on mean in code page 437.
var upperOEM = []rune("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
	"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00A0")

func decodeOEM(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		if c < 0x80 {
			s.WriteByte(c)
		} else {
			s.WriteRune(upperOEM[c-0x80])
		}
	}
	return s.String()
}

// Flags of Windows NT: which part of a short name is meant in lower case.
const (
	lowerBase = 0x08
	lowerExt  = 0x10
)

// shortName is the name in an entry of 32 bytes, as it stands (alias) and with
// the case that the flags ask for.
func shortName(e []byte) (shown, alias string) {
	raw := [11]byte(e)
	if raw[0] == 0x05 {
		raw[0] = 0xE5 // which by itself would mean that the entry is deleted
	}
	base := decodeOEM([]byte(strings.TrimRight(string(raw[:8]), " ")))
	ext := decodeOEM([]byte(strings.TrimRight(string(raw[8:]), " ")))
	join := func(base, ext string) string {
		if ext == "" {
			return base
		}
		return base + "." + ext
	}
	alias = join(base, ext)
	if e[12]&lowerBase != 0 {
		base = strings.ToLower(base)
	}
	if e[12]&lowerExt != 0 {
		ext = strings.ToLower(ext)
	}
	return join(base, ext), alias
}

// checksum ties the entries of a long name to the short one.
func checksum(short []byte) (sum byte) {
	for _, c := range short[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// usable says whether a path can have a name.
func usable(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

const (
	longSlots = 20 // of one name at most
	longUnits = 13 // UTF-16 units in each
	maxUnits  = 255
)

// longName gathers the entries of a long name, which stand in front of the
// file's own entry in reverse order.
type longName struct {
	units [longSlots * longUnits]uint16
	start int64 // slot of the first
	n     int   // of all
	next  int   // number of the one expected next; 0: complete, -1: there is none
	sum   byte
}

func (l *longName) reset() { l.next = -1 }

// add takes an entry with the attributes of a long name.
func (l *longName) add(e []byte, slot int64) {
	number := int(e[0] & 0x3F)
	switch {
	case e[12] != 0 || number < 1 || number > longSlots || e[0]&0x80 != 0:
		l.reset()
		return
	case e[0]&0x40 != 0: // the last part of the name comes first
		l.start, l.n, l.sum = slot, number, e[13]
	case number != l.next || e[13] != l.sum:
		l.reset()
		return
	}
	l.next = number - 1
	part := l.units[(number-1)*longUnits:][:0:longUnits]
	for _, r := range [3][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := r[0]; i < r[1]; i += 2 {
			part = append(part, le.Uint16(e[i:]))
		}
	}
}

// name is the name for the entry whose short name is given, if it is that
// one's and can be used.
func (l *longName) name(short []byte) (string, bool) {
	if l.next != 0 || l.sum != checksum(short) {
		return "", false
	}
	units := l.units[:l.n*longUnits]
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	if len(units) > maxUnits {
		return "", false
	}
	name := cluster.DecodeUTF16(units)
	return name, usable(name)
}

// fold makes equal what differs in case only.
func fold(name string) string {
	ascii := true
	for i := 0; i < len(name) && ascii; i++ {
		ascii = name[i] < utf8.RuneSelf
	}
	if ascii {
		return strings.ToUpper(name)
	}
	b := make([]byte, 0, len(name)+8)
	for len(name) > 0 {
		r, n := utf8.DecodeRuneInString(name)
		if r == utf8.RuneError && n == 1 {
			b = append(b, name[0])
		} else {
			b = utf8.AppendRune(b, unicode.ToUpper(r))
		}
		name = name[n:]
	}
	return string(b)
}

// hashes are those under which a name can be found.
func hashes(e *entry) (hashes []uint32) {
	hashes = append(hashes, cluster.Hash(fold(e.name)))
	if h := cluster.Hash(fold(e.alias)); h != hashes[0] && usable(e.alias) {
		hashes = append(hashes, h)
	}
	return hashes
}
