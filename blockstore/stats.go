package blockstore

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Stats are figures of a store.
type Stats struct {
	Blocks      uint64 // blocks that the index names, pages included
	StoredBytes uint64 // bytes of their stored forms
	PlainBytes  uint64 // bytes of their plain forms
	Points      int
	Records     int
	FreeBytes   uint64 // on the vault's file system; 0 if that does not tell
	TotalBytes  uint64
	Uploads     int // open ones

	// Since the store was opened.
	BytesAdded   uint64 // stored bytes of blocks that became known
	BytesWritten uint64 // bytes written to all files: by BytesAdded, it is the write amplification

	Index, Tables *pebble.Metrics // of the databases; for benchmarks and tests
}

// Stats counts points and records one by one; all else is known.
func (s *Store) Stats() (Stats, error) {
	if err := s.enter(); err != nil {
		return Stats{}, err
	}
	defer s.leave()
	now := s.st.Load()
	st := Stats{
		Blocks: now.blocks, StoredBytes: now.stored, PlainBytes: now.plain,
		BytesAdded: now.stored + s.removed.Load() - s.opened.stored, BytesWritten: s.g.written.Load(),
		Index: s.index.Metrics(), Tables: s.blocks.Metrics(),
	}
	u, err := s.fs.GetDiskUsage(s.dir)
	if err != nil && !errors.Is(err, vfs.ErrUnsupported) {
		return Stats{}, err
	}
	st.FreeBytes, st.TotalBytes = u.AvailBytes, u.TotalBytes
	s.mu.Lock()
	st.Uploads = len(s.uploads)
	s.mu.Unlock()
	count := func(space byte, n *int) error {
		return s.scan(space, "", "", func(string, []byte) (bool, error) { *n++; return true, nil })
	}
	return st, errors.Join(count(pointSpace, &st.Points), count(recordSpace, &st.Records))
}

// Changes counts, since the store was opened, what changes the points and what
// leaves garbage.
type Changes struct {
	Made      uint64 // points committed
	Deleted   uint64 // points deleted
	Abandoned uint64 // uploads that ended without a point
}

// Changes tells without waiting for anything whether there were any.
func (s *Store) Changes() Changes {
	return Changes{Made: s.made.Load(), Deleted: s.deleted.Load(), Abandoned: s.abandoned.Load()}
}
