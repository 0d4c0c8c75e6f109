package blockstore

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/objstorage"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// table is a table of blocks being built, a file in incoming/ until it is
// ingested.
type table struct {
	s       *Store
	path    string
	w       *sstable.Writer
	flights []*flight
	size    int64 // stored bytes
	limit   int64
	checked int64 // size at which the free space was looked at
	born    time.Time
	err     error // the first one; what is added later only counts
}

// spaceStep is how often the builder looks at the free space, in bytes.
const spaceStep = 4 << 20

// newTable begins a table that leaves reserve bytes of the disk free. What goes
// wrong shows when it is finished.
func (s *Store) newTable(first uint64, prefix string, reserve uint64) *table {
	t := &table{
		s:     s,
		path:  s.fs.PathJoin(s.dir, incomingName, fmt.Sprintf("%s%016x.sst", prefix, first)),
		limit: s.tableSize(),
		born:  time.Now(),
	}
	if t.err = s.room(reserve + spaceStep); t.err != nil {
		return t
	}
	f, err := s.fs.Create(t.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.err = err
		return t
	}
	t.w = sstable.NewWriter(newTableFile(f), sstable.WriterOptions{
		TableFormat: pebbleFormat.MaxTableFormat(),
		Compression: sstable.NoCompression, // blocks are compressed one by one
		// What Pebble reads and checksums as a whole: almost every block gets a
		// piece of its own, so that damage costs one block, not its neighbours.
		BlockSize:      4 << 10,
		IndexBlockSize: 256 << 10, // one level
	})
	return t
}

// tableSize is how large tables get now: large vaults have larger ones, so that
// there are never more than some 10⁵ of them, each of which takes Pebble about a
// kilobyte of memory.
func (s *Store) tableSize() int64 {
	if s.o.TableSize > 0 {
		return s.o.TableSize
	}
	return min(1<<30, max(defaultTableSize, int64(s.st.Load().stored>>16)))
}

func (t *table) add(f *flight) {
	t.flights = append(t.flights, f)
	t.size += int64(len(f.bytes))
	if t.err == nil && t.size-t.checked >= spaceStep {
		t.checked = t.size
		t.err = t.s.room(t.s.o.MinFree + spaceStep)
	}
	if t.err == nil {
		t.err = t.w.Set(blockKey(f.entry.id), f.bytes)
	}
	f.bytes = nil
}

func (t *table) full() bool {
	return t.size >= t.limit || len(t.flights) >= tableEntries || t.err != nil
}

// live are the flights that have not failed by now.
func (t *table) live() []*flight {
	var fs []*flight
	for _, f := range t.flights {
		if !f.dead.Load() {
			fs = append(fs, f)
		}
	}
	return fs
}

// finish makes the file whole and durable, but for its directory entry: Pebble
// syncs the one that counts.
func (t *table) finish() error {
	if t.err == nil {
		w := t.w
		t.w = nil
		t.err = w.Close()
	}
	return t.err
}

// discard removes the file of a table that is not ingested.
func (t *table) discard() {
	if t.w != nil {
		_ = t.w.Close() // the file is worth nothing
		t.w = nil
	}
	_ = t.s.fs.Remove(t.path) // or the next start does
}

// tableFile writes a table in large pieces, and has the kernel write them out
// as they come, so that little is left for the sync at the end.
type tableFile struct {
	f   vfs.File
	buf *[]byte // of tableBuffers
	n   int     // bytes in buf
}

var _ objstorage.Writable = (*tableFile)(nil)

const tableWriteback = 8 << 20

var tableBuffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

func newTableFile(f vfs.File) *tableFile {
	return &tableFile{
		f:   vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: tableWriteback}),
		buf: tableBuffers.Get().(*[]byte),
	}
}

func (w *tableFile) Write(p []byte) error {
	for len(p) > 0 {
		n := copy((*w.buf)[w.n:], p)
		p, w.n = p[n:], w.n+n
		if w.n == len(*w.buf) {
			if err := w.drain(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *tableFile) drain() error {
	_, err := w.f.Write((*w.buf)[:w.n])
	w.n = 0
	return err
}

func (w *tableFile) Finish() error {
	err := w.drain()
	if err == nil {
		err = w.f.Sync()
	}
	return errors.Join(err, w.close())
}

func (w *tableFile) Abort() { _ = w.close() }

func (w *tableFile) close() error {
	tableBuffers.Put(w.buf)
	w.buf = nil
	return w.f.Close()
}
