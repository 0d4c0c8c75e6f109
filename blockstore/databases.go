package blockstore

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
)

// pebbleFormat is the format of both databases in a vault of format 1: the
// first with checksums over sstable footers, and after the one that tells a
// torn WAL from a damaged one.
const pebbleFormat = pebble.FormatTableFormatV6

// pebbleOptions are what the two databases have in common.
func (s *Store) pebbleOptions(create bool) *pebble.Options {
	o := &pebble.Options{
		FS:                 s.fs,
		FormatMajorVersion: pebbleFormat,
		ErrorIfExists:      create,
		ErrorIfNotExists:   !create,
		ReadOnly:           s.ro,
		Logger:             pebbleLogger{s.g},
		BytesPerSync:       1 << 20,
		EventListener: &pebble.EventListener{
			DataCorruption: func(i pebble.DataCorruptionInfo) { s.o.Logger.Errorf("%s: damaged: %v", s.dir, i.Details) },
		},
	}
	o.Experimental.ReadSamplingMultiplier = -1 // no compactions because of reads
	for i := range o.Levels {
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	return o
}

func (s *Store) openDBs(create bool) error {
	s.g.opening.Store(true)
	defer s.g.opening.Store(false)
	if s.res == nil {
		s.res, s.ownRes = NewResources(ResourceOptions{}), true
	}
	io := s.pebbleOptions(create)
	io.Cache, io.FileCache = s.res.index, s.res.indexFiles
	io.MemTableSize = 2 << 20
	io.MemTableStopWritesThreshold = 4
	for i := range io.Levels {
		io.Levels[i].BlockSize = 4 << 10
		io.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		io.Levels[i].FilterType = pebble.TableFilter
	}
	var err error
	if s.index, err = openDB(s.path(indexName), io); err != nil {
		return err
	}
	bo := s.pebbleOptions(create)
	bo.Cache, bo.FileCache = s.res.tables, s.res.tablesFiles
	bo.DisableWAL = true // nothing but tables is written, and those are ingested
	bo.MemTableSize = 256 << 10
	// A table that is gone or cut short shall cost its blocks, not the vault.
	bo.DisableConsistencyCheck = true
	s.blocks, err = openDB(s.path(blocksName), bo)
	return err
}

func openDB(dir string, o *pebble.Options) (*pebble.DB, error) {
	db, err := pebble.Open(dir, o)
	switch {
	case errors.Is(err, pebble.ErrDBDoesNotExist):
		return nil, fmt.Errorf("%w: %s is missing", ErrCorrupt, dir)
	case pebble.IsCorruptionError(err):
		return nil, fmt.Errorf("%w: %s: %v", ErrCorrupt, dir, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return db, nil
}
