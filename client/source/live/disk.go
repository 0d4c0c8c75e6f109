package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"cairn/client/source"
	"cairn/client/source/nbd"
)

// Export tells where a snapshot's disk is read.
type Export struct {
	Network, Address string // as package net
	Name             string // of the export
	// Bitmap is the full name of the metadata context of changed blocks
	// ("qemu:dirty-bitmap:…"), or "": the disk is read in full.
	Bitmap string
}

// readConnections is how many connections there are for reading, if the server
// allows more than one.
const readConnections = 2

// Disk is a source.SnapshotDisk that is read over NBD. When its connection
// breaks, what is in flight fails with source.ErrDisconnected, as does an
// Extents walk, which then has to be begun again; the next call connects anew.
type Disk struct {
	ctx    context.Context // the snapshot's
	info   source.Disk
	export Export
	alive  func(context.Context) error
	dirty  int64

	mu       sync.Mutex
	client   *nbd.Client // nil when the connection is broken
	distrust bool
	closed   bool
}

var _ source.SnapshotDisk = (*Disk)(nil)

// OpenDisk connects to an export. ctx governs the disk's whole life. d is what
// Info returns, except that its Size is the export's.
//
// alive is asked when anything fails: it returns nil if the snapshot still
// exists, and otherwise an error that wraps source.ErrSnapshotLost,
// source.ErrSnapshotSpace or the like, which is what the caller gets then.
func OpenDisk(ctx context.Context, d source.Disk, e Export, alive func(context.Context) error) (*Disk, error) {
	disk := &Disk{ctx: ctx, info: d, export: e, alive: alive}
	c, err := disk.dial(ctx)
	if err != nil {
		return nil, disk.explain(ctx, nil, err)
	}
	disk.client, disk.info.Size = c, c.Info().Size
	if e.Bitmap == "" {
		return disk, nil
	}
	err = c.Walk(ctx, e.Bitmap, 0, disk.info.Size, func(s nbd.Status) error {
		if s.Flags&nbd.StateDirty != 0 {
			disk.dirty += s.Length
		}
		return nil
	})
	if err != nil {
		err = disk.explain(ctx, c, err)
		disk.Close()
		return nil, err
	}
	return disk, nil
}

// dialLimit bounds the handshake: a server may listen and never answer.
const dialLimit = 20 * time.Second

func (d *Disk) dial(ctx context.Context) (*nbd.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, fmt.Errorf("no answer within %s", dialLimit))
	defer cancel()
	o := nbd.Options{Export: d.export.Name, Contexts: []string{nbd.BaseAllocation}, Connections: readConnections}
	if d.export.Bitmap != "" {
		o.Contexts = append(o.Contexts, d.export.Bitmap)
	}
	c, err := nbd.Dial(ctx, d.export.Network, d.export.Address, o)
	if err != nil {
		return nil, err
	}
	if d.export.Bitmap != "" && !slices.Contains(c.Info().Contexts, d.export.Bitmap) {
		c.Close()
		return nil, fmt.Errorf("%w: %s", nbd.ErrNoContext, d.export.Bitmap)
	}
	return c, nil
}

// connection returns the client, connected anew if need be.
func (d *Disk) connection(ctx context.Context) (*nbd.Client, error) {
	if err := context.Cause(d.ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("disk %s: %w", d.info.Target, os.ErrClosed)
	}
	if d.client != nil {
		return d.client, nil
	}
	c, err := d.dial(ctx)
	if err == nil && c.Info().Size != d.info.Size {
		c.Close()
		return nil, fmt.Errorf("disk %s: %w: it has %d bytes now and had %d", d.info.Target, source.ErrSnapshotLost, c.Info().Size, d.info.Size)
	} else if err != nil {
		return nil, d.explain(ctx, nil, err)
	}
	d.client = c
	return c, nil
}

// drop forgets a broken connection.
func (d *Disk) drop(c *nbd.Client) {
	d.mu.Lock()
	if d.client == c {
		d.client = nil
	}
	d.mu.Unlock()
	c.Close()
}

// explain makes of an NBD error what the caller can act on. c is the connection
// that it came from, or nil if there was none; one that is broken is dropped
// (explain must not hold mu then).
func (d *Disk) explain(ctx context.Context, c *nbd.Client, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if cause := context.Cause(d.ctx); cause != nil {
		return cause
	}
	var refused *nbd.Error
	told := errors.As(err, &refused)
	if c != nil && !told {
		d.mu.Lock()
		closed := d.closed
		d.mu.Unlock()
		if closed {
			return fmt.Errorf("disk %s: %w", d.info.Target, os.ErrClosed)
		}
		d.drop(c)
	}
	if lost := d.alive(ctx); lost != nil {
		return fmt.Errorf("disk %s: %w", d.info.Target, lost) // err is what follows from it
	}
	if told || errors.Is(err, nbd.ErrProtocol) || errors.Is(err, nbd.ErrNoContext) {
		return fmt.Errorf("disk %s: %w", d.info.Target, err)
	}
	return fmt.Errorf("disk %s: %w: %w", d.info.Target, source.ErrDisconnected, err)
}

// Info implements source.SnapshotDisk.
func (d *Disk) Info() source.Disk { return d.info }

// DirtyBytes returns how much the bitmap says has changed; 0 if the disk was
// opened without one.
func (d *Disk) DirtyBytes() int64 { return d.dirty }

// Incremental implements source.SnapshotDisk.
func (d *Disk) Incremental() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.export.Bitmap != "" && !d.distrust
}

// Distrust implements source.SnapshotDisk.
func (d *Disk) Distrust() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.distrust = true
}

// ReadAt implements io.ReaderAt.
//
// Errors: source.ErrDisconnected, and what alive knows.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	c, err := d.connection(d.ctx)
	if err != nil {
		return 0, err
	}
	n, err := c.Read(d.ctx, p, off)
	if err != nil && err != io.EOF {
		err = d.explain(d.ctx, c, err)
	}
	return n, err
}

// Close implements source.SnapshotDisk.
func (d *Disk) Close() error {
	d.mu.Lock()
	c := d.client
	d.client, d.closed = nil, true
	d.mu.Unlock()
	if c != nil {
		c.Close() // that the server has gone is nobody's concern now
	}
	return nil
}
