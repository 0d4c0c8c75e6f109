package blockstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"cairn/blockstore/block"
)

// FormatVersion is the version of the layout that this package writes, and the
// newest it opens. See the package comment.
const FormatVersion = 1

// Names in a vault's directory.
const (
	formatName    = "FORMAT"
	newFormatName = "FORMAT.new"
	lockName      = "LOCK"
	indexName     = "index"
	blocksName    = "blocks"
	incomingName  = "incoming"
)

const formatMagic = "cairn vault"

type formatFile struct {
	version   int
	uuid      string
	blockSize int
}

func (f formatFile) String() string {
	return fmt.Sprintf("%s\nversion: %d\nuuid: %s\nblock-size: %d\n", formatMagic, f.version, f.uuid, f.blockSize)
}

// parseFormat reads a FORMAT file. The version is looked at before anything
// else, so that a newer file is recognised whatever it holds.
func parseFormat(text string) (formatFile, error) {
	var f formatFile
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if lines[0] != formatMagic {
		return f, fmt.Errorf("%w: %s does not begin with %q", ErrNotVault, formatName, formatMagic)
	}
	fields := map[string]string{}
	for _, l := range lines[1:] {
		k, v, _ := strings.Cut(l, ": ")
		fields[k] = v
	}
	var err error
	if f.version, err = strconv.Atoi(fields["version"]); err != nil || f.version < 1 {
		return f, fmt.Errorf("%w: %s: version %q", ErrNotVault, formatName, fields["version"])
	}
	if f.version > FormatVersion {
		return f, fmt.Errorf("%w: the vault has format %d, this program reads up to format %d: use the version of Cairn that wrote it, or a later one", ErrNewerFormat, f.version, FormatVersion)
	}
	id, err := uuid.Parse(fields["uuid"])
	if err != nil {
		return f, fmt.Errorf("%w: %s: uuid %q: %w", ErrCorrupt, formatName, fields["uuid"], err)
	}
	f.uuid = id.String()
	if f.blockSize, err = strconv.Atoi(fields["block-size"]); err != nil {
		return f, fmt.Errorf("%w: %s: block-size %q", ErrCorrupt, formatName, fields["block-size"])
	}
	if err := block.ValidSize(f.blockSize); err != nil {
		return f, fmt.Errorf("%w: %s: %w", ErrCorrupt, formatName, err)
	}
	return f, nil
}

func readFormat(vfs vfs.FS, dir string) (formatFile, error) {
	file, err := vfs.Open(vfs.PathJoin(dir, formatName))
	if errors.Is(err, fs.ErrNotExist) {
		return formatFile{}, fmt.Errorf("%w: it has no %s file", ErrNotVault, formatName)
	}
	if err != nil {
		return formatFile{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, 4096))
	if err != nil {
		return formatFile{}, fmt.Errorf("read %s: %w", formatName, err)
	}
	return parseFormat(string(text))
}

// writeFile makes a small durable file, all or nothing but for its directory's
// entry, which the caller syncs.
func writeFile(fs vfs.FS, path, text string) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
