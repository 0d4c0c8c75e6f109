package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// node is the layer as QEMU's block layer describes it, with every file and
// format spelled out. alone leaves the backing chain away.
func (l *layer) node(alone bool) map[string]any {
	file := func(path string) map[string]any {
		return map[string]any{"driver": "file", "filename": path}
	}
	n := map[string]any{"driver": l.format, "file": file(l.path)}
	if l.data != "" {
		n["data-file"] = file(l.data)
	}
	if hasBacking(l.format) {
		n["backing"] = nil
		if l.backing != nil && !alone {
			n["backing"] = l.backing.node(false)
		}
	}
	if l.shared {
		n["force-share"], n["read-only"] = true, true // of the whole graph below, too
	}
	return n
}

// filename is the graph in the form that QEMU takes in place of a file name.
func (l *layer) filename(alone bool) string {
	b, err := json.Marshal(l.node(alone))
	if err != nil {
		panic(err) // strings and maps
	}
	return "json:" + string(b)
}

// files are all files that hold data of the chain.
func (l *layer) files() []string {
	var all []string
	for ; l != nil; l = l.backing {
		all = append(append(all, l.path), l.refs...)
	}
	return all
}

// check makes sure that the images of a chain are sound, as far as that can be
// seen without reading their data.
func (l *layer) check(ctx context.Context) error {
	for ; l != nil; l = l.backing {
		var err error
		switch l.format {
		case "raw", "vpc": // vpc: QEMU compares with the file's end on opening
		case "qcow", "vdi": // QEMU has no check, or one that does not look there
			err = l.checkEnd(ctx)
		default:
			err = l.checkQEMU(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkQEMU has QEMU check an image. Leaked clusters are none of our business.
func (l *layer) checkQEMU(ctx context.Context) error {
	const leaks, unsupported = 3, 63
	words, err := run(ctx, checkLimit, io.Discard, "qemu-img", "check", l.filename(true))
	switch code := exitCode(err); {
	case err == nil, code == leaks, code == unsupported:
		return nil
	case code > 0:
		return l.refused(words)
	}
	return fmt.Errorf("%s: %w", l.path, err)
}

// refused is the error for an image that QEMU does not open or like, with its
// words.
func (l *layer) refused(words string) error {
	// These words are those of QEMU's file locking, the same in every version
	// that has it.
	if strings.Contains(words, "Failed to get") && strings.Contains(words, "lock") {
		return inUse(l.path)
	}
	return corrupt("%s: image is corrupt: %s", l.path, words)
}

// checkEnd makes sure that no data of the image lies beyond the end of its
// file, where QEMU would read zeros.
func (l *layer) checkEnd(ctx context.Context) error {
	st, err := os.Stat(l.path)
	if err != nil {
		return asProblem(err)
	}
	pr, pw := io.Pipe()
	read := make(chan error, 1)
	go func() {
		err := l.checkMap(pr, st.Size())
		pr.CloseWithError(err)
		read <- err
	}()
	words, err := run(ctx, checkLimit, pw, "qemu-img", "map", "--output=json", l.filename(true))
	pw.Close()
	answer := <-read
	var exit *exec.ExitError
	switch {
	case errors.Is(answer, ErrCorrupt): // and so the program was cut short
		return answer
	case errors.As(err, &exit):
		return l.refused(words)
	case err != nil:
		return fmt.Errorf("%s: %w", l.path, err)
	}
	return answer
}

// checkMap reads what qemu-img map says and compares it with the file's size.
func (l *layer) checkMap(r io.Reader, size int64) error {
	d := json.NewDecoder(r)
	if _, err := d.Token(); err != nil { // [
		return fmt.Errorf("%s: answer of qemu-img map: %w", l.path, err)
	}
	for d.More() {
		var e struct {
			Length int64  `json:"length"`
			Data   bool   `json:"data"`
			Offset *int64 `json:"offset"`
		}
		if err := d.Decode(&e); err != nil {
			return fmt.Errorf("%s: answer of qemu-img map: %w", l.path, err)
		}
		if e.Data && e.Offset != nil && (*e.Offset > size || e.Length > size-*e.Offset) {
			return corrupt("%s: image is corrupt: data up to byte %d of a file of %d bytes: it has been truncated", l.path, *e.Offset+e.Length, size)
		}
	}
	_, err := io.Copy(io.Discard, r) // what is left of the answer
	return err
}
