package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// Limits of external programs. Looking at a header is quick even on a busy
// host; checking an image reads all its metadata.
const (
	infoLimit  = 30 * time.Second
	checkLimit = 10 * time.Minute
	maxLayers  = 100 // images in a backing chain
	maxInfos   = 10_000
)

// layer is one image of a backing chain, with all that QEMU needs to open it
// without believing a header.
type layer struct {
	path    string
	format  string
	size    int64    // bytes that the guest sees
	alloc   int64    // bytes on the host, of path and files
	refs    []string // the external data file (qcow2) or the extents (vmdk)
	data    string   // the external data file, or ""
	backing *layer
	shared  bool // others may open it for writing while we read
}

// imageInfo is what is used of `qemu-img info --output=json`.
type imageInfo struct {
	VirtualSize   int64  `json:"virtual-size"`
	Backing       string `json:"backing-filename"`
	BackingFormat string `json:"backing-filename-format"`
	Encrypted     bool   `json:"encrypted"`
	Specific      struct {
		Data struct {
			Corrupt bool `json:"corrupt"`
		} `json:"data"`
	} `json:"format-specific"`
}

// openRegular opens a file that has to be a regular one, without hanging on a
// FIFO or touching a device.
func openRegular(path string) (*os.File, os.FileInfo, error) {
	st, err := os.Stat(path)
	if err == nil {
		err = regular(path, st)
	}
	if err != nil {
		return nil, nil, asProblem(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, asProblem(err)
	}
	// What was looked at need not be what was opened.
	if st, err = f.Stat(); err == nil {
		err = regular(path, st)
	}
	if err != nil {
		f.Close()
		return nil, nil, asProblem(err)
	}
	return f, st, nil
}

func regular(path string, st os.FileInfo) error {
	what := ""
	switch m := st.Mode(); {
	case m.IsRegular():
		if st.Size() > 0 {
			return nil
		}
		return unusable("%s: the file is empty (0 bytes)", path)
	case m.IsDir():
		what = "directory"
	case m&os.ModeNamedPipe != 0:
		what = "FIFO"
	case m&os.ModeSocket != 0:
		what = "socket"
	case m&os.ModeDevice != 0:
		what = "device"
	default:
		what = "special file"
	}
	return unusable("%s: a %s, not an image file", path, what)
}

// asProblem gives an error of the file system a text that stands alone.
func asProblem(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return unusable("%s: cannot be opened: %v", p.Path, p.Err)
	}
	return err
}

// probe finds out all about the image at path and what it is based on. A
// format of "" means the one its extension stands for.
func (s *Images) probe(ctx context.Context, path, format string) (*layer, error) {
	var top *layer
	at := &top
	for range maxLayers {
		l, info, err := s.probeOne(ctx, path, format)
		if err != nil {
			return nil, err
		}
		*at, at = l, &l.backing
		if info.Backing == "" {
			return top, nil
		}
		if !hasBacking(l.format) {
			return nil, unusable("%s: a backing file in a %s image is not supported", path, l.format)
		}
		next, err := s.inside(path, info.Backing)
		if err != nil {
			return nil, unusable("%s: its backing file %v", path, err)
		}
		switch {
		case info.BackingFormat == "" && extFormat(filepath.Base(next)) == "":
			return nil, unusable("%s: it does not say what format its backing file %s has; qemu-img rebase -u -F says it", path, next)
		case info.BackingFormat != "" && !knownFormat(info.BackingFormat):
			return nil, unusable("%s: its backing file has the unknown format %q", path, info.BackingFormat)
		}
		path, format = next, info.BackingFormat
	}
	return nil, unusable("%s: more than %d images are backed by one another, or they go round in a circle", top.path, maxLayers)
}

// probeOne looks at one image.
func (s *Images) probeOne(ctx context.Context, path, format string) (*layer, *imageInfo, error) {
	f, st, err := openRegular(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if format == "" {
		if format, err = formatOf(f, extFormat(filepath.Base(path))); err != nil {
			return nil, nil, err
		}
	}
	l := &layer{path: path, format: format, size: st.Size(), alloc: allocated(st)}
	if format == "raw" {
		return l, &imageInfo{}, nil
	}
	if !utf8.ValidString(path) || strings.ContainsRune(path, utf8.RuneError) {
		return nil, nil, unusable("%q: its name is not valid UTF-8, which QEMU needs", path)
	}
	refs, err := references(f, st.Size(), format)
	if err != nil {
		return nil, nil, corrupt("%s: image is corrupt: %v", path, err)
	}
	for _, ref := range refs {
		file, err := s.inside(path, ref.name)
		if err != nil {
			return nil, nil, unusable("%s: the file with its data %v", path, err)
		}
		st, err := os.Stat(file)
		if err == nil {
			err = regular(file, st)
		}
		if err != nil {
			return nil, nil, unusable("%s: the file with its data: %v", path, asProblem(err))
		}
		if st.Size() < ref.need {
			return nil, nil, corrupt("%s: image is corrupt: the file with its data, %s, has %d bytes instead of %d", path, file, st.Size(), ref.need)
		}
		l.refs = append(l.refs, file)
		l.alloc += allocated(st)
		if format == "qcow2" {
			l.data = file
		}
	}
	info, err := s.info(ctx, path, format, st)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case info.Encrypted:
		return nil, nil, unusable("%s: the image is encrypted, and there is no key to read it with", path)
	case info.Specific.Data.Corrupt:
		return nil, nil, corrupt("%s: image is corrupt: QEMU has marked it so; qemu-img check -r all may repair it", path)
	case info.VirtualSize <= 0:
		return nil, nil, unusable("%s: the disk in the image is empty (%d bytes)", path, info.VirtualSize)
	}
	l.size = info.VirtualSize
	return l, info, nil
}

// inside resolves a name in an image's header and makes sure that the file is
// in the images directory.
func (s *Images) inside(path, name string) (string, error) {
	file, err := resolve(path, name)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(dir, real); err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%s lies outside the images directory %s; qemu-img rebase or convert can make the image independent of it", file, s.dir)
	}
	return file, nil
}

func allocated(st os.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return st.Size()
}

// infoKey says that a file is still the one that was looked at.
type infoKey struct {
	format       string
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func keyOf(st os.FileInfo, format string) infoKey {
	sys := st.Sys().(*syscall.Stat_t)
	return infoKey{format, sys.Dev, sys.Ino, sys.Size, sys.Mtim, sys.Ctim}
}

// cachedInfo is what qemu-img said of the file that key describes.
type cachedInfo struct {
	key  infoKey
	info *imageInfo
}

// info asks qemu-img about an image, unless the file has not changed since it
// was asked last.
func (s *Images) info(ctx context.Context, path, format string, st os.FileInfo) (*imageInfo, error) {
	key := keyOf(st, format)
	s.mu.Lock()
	c, ok := s.infos[path]
	s.mu.Unlock()
	if ok && c.key == key {
		return c.info, nil
	}
	var out limited
	words, err := run(ctx, infoLimit, &out, "qemu-img", "info", "--output=json", "-U", "-f", format, path)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return nil, corrupt("%s: image is corrupt: %s", path, words)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	info := new(imageInfo)
	if err := json.Unmarshal(out.b, info); err != nil {
		return nil, fmt.Errorf("%s: answer of qemu-img info: %w", path, err)
	}
	s.mu.Lock()
	if len(s.infos) >= maxInfos { // files come and go: start again
		clear(s.infos)
	}
	s.infos[path] = cachedInfo{key, info}
	s.mu.Unlock()
	return info, nil
}

// limited is a writer that takes no more than any sound answer needs.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	const limit = 4 << 20
	if len(l.b)+len(p) > limit {
		return 0, fmt.Errorf("more than %d bytes of output: %w", limit, io.ErrShortBuffer)
	}
	l.b = append(l.b, p...)
	return len(p), nil
}
