package qemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cairn/client/source"
)

// descriptor is one machine as its file describes it.
type descriptor struct {
	Name  string `json:"name"`
	QMP   string `json:"qmp"`
	Agent string `json:"agent,omitempty"`
	UUID  string `json:"uuid,omitempty"`

	id      string
	problem string // "" if it can be used
}

// maxDescriptor is how long a descriptor may be, in bytes.
const maxDescriptor = 64 << 10

// descriptors reads the directory, sorted by id.
func descriptors(dir string) ([]*descriptor, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("directory of QEMU machines: %w", err)
	}
	byID := map[string]*descriptor{}
	for _, e := range entries {
		name := e.Name()
		if filepath.Ext(name) != ".json" || strings.HasPrefix(name, ".") || e.IsDir() {
			continue
		}
		path := filepath.Join(dir, name)
		d := readDescriptor(dir, path)
		if d == nil {
			continue // removed meanwhile
		}
		if old := byID[d.id]; old != nil {
			d.problem = fmt.Sprintf("more than one descriptor in %s gives the machine ID %s: rename one, so that each machine's backups are its own", dir, d.id)
		}
		byID[d.id] = d
	}
	list := make([]*descriptor, 0, len(byID))
	for _, d := range byID {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b *descriptor) int { return strings.Compare(a.id, b.id) })
	return list, nil
}

// readDescriptor returns nil if the file does not exist.
func readDescriptor(dir, path string) *descriptor {
	d, err := parseDescriptor(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if d.Name == "" {
		d.Name = strings.TrimSuffix(filepath.Base(path), ".json")
	}
	d.id = source.IDOf(d.Name, "vm")
	if err != nil {
		d.problem = fmt.Sprintf("descriptor %s: %v", path, err)
	}
	for _, p := range []*string{&d.QMP, &d.Agent} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return d
}

// parseDescriptor returns what it could read also with an error.
func parseDescriptor(path string) (*descriptor, error) {
	var d descriptor
	f, err := os.Open(path)
	if err != nil {
		return &d, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDescriptor+1))
	if err != nil {
		return &d, err
	}
	if len(b) > maxDescriptor {
		return &d, fmt.Errorf("it is longer than %d bytes", maxDescriptor)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return &d, fmt.Errorf("it is not as it should be: %w", err)
	}
	switch {
	case dec.More():
		return &d, errors.New("there is something after its end")
	case d.Name == "":
		return &d, errors.New(`"name" is missing`)
	case d.QMP == "":
		return &d, errors.New(`"qmp", the path of the monitor's socket, is missing`)
	}
	return &d, nil
}
