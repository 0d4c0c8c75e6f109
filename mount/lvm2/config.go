package lvm2

import (
	"fmt"
	"strconv"

	"cairn/mount/filesys"
)

// Limits of a text. A group of several thousand volumes keeps below them.
const (
	maxEntries = 1 << 17 // assignments and sections
	maxValues  = 1 << 18 // elements of lists
	maxDepth   = 12
)

// section is what stands between braces, or a whole text.
type section struct {
	entries []entry
}

// entry is a section or an assignment. A value that is no list is a list of one.
type entry struct {
	name string
	sub  *section
	list []value
}

type value struct {
	s      string
	n      int64
	number bool
}

// parser goes through a text once:
//
//	section { name = 12  name = "a \"string\""  list = [1, "two", ]  # comment
//	}
//
// Strings are parts of the text where they have no escapes.
type parser struct {
	text            string
	at              int
	entries, values int
}

// parseConfig parses the text of a metadata area or of a backup file.
func parseConfig(text string) (*section, error) {
	p := parser{text: text}
	s, err := p.section(0)
	if err != nil {
		return nil, fmt.Errorf("byte %d of the metadata: %w", p.at, err)
	}
	return s, nil
}

func syntax(what string) error { return fmt.Errorf("%s: %w", what, filesys.ErrCorrupt) }

// skip goes to the next byte that is neither blank nor in a comment; 0 is the end.
// The text of a metadata area ends with a NUL.
func (p *parser) skip() byte {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; c {
		case ' ', '\t', '\n', '\r':
			p.at++
		case '#':
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
		default:
			return c
		}
	}
	return 0
}

func (p *parser) section(depth int) (*section, error) {
	s := &section{}
	for {
		c := p.skip()
		if c == 0 && depth == 0 {
			return s, nil
		}
		if c == '}' && depth > 0 {
			p.at++
			return s, nil
		}
		name := p.word()
		if name == "" {
			return nil, syntax("no name where one was expected")
		}
		if p.entries++; p.entries > maxEntries {
			return nil, fmt.Errorf("more than %d entries: %w", maxEntries, filesys.ErrUnsupported)
		}
		e := entry{name: name}
		var err error
		switch p.skip() {
		case '{':
			p.at++
			if depth == maxDepth {
				return nil, syntax("sections are nested too deeply")
			}
			e.sub, err = p.section(depth + 1)
		case '=':
			p.at++
			e.list, err = p.assigned()
		default:
			err = syntax("neither a section nor an assignment: " + strconv.Quote(name[:min(len(name), 40)]))
		}
		if err != nil {
			return nil, err
		}
		s.entries = append(s.entries, e)
	}
}

// word takes the characters that names are made of.
func (p *parser) word() string {
	start := p.at
	for p.at < len(p.text) {
		c := p.text[p.at]
		if c <= ' ' || c == '=' || c == '{' || c == '}' || c == '[' || c == ']' || c == '#' || c == '"' || c == ',' {
			break
		}
		p.at++
	}
	return p.text[start:p.at]
}

func (p *parser) assigned() ([]value, error) {
	if p.skip() != '[' {
		v, err := p.value()
		return []value{v}, err
	}
	p.at++
	var list []value
	for {
		switch p.skip() {
		case ']':
			p.at++
			return list, nil
		case ',':
			p.at++
			continue
		}
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

func (p *parser) value() (value, error) {
	if p.values++; p.values > maxValues {
		return value{}, fmt.Errorf("more than %d values: %w", maxValues, filesys.ErrUnsupported)
	}
	if p.skip() == '"' {
		return p.quoted()
	}
	word := p.word()
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return value{}, syntax("neither a number nor a string: " + strconv.Quote(word[:min(len(word), 40)]))
	}
	return value{n: n, number: true}, nil
}

func (p *parser) quoted() (value, error) {
	p.at++
	start := p.at
	var unescaped []byte
	for ; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			s := p.text[start:p.at]
			p.at++
			if unescaped != nil {
				s = string(unescaped)
			}
			return value{s: s}, nil
		case c == '\\' && p.at+1 < len(p.text):
			if unescaped == nil {
				unescaped = append([]byte{}, p.text[start:p.at]...)
			}
			p.at++
			unescaped = append(unescaped, p.text[p.at])
		case unescaped != nil:
			unescaped = append(unescaped, c)
		}
	}
	return value{}, syntax("a string does not end")
}

// find gives the first entry of a name, or nil.
func (s *section) find(name string) *entry {
	for i := range s.entries {
		if s.entries[i].name == name {
			return &s.entries[i]
		}
	}
	return nil
}

// sub gives a section, or an empty one.
func (s *section) sub(name string) *section {
	if e := s.find(name); e != nil && e.sub != nil {
		return e.sub
	}
	return &section{}
}

// str gives a string, or "".
func (s *section) str(name string) string {
	if e := s.find(name); e != nil && len(e.list) == 1 {
		return e.list[0].s
	}
	return ""
}

// number gives a number that must be there, from 0 to limit.
func (s *section) number(name string, limit int64) (int64, error) {
	e := s.find(name)
	if e == nil || len(e.list) != 1 || !e.list[0].number || e.list[0].n < 0 || e.list[0].n > limit {
		return 0, syntax(name + " is missing or not a number in its range")
	}
	return e.list[0].n, nil
}

// optional gives a number, or the default when there is none.
func (s *section) optional(name string, limit, otherwise int64) (int64, error) {
	if s.find(name) == nil {
		return otherwise, nil
	}
	return s.number(name, limit)
}

// has says whether a list contains a string.
func (s *section) has(name, word string) bool {
	if e := s.find(name); e != nil {
		for _, v := range e.list {
			if !v.number && v.s == word {
				return true
			}
		}
	}
	return false
}
