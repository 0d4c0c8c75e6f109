package history

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// ErrPattern: a pattern that has no meaning.
var ErrPattern = errors.New("bad pattern")

// Pattern matches names or paths as a shell does: * is any row of characters, ?
// any one, [a-z] and [!a-z] one of a set, in which [:digit:] and the like may
// stand, and a backslash takes the meaning off the character behind it. As with find(1), * and ? match slashes of a path too.
type Pattern struct{ re *regexp.Regexp }

// NewPattern reads a pattern; with fold, upper and lower case are the same.
func NewPattern(s string, fold bool) (Pattern, error) {
	var b strings.Builder
	b.WriteString("(?s")
	if fold {
		b.WriteString("i")
	}
	b.WriteString(`)\A`)
	for i := 0; i < len(s); {
		switch c := s[i]; c {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		case '[':
			n, err := set(&b, s[i:])
			if err != nil {
				return Pattern{}, fmt.Errorf("%q: %w", s, err)
			}
			i += n
			continue
		case '\\':
			if i++; i == len(s) {
				return Pattern{}, fmt.Errorf("%q: %w: a backslash at the end", s, ErrPattern)
			}
			fallthrough
		default:
			// Whole characters, lest one of several bytes be taken apart.
			n := 1
			for i+n < len(s) && s[i+n]&0xC0 == 0x80 {
				n++
			}
			b.WriteString(regexp.QuoteMeta(s[i : i+n]))
			i += n
			continue
		}
		i++
	}
	b.WriteString(`\z`)
	re, err := regexp.Compile(b.String())
	if err != nil {
		return Pattern{}, fmt.Errorf("%q: %w: %v", s, ErrPattern, err)
	}
	return Pattern{re}, nil
}

// set translates the set that s begins with, and gives its length.
func set(b *strings.Builder, s string) (int, error) {
	i := 1
	not := i < len(s) && (s[i] == '!' || s[i] == '^')
	if not {
		i++
	}
	start := i
	end := -1
	for k := i; k < len(s); k++ {
		if s[k] == '\\' {
			k++
			continue
		}
		if n := class(s[k:]); n > 0 {
			k += n - 1
			continue
		}
		if s[k] == ']' && k > start {
			end = k
			break
		}
	}
	if end < 0 {
		return 0, fmt.Errorf("%w: [ without ]", ErrPattern)
	}
	b.WriteString("[")
	if not {
		b.WriteString("^")
	}
	for k := start; k < end; k++ {
		if n := class(s[k:end]); n > 0 {
			b.WriteString(s[k : k+n])
			k += n - 1
			continue
		}
		switch c := s[k]; {
		case c == '\\' && k+1 < end:
			k++
			if s[k] == '-' {
				b.WriteByte('\\')
				b.WriteByte('-')
			} else {
				b.WriteString(regexp.QuoteMeta(s[k : k+1]))
			}
		case c == '-':
			b.WriteByte('-')
		case strings.IndexByte(`[]^\&~`, c) >= 0:
			b.WriteString(`\` + string(c))
		default:
			b.WriteByte(c)
		}
	}
	b.WriteString("]")
	return end + 1, nil
}

// class is the length of the class of characters, such as [:digit:], that s begins
// with within a set; 0 if it is none.
func class(s string) int {
	if !strings.HasPrefix(s, "[:") {
		return 0
	}
	n := strings.Index(s, ":]")
	if n < 2 || strings.Trim(s[2:n], "abcdefghijklmnopqrstuvwxyz") != "" {
		return 0
	}
	return n + 2
}

// Match says whether all of s matches. The zero Pattern matches everything.
func (p Pattern) Match(s string) bool { return p.re == nil || p.re.MatchString(s) }
