package blockstore

import (
	"context"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// Skeleton: every function here moves to the file of its subject.

var errTODO = ErrInvalid

// Store is an open vault.
type Store struct{}

// Info says what vault a Store is.
type Info struct {
	Dir       string
	UUID      string
	Version   int
	BlockSize int
	ReadOnly  bool
	Failed    error // why it stopped writing, nil if it did not
}

func Create(dir string, o Options) (*Store, error) { return nil, errTODO }
func Open(dir string, o Options) (*Store, error)   { return nil, errTODO }
func (s *Store) Close() error                      { return errTODO }
func (s *Store) Info() Info                        { return Info{} }

func (s *Store) ReadBlocks(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	return nil, errTODO
}
func (s *Store) ReadStored(ctx context.Context, ds []block.Digest) ([][]byte, error) {
	return nil, errTODO
}
func (s *Store) Reader(point string) diskmap.BlockReader { return s }

// Upload collects what a point needs.
type Upload struct{}

// Block is a block on its way into a store.
type Block struct {
	Digest block.Digest
	Stored []byte // block.Encode; Put keeps it until the Ack is done
}

// Ack tells when what was put is durable.
type Ack struct{}

func (a *Ack) Done() <-chan struct{} { return nil }
func (a *Ack) Err() error            { return nil }

func (s *Store) StartUpload(id string) (*Upload, error) { return nil, errTODO }
func (u *Upload) ID() string                            { return "" }
func (u *Upload) FindMissing(ctx context.Context, ds []block.Digest) ([]int, error) {
	return nil, errTODO
}
func (u *Upload) Put(ctx context.Context, blocks []Block) (*Ack, error) { return nil, errTODO }
func (u *Upload) WritePage(ctx context.Context, plain []byte) (block.Digest, error) {
	return block.Zero, errTODO
}
func (u *Upload) PinPoint(ctx context.Context, pointID string) error { return errTODO }
func (u *Upload) Flush(ctx context.Context) error                    { return errTODO }
func (u *Upload) Commit(ctx context.Context, p Point, muts ...Mutation) error {
	return errTODO
}
func (u *Upload) Abort() {}

// Point is a recovery point: a root, from which all its blocks are reached.
type Point struct {
	ID    string
	Disks []Disk
	Meta  []byte // opaque to the store
}

// Disk is one disk of a point.
type Disk struct {
	Name string
	Map  diskmap.Map
}

// Mutation changes one record.
type Mutation struct {
	Key    string
	Value  []byte
	Delete bool
}

func (s *Store) Point(id string) (Point, error)                                  { return Point{}, errTODO }
func (s *Store) Points(prefix, after string, fn func(Point) bool) error          { return errTODO }
func (s *Store) DeletePoint(ctx context.Context, id string, m ...Mutation) error { return errTODO }
func (s *Store) UpdatePoint(ctx context.Context, id string, meta []byte, m ...Mutation) error {
	return errTODO
}
func (s *Store) HoldPoint(id string) (release func(), err error) { return nil, errTODO }
func (s *Store) Record(key string) ([]byte, error)               { return nil, errTODO }
func (s *Store) Records(prefix, after string, fn func(key string, value []byte) bool) error {
	return errTODO
}
func (s *Store) Apply(ctx context.Context, m ...Mutation) error { return errTODO }

// VerifyProgress is what a running check has done so far.
type VerifyProgress struct {
	Blocks uint64 // blocks and pages checked
	Bytes  uint64 // their plain bytes
}

// VerifyReport is what a check found.
type VerifyReport struct {
	VerifyProgress
	Points   int        // points walked
	Bad      []BadBlock // the first of them, see BadCount
	BadCount uint64     // bad and missing blocks in all
	Orphans  uint64     // blocks that no index entry names: garbage
	Damaged  []string   // ids of points that a bad block damages, sorted
}

// BadBlock is a block that is damaged or missing.
type BadBlock struct {
	Digest block.Digest
	ID     uint64
	Err    error
}

func (s *Store) VerifyPoint(ctx context.Context, id string, progress func(VerifyProgress)) (VerifyReport, error) {
	return VerifyReport{}, errTODO
}
func (s *Store) Verify(ctx context.Context, progress func(VerifyProgress)) (VerifyReport, error) {
	return VerifyReport{}, errTODO
}

// Stats are figures of a store.
type Stats struct {
	Blocks       uint64 // stored blocks, pages included
	StoredBytes  uint64 // their stored bytes
	Points       int
	Records      int
	BytesTaken   uint64 // stored bytes of the blocks put and not known before, since Open
	BytesWritten uint64 // bytes written to files, since Open: BytesWritten/BytesTaken is the write amplification
	FreeBytes    uint64 // on the file system
}

func (s *Store) Stats() (Stats, error) { return Stats{}, errTODO }
