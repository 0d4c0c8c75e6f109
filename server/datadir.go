package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"cairn/server/catalog"
)

// The data directory:
//
//	FORMAT     what it is: this is part of the format
//	LOCK       held by the server that uses it
//	catalog/   see cairn/server/catalog
//	vaults/    one directory per vault, named by the uid of its store; new-* is
//	           a vault whose creation was broken off
//
// FORMAT is text:
//
//	cairn data
//	version: 1
//	server: 6f0c0b9e-…           the server's uuid, made with the directory
//
// A reader that does not know the version must not touch the directory.
const (
	dataFormat  = 1
	dataMagic   = "cairn data"
	formatName  = "FORMAT"
	catalogName = "catalog"
	vaultsName  = "vaults"
)

// Errors of Open, beside those of cairn/server/catalog.
var (
	// ErrNewerData: a later version of Cairn wrote the data directory.
	ErrNewerData = errors.New("data directory is newer than this program knows")
	// ErrNotData: the directory holds something else.
	ErrNotData = errors.New("not a data directory of cairnd")
)

// openDataDir locks the data directory, making it if there is none, and gives
// the server's uuid.
func openDataDir(o Options) (id string, lock io.Closer, err error) {
	if err := makeDir(o.FS, o.Dir); err != nil {
		return "", nil, fmt.Errorf("make data directory: %w", err)
	}
	// Looked at before the lock, which would leave a file in a foreign directory.
	id, err = readDataFormat(o)
	if err != nil {
		return "", nil, err
	}
	lock, err = o.FS.Lock(o.FS.PathJoin(o.Dir, "LOCK"))
	var pathErr *fs.PathError
	switch {
	case errors.As(err, &pathErr):
		return "", nil, fmt.Errorf("lock data directory: %w", err)
	case err != nil:
		return "", nil, fmt.Errorf("%w: another cairnd uses the data directory %s", catalog.ErrLocked, o.Dir)
	}
	if id != "" {
		return id, lock, nil
	}
	if id, err = readDataFormat(o); err == nil && id == "" { // else another was faster
		id, err = writeDataFormat(o)
	}
	if err != nil {
		return "", nil, errors.Join(err, lock.Close())
	}
	return id, lock, nil
}

// readDataFormat gives the server's uuid, or "" if the directory is empty.
func readDataFormat(o Options) (id string, err error) {
	f, err := o.FS.Open(o.FS.PathJoin(o.Dir, formatName))
	if errors.Is(err, fs.ErrNotExist) {
		names, err := o.FS.List(o.Dir)
		if err != nil {
			return "", fmt.Errorf("read data directory: %w", err)
		}
		for _, n := range names {
			if n != "LOCK" && n != "lost+found" && n != formatName+".new" {
				return "", fmt.Errorf("%w: %s has no %s file but %s: name an empty directory, or one that does not exist", ErrNotData, o.Dir, formatName, n)
			}
		}
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read data directory: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", formatName, err)
	}
	return parseDataFormat(o.Dir, string(text))
}

func parseDataFormat(dir, text string) (id string, err error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if lines[0] != dataMagic {
		return "", fmt.Errorf("%w: %s/%s does not begin with %q", ErrNotData, dir, formatName, dataMagic)
	}
	fields := map[string]string{}
	for _, l := range lines[1:] {
		k, v, _ := strings.Cut(l, ": ")
		fields[k] = v
	}
	version, err := strconv.Atoi(fields["version"])
	if err != nil || version < 1 {
		return "", fmt.Errorf("%w: %s/%s has the version %q", ErrNotData, dir, formatName, fields["version"])
	}
	if version > dataFormat {
		return "", fmt.Errorf("%w: %s has format %d, this program reads up to %d: use the version of Cairn that wrote it, or a later one", ErrNewerData, dir, version, dataFormat)
	}
	u, err := uuid.Parse(fields["server"])
	if err != nil {
		return "", fmt.Errorf("%w: %s/%s: server %q is no uuid", ErrNotData, dir, formatName, fields["server"])
	}
	return u.String(), nil
}

// writeDataFormat begins a data directory.
func writeDataFormat(o Options) (string, error) {
	u, err := uuid.NewRandomFromReader(o.Rand)
	if err != nil {
		return "", fmt.Errorf("make the server's uuid: %w", err)
	}
	tmp := o.FS.PathJoin(o.Dir, formatName+".new")
	f, err := o.FS.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return "", fmt.Errorf("make data directory: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s\nversion: %d\nserver: %s\n", dataMagic, dataFormat, u)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = o.FS.Rename(tmp, o.FS.PathJoin(o.Dir, formatName))
	}
	if err == nil {
		err = syncDir(o.FS, o.Dir)
	}
	if err != nil {
		return "", fmt.Errorf("make data directory: %w", err)
	}
	return u.String(), nil
}

// makeDir makes a directory, with those above it, that a crash does not take away.
func makeDir(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	parent := fs.PathDir(dir)
	if parent != dir {
		if err := makeDir(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(fs, parent)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
