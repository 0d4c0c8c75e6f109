package main

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// quoted keeps a guest's names from driving the terminal, and from looking like
// others: with control characters of any kind, and with what is not shown or turns
// the direction of writing, they are quoted.
func quoted(name string) string {
	for _, r := range name {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return strconv.Quote(name)
		}
	}
	return name
}

// printable does the same for what an error says, in which names of a guest may
// stand: it keeps its lines, and what does not print is written as in Go.
func printable(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == '\n' || r == '\t' || unicode.IsPrint(r) && r != utf8.RuneError {
			b.WriteString(text[i : i+n])
		} else {
			q := strconv.Quote(text[i : i+n])
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// pathBytes is a path, encoded, for JSON and YAML, which have text alone: nil for one
// that is text. Guests' names may be any bytes, and what stands for those that are
// no UTF-8 in text cannot be given back to a command.
func pathBytes(p string) []byte {
	if utf8.ValidString(p) {
		return nil
	}
	return []byte(p)
}
