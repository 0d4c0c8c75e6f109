package blockstore

import (
	"runtime"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore/block"
)

// Options for Create and Open. The zero value is good for production.
type Options struct {
	// FS holds the vault; nil is the operating system's. Tests put crashing,
	// failing and full ones here.
	FS vfs.FS
	// Resources are the caches to use, shared by all vaults of a server. Nil
	// gives the store its own, of default size.
	Resources *Resources
	// BlockSize of a vault that is created, in bytes, see block.ValidSize; 0 is
	// block.DefaultSize. Open takes it from the vault.
	BlockSize int
	// ReadOnly opens for reading. The vault is locked all the same, unless its
	// file system is read-only.
	ReadOnly bool
	// TableSize is the size in bytes at which a table of blocks is closed, made
	// durable and acknowledged. 0 is 64 MiB, and more in a vault of many TiB, so
	// that it has no more than some 10⁵ tables to remember.
	TableSize int64
	// MinFree is the space in bytes that writing leaves free on the file system:
	// room for what Pebble writes unasked. 0 is 128 MiB. Writes that would go
	// below fail with ErrFull.
	MinFree uint64
	// Logger gets what operators should read: failures behind the scenes. Nil
	// discards it.
	Logger Logger
}

// Logger takes one line a call, without newline.
type Logger interface {
	Infof(format string, args ...any)
	Errorf(format string, args ...any)
}

const (
	defaultTableSize = 64 << 20
	defaultMinFree   = 128 << 20
)

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.BlockSize == 0 {
		o.BlockSize = block.DefaultSize
	}
	if o.MinFree == 0 {
		o.MinFree = defaultMinFree
	}
	if o.Logger == nil {
		o.Logger = nopLogger{}
	}
	return o
}

type nopLogger struct{}

func (nopLogger) Infof(string, ...any)  {}
func (nopLogger) Errorf(string, ...any) {}

// ResourceOptions size a server's caches, in bytes. Zeros are defaults that
// keep a server below 150 MiB.
type ResourceOptions struct {
	IndexCache    int64 // index/: blocks and filters; 64 MiB. A filter takes 1.25 bytes per stored block.
	TableCache    int64 // blocks/: the tables' own indexes, and what is read ahead; 16 MiB
	VerifiedCache int64 // plain blocks that were read and re-hashed; 32 MiB
	OpenFiles     int   // table files held open; 1000
}

// Resources are caches that the vaults of a server share, so that memory does
// not grow with their number. Close them after the last store.
type Resources struct {
	index, tables           *pebble.Cache
	indexFiles, tablesFiles *pebble.FileCache
	verified                *verifiedCache
}

// NewResources makes caches. Index and tables have one each, because reading
// data must not drive out the index, on which every look-up depends.
func NewResources(o ResourceOptions) *Resources {
	if o.IndexCache == 0 {
		o.IndexCache = 64 << 20
	}
	if o.TableCache == 0 {
		o.TableCache = 16 << 20
	}
	if o.VerifiedCache == 0 {
		o.VerifiedCache = 32 << 20
	}
	if o.OpenFiles == 0 {
		o.OpenFiles = 1000
	}
	shards := runtime.GOMAXPROCS(0)
	return &Resources{
		index:       pebble.NewCache(o.IndexCache),
		tables:      pebble.NewCache(o.TableCache),
		indexFiles:  pebble.NewFileCache(shards, max(shards, o.OpenFiles/2)),
		tablesFiles: pebble.NewFileCache(shards, max(shards, o.OpenFiles/2)),
		verified:    newVerifiedCache(o.VerifiedCache),
	}
}

// Close releases the caches.
func (r *Resources) Close() {
	r.indexFiles.Unref()
	r.tablesFiles.Unref()
	r.index.Unref()
	r.tables.Unref()
}
