package guest

import (
	"bytes"
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Writer is one VSS writer of a Windows guest: an application that brings its
// files to rest for a snapshot.
type Writer struct {
	Name string // as the system names it: "SqlServerWriter"
	// State is a VSS_WRITER_STATE: 1 is stable, 2 to 5 are steps of a backup, 6
	// and more are failures.
	State  int
	Error  string // the last error, in the guest's language
	Failed bool
}

// vssFirstFailure is VSS_WS_FAILED_AT_IDENTIFY.
const vssFirstFailure = 6

// Writers lists the VSS writers of a Windows guest, as vssadmin sees them. Ask
// after the thaw: a frozen guest runs nothing.
func (c *Client) Writers(ctx context.Context) ([]Writer, error) {
	out, err := c.run(ctx, "vssadmin.exe", "list", "writers")
	if err != nil {
		return nil, err
	}
	return parseWriters(out), nil
}

var (
	writerName  = regexp.MustCompile(`:\s*['"](.*)['"]\s*$`)
	writerState = regexp.MustCompile(`:\s*\[(\d+)\]`)
)

// noError is vssadmin's last error of a writer in good order, in languages whose
// text is known.
var noError = []string{"no error", "kein fehler", "aucune erreur", "nessun errore", "sin errores", "geen fout", "nenhum erro", "brak błędu"}

// parseWriters reads the output of "vssadmin list writers". The labels are in
// the guest's language and code page, so only the shape counts: a line with a
// name in quotes, lines with ids in braces, one with a state's number in
// brackets, and below it the last error.
func parseWriters(out []byte) []Writer {
	var list []Writer
	inState := false // the next line is the last error
	for line := range bytes.Lines(out) {
		text := strings.ToValidUTF8(strings.TrimSpace(string(line)), "?")
		if m := writerName.FindStringSubmatch(text); m != nil {
			list = append(list, Writer{Name: m[1]})
			inState = false
		} else if len(list) == 0 {
			continue
		} else if m := writerState.FindStringSubmatch(text); m != nil {
			list[len(list)-1].State, _ = strconv.Atoi(m[1])
			inState = true
		} else if _, value, ok := strings.Cut(text, ":"); ok && inState {
			list[len(list)-1].Error = strings.TrimSpace(value)
			inState = false
		}
	}
	fine := fineText(list)
	for i := range list {
		w := &list[i]
		w.Failed = w.State >= vssFirstFailure || w.Error != "" && !fine(w.Error)
	}
	return list
}

// fineText returns what tells the text of "no error" from others. In a language
// that is not known, it is what most of the stable writers say.
func fineText(list []Writer) func(string) bool {
	known := func(s string) bool { return slices.Contains(noError, strings.ToLower(s)) }
	if slices.ContainsFunc(list, func(w Writer) bool { return known(w.Error) }) {
		return known
	}
	count := map[string]int{}
	usual := ""
	for _, w := range list {
		if w.State >= vssFirstFailure {
			continue
		}
		if count[w.Error]++; count[w.Error] > count[usual] {
			usual = w.Error
		}
	}
	return func(s string) bool { return s == usual }
}
