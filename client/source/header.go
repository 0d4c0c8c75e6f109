package source

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Little of an image is read here rather than by QEMU: what must be known
// before QEMU may open it. All of it is untrusted.

// magics are how images of each format begin. Source: the block drivers' probe
// functions and the formats' specifications.
var magics = []struct {
	format string
	offset int
	magic  string
}{
	{"qcow2", 0, "QFI\xfb"},
	{"qed", 0, "QED\x00"},
	{"vmdk", 0, "KDMV"},
	{"vmdk", 0, "COWD"},
	{"vmdk", 0, "# Disk DescriptorFile"},
	{"vhdx", 0, "vhdxfile"},
	{"vpc", 0, "conectix"},
	{"vdi", 64, "\x7f\x10\xda\xbe"},
}

// looksLike returns the format that an image's first bytes are those of, or "".
func looksLike(head []byte) string {
	for _, m := range magics {
		if len(head) >= m.offset+len(m.magic) && string(head[m.offset:m.offset+len(m.magic)]) == m.magic {
			return m.format
		}
	}
	return ""
}

// reference is a file that an image's header names as holding part of it.
type reference struct {
	name string // as it stands in the header
	// need is how many bytes the file must have at least; 0 if unknown.
	need int64
}

// references returns the files besides the image itself (and its backing
// file) in which its data is.
func references(f io.ReaderAt, size int64, format string) ([]reference, error) {
	switch format {
	case "qcow2":
		return qcow2DataFile(f)
	case "vmdk":
		return vmdkExtents(f, size)
	}
	return nil, nil
}

// readHead reads n bytes at off, or as many as there are.
func readHead(f io.ReaderAt, off int64, n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := f.ReadAt(b, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// qcow2DataFile finds the external data file in the header extensions.
// Source: docs/interop/qcow2.txt in QEMU.
func qcow2DataFile(f io.ReaderAt) ([]reference, error) {
	const (
		externalData = 1 << 2 // bit of incompatible_features
		dataFileName = 0x44415441
	)
	head, err := readHead(f, 0, 104)
	if err != nil || len(head) < 104 || string(head[:4]) != "QFI\xfb" {
		return nil, err // not ours to complain about
	}
	be := binary.BigEndian
	if be.Uint32(head[4:]) < 3 || be.Uint64(head[72:])&externalData == 0 {
		return nil, nil
	}
	// Extensions lie in the first cluster, 2 MiB at most.
	if head, err = readHead(f, 0, 1<<min(max(be.Uint32(head[20:]), 9), 21)); err != nil {
		return nil, err
	}
	for at := uint64(be.Uint32(head[100:])); at+8 <= uint64(len(head)); {
		kind, n := be.Uint32(head[at:]), uint64(be.Uint32(head[at+4:]))
		at += 8
		if kind == 0 || at+n > uint64(len(head)) {
			break
		}
		if kind == dataFileName {
			return []reference{{name: string(head[at : at+n])}}, nil
		}
		at += (n + 7) &^ 7
	}
	return nil, errors.New("the header does not name the external data file that it says there is")
}

// vmdkExtents finds the files that a VMDK descriptor lists. A sparse image
// that holds its data itself has a descriptor too, which does not count.
// Source: VMware's "Virtual Disk Format 5.0".
func vmdkExtents(f io.ReaderAt, size int64) ([]reference, error) {
	const maxDescriptor = 1 << 20 // as QEMU
	head, err := readHead(f, 0, 48)
	if err != nil {
		return nil, err
	}
	var at int64
	switch {
	case bytes.HasPrefix(head, []byte("COWD")):
		return nil, nil
	case bytes.HasPrefix(head, []byte("KDMV")):
		le := binary.LittleEndian
		if len(head) < 48 || le.Uint64(head[12:]) != 0 {
			return nil, nil
		}
		// No capacity: the descriptor inside counts.
		sector := le.Uint64(head[28:])
		if sector == 0 || sector > uint64(size)/512 {
			return nil, nil
		}
		at = int64(sector) * 512
	}
	text, err := readHead(f, at, int(min(size-at, maxDescriptor)))
	if err != nil {
		return nil, err
	}
	// To QEMU the text ends at the first zero byte.
	text, _, _ = bytes.Cut(text, []byte{0})
	var refs []reference
	for len(text) > 0 {
		if ref, ok := vmdkExtent(text); ok {
			refs = append(refs, ref)
		}
		_, text, _ = bytes.Cut(text, []byte{'\n'})
	}
	return refs, nil
}

// vmdkExtent parses a line of a descriptor: access, sectors, type, quoted name
// and perhaps the sector to begin at. As in QEMU, the fields may go on in the
// lines after; unlike there, any access and type will do.
func vmdkExtent(text []byte) (ref reference, ok bool) {
	const blank = " \t\r\n\v\f"
	if i := bytes.IndexFunc(text, func(r rune) bool { return !strings.ContainsRune(" \t\r\v\f", r) }); i < 0 || text[i] == '\n' {
		return ref, false // the fields are on a line of their own, which has its turn
	}
	word := func() string {
		text = bytes.TrimLeft(text, blank)
		n := bytes.IndexAny(text, blank)
		if n < 0 {
			n = len(text)
		}
		w := string(text[:n])
		text = text[n:]
		return w
	}
	word()
	length, err := strconv.ParseInt(word(), 10, 53)
	if err != nil {
		return ref, false
	}
	kind := word()
	if text = bytes.TrimLeft(text, blank); len(text) == 0 || text[0] != '"' {
		return ref, false
	}
	end := bytes.IndexAny(text[1:], "\"\r\n")
	if end < 0 {
		end = len(text) - 1
	}
	ref.name = string(text[1 : 1+end])
	text = text[min(2+end, len(text)):]
	if kind == "FLAT" || kind == "VMFS" {
		offset, _ := strconv.ParseInt(word(), 10, 53) // it need not be there
		ref.need = max(0, offset+length) * 512
	}
	return ref, true
}

// resolve turns a name in the header of the image at path into a path. QEMU
// takes a name with a colon before its first slash for a protocol (nbd:, json:).
func resolve(path, name string) (string, error) {
	if i := strings.IndexAny(name, ":/"); i >= 0 && name[i] == ':' || name == "" || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%q is not the name of a file", name)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(path), name)
	}
	return filepath.Clean(name), nil
}

// formatOf returns the format of an image whose extension stands for ext. The
// contents are consulted only where that cannot make a raw image anything else.
func formatOf(f *os.File, ext string) (string, error) {
	head, err := readHead(f, 0, 512)
	if err != nil {
		return "", err
	}
	switch {
	case strings.EqualFold(filepath.Ext(f.Name()), ".img"):
		if is := looksLike(head); is != "" {
			return "", unusable("%s: it begins like a %s image: rename it to .%[2]s if it is one, or to .raw if that is what the guest wrote to its raw disk", f.Name(), is)
		}
	case ext == "qcow" && len(head) >= 8 && binary.BigEndian.Uint32(head[4:]) > 1:
		return "qcow2", nil
	}
	return ext, nil
}
