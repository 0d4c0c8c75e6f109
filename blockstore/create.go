package blockstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"cairn/blockstore/block"
)

// Create makes a vault in dir, which must not exist, or be empty but for what a
// broken-off Create left, and opens it.
func Create(dir string, o Options) (*Store, error) {
	s, err := create(dir, o)
	if err != nil {
		return nil, fmt.Errorf("create vault %s: %w", dir, err)
	}
	return s, nil
}

func create(dir string, o Options) (*Store, error) {
	if o.ReadOnly {
		return nil, ErrReadOnly
	}
	s, err := newStore(dir, o)
	if err != nil {
		return nil, err
	}
	if err := block.ValidSize(s.o.BlockSize); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	s.format = formatFile{version: FormatVersion, uuid: uuid.NewString(), blockSize: s.o.BlockSize}
	if s.ro {
		err = ErrReadOnly
	} else {
		err = s.createFiles()
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// createFiles ends with the rename that makes the directory a vault.
func (s *Store) createFiles() error {
	if err := s.clearForCreate(); err != nil {
		return err
	}
	if err := s.room(s.o.MinFree); err != nil {
		return err
	}
	if err := writeFile(s.fs, s.path(newFormatName), s.format.String()); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.dir); err != nil {
		return err
	}
	if err := s.openDBs(true); err != nil {
		return err
	}
	if err := s.fs.Rename(s.path(newFormatName), s.path(formatName)); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.dir); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.fs.PathDir(s.dir)); err != nil {
		return err
	}
	return s.g.failure() // the guard keeps some errors to itself
}

// clearForCreate removes what a Create left that did not come to its end, which
// shows in the file with which it began, and refuses everything else.
func (s *Store) clearForCreate() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	var begun bool
	var foreign []string
	for _, n := range names {
		switch n {
		case formatName:
			return fmt.Errorf("%w: there is a vault", ErrExists)
		case newFormatName:
			begun = true
		case lockName, "lost+found":
		case indexName, blocksName, incomingName:
			foreign = append(foreign, n)
		default:
			return fmt.Errorf("%w: the directory is not empty, it has %s", ErrExists, n)
		}
	}
	if !begun && len(foreign) > 0 {
		return fmt.Errorf("%w: the directory has %s but no %s: a damaged vault, perhaps", ErrExists, strings.Join(foreign, ", "), formatName)
	}
	for _, n := range foreign {
		if err := s.fs.RemoveAll(s.path(n)); err != nil {
			return err
		}
	}
	return nil
}
