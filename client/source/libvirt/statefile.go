package libvirt

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
)

// stateFiles reads the firmware's variables and the emulated TPM's state. What
// cannot be read is a warning: the disks are worth having without it.
func (s *Source) stateFiles(def *domxml.Domain, uuid string) (files []source.StateFile, warnings []source.Warning) {
	read := func(name string, kind source.StateKind, path, what string) {
		data, err := readState(path)
		if err != nil {
			warnings = append(warnings, source.Warning{Kind: source.WarnSnapshot,
				Text: fmt.Sprintf("%s is not in the recovery point: %v", what, err)})
			return
		}
		files = append(files, source.StateFile{Name: name, Kind: kind, Path: path, Data: data})
	}
	if f := def.Firmware(); f.NVRAM != "" {
		read("nvram", source.StateNVRAM, f.NVRAM, "the firmware's NVRAM")
	}
	if def.TPM() != "" {
		paths, err := tpmFiles(filepath.Join(s.restorer.swtpm, uuid))
		if err != nil {
			warnings = append(warnings, source.Warning{Kind: source.WarnSnapshot,
				Text: fmt.Sprintf("the TPM's state is not in the recovery point: %v", err)})
		}
		for i, path := range paths {
			read(fmt.Sprintf("tpm-%d", i), source.StateTPM, path, "a file of the TPM's state")
		}
	}
	return files, warnings
}

// tpmFiles lists the files of swtpm's state: <dir>/tpm2/tpm2-00.permall and such.
func tpmFiles(dir string) (paths []string, err error) {
	for _, version := range []string{"tpm1.2", "tpm2"} {
		entries, err := os.ReadDir(filepath.Join(dir, version))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") && !strings.HasSuffix(e.Name(), ".lock") {
				paths = append(paths, filepath.Join(dir, version, e.Name()))
			}
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("there is none in %s", dir)
	}
	slices.SortFunc(paths, cmp.Compare[string])
	return paths, nil
}

// readState reads a regular file of at most stateLimit bytes.
func readState(path string) ([]byte, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, stateLimit+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > stateLimit:
		return nil, fmt.Errorf("%s has more than %d MiB", path, stateLimit>>20)
	}
	return b, nil
}
