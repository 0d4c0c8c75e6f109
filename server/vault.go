package server

import (
	"context"
	"sync"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
)

// Vault is a registered vault. What it knows is read with use.
type Vault struct {
	Name VaultName
	UID  string
	// Store is the open store; valid between use and release.
	Store *blockstore.Store
	// Problem is why Store is not open, or open for reading only; nil if all is
	// well.
	Problem *pb.Problem

	mu    sync.Mutex // guards what is below and orders changes of records
	items map[string]*pb.ProtectedItem
}

// use keeps the store open until release.
func (v *Vault) use() (release func(), err error) { return func() {}, nil }

// item gives a protected item as it is stored. The message is shared: it must
// not be changed. Error: PROTECTED_ITEM_NOT_FOUND.
func (v *Vault) item(n ItemName) (*pb.ProtectedItem, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	it := v.items[n.Item]
	if it == nil {
		return nil, errItemNotFound(n)
	}
	return it, nil
}

// changeItem changes a protected item's record. change gets a copy to change;
// if it answers nil, the new record is written by commit, which applies the
// mutation in one batch with whatever else it writes (a point, say); nil means
// Store.Apply. Changes of one vault's records happen one after the other.
// Error: PROTECTED_ITEM_NOT_FOUND, and those of change and commit as they are.
func (v *Vault) changeItem(ctx context.Context, n ItemName, change func(*pb.ProtectedItem) error,
	commit func(blockstore.Mutation) error) (*pb.ProtectedItem, error) {
	return nil, errItemNotFound(n)
}
