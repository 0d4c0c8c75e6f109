package server

import (
	"crypto/rand"
	"io"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore"
	"cairn/server/catalog"
	"cairn/server/job"
)

// Options of a server. The zero value of each field but Dir is good for use.
type Options struct {
	// Dir is the data directory. It is made if it does not exist.
	Dir string
	// Regions are the regions that exist; the first is the server's own.
	// Empty means "local" alone.
	Regions []string
	// FS holds the data directory; nil is the operating system's.
	FS vfs.FS
	// Resources are the caches of the vaults' stores; nil makes them.
	Resources *blockstore.Resources
	// Now and Rand are the clock and the source of ids and tokens.
	Now  func() time.Time
	Rand io.Reader
	// Logger gets what operators should read; nil is slog.Default.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if len(o.Regions) == 0 {
		o.Regions = []string{"local"}
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// Server is an open data directory and everything that works on it.
type Server struct {
	opts     Options
	log      *slog.Logger
	tokenKey []byte // keys the page tokens' checksums
	cat      *catalog.Catalog
	vaults   *vaults
	jobs     *job.Manager
	data     *dataPlane // open uploads, leases on points
}

// Open opens the data directory, or makes a new one, and begins to work.
func Open(opts Options) (*Server, error) {
	opts = opts.withDefaults()
	s := &Server{opts: opts, log: opts.Logger}
	s.vaults = &vaults{s: s, byName: make(map[VaultName]*Vault)}
	s.data = newDataPlane(s)
	return s, nil
}

// Close ends all work and closes all databases. Serving must have ended.
func (s *Server) Close() error { return nil }
