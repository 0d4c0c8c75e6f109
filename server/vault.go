package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// A vault's store has these records, in the encoding of cairn/server/catalog.
// This is part of the format:
//
//	vault               P  cairn.v1.Vault
//	owner               J  owner
//	policy/{policy}     P  cairn.v1.Policy
//	item/{item}         P  cairn.v1.ProtectedItem
//	request/{request}   J  catalog.Request
//	done/{job}          P  cairn.v1.Job: what was done to an item, written with
//	                       it; it goes once the catalog has the job
//	ended/{uid}         P  cairn.v1.ProtectedItemUsage of an item whose data went
//	                       for good; it goes after 400 days
//	reclaimed           J  reclaimed: the last reclaim that succeeded
//	usage/{yyyy-mm-dd}  P  cairn.v1.VaultUsageDay of that day of UTC; it goes
//	                       after 800 days
//
// Derived fields (state, problem, counts, etags) are empty in them.
const (
	vaultRecord   = "vault"
	ownerRecord   = "owner"
	policyPrefix  = "policy/"
	itemPrefix    = "item/"
	requestPrefix = "request/"
	donePrefix    = "done/"
	endedPrefix   = "ended/"
	usagePrefix   = "usage/"

	reclaimedRecord = "reclaimed"
)

// owner says which server registered the vault.
type owner struct {
	Server string `json:"server"` // the uuid of its data directory
}

// Vault is a registered vault. What it holds is read between use and release.
type Vault struct {
	Name VaultName
	UID  string
	// Store is the open store.
	Store *blockstore.Store

	write sync.Mutex     // held while a record is changed; taken before mu
	bytes itemBytesCache // of its items

	reclaim vaultReclaim

	mu       sync.Mutex // guards what is below
	meta     *pb.Vault  // as stored; this and the others are never changed, only replaced
	policies map[string]*pb.Policy
	items    map[string]*pb.ProtectedItem
	broken   *Error // why Store is not open; nil if it is
	refs     int    // calls that use the store
	gone     bool   // being deleted or reopened: no new calls
	idle     sync.Cond
}

func newVault(n VaultName, meta *pb.Vault) *Vault {
	v := &Vault{Name: n, UID: meta.Uid, meta: meta}
	v.idle.L = &v.mu
	return v
}

// use keeps the store open until release, which may be called more than once.
func (v *Vault) use() (release func(), err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.broken != nil:
		return nil, v.broken
	case v.gone:
		return nil, errVaultNotFound(v.Name)
	}
	v.refs++
	return sync.OnceFunc(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.refs--; v.refs == 0 {
			v.idle.Broadcast()
		}
	}), nil
}

// load reads the records of the store, which was just opened.
func (v *Vault) load(st *blockstore.Store) error {
	meta := new(pb.Vault)
	b, err := st.Record(vaultRecord)
	if err == nil {
		err = catalog.DecodeProto(b, meta)
	}
	if err != nil {
		return fmt.Errorf("record %q: %w", vaultRecord, err)
	}
	policies, items := map[string]*pb.Policy{}, map[string]*pb.ProtectedItem{}
	err = errors.Join(
		loadRecords(st, policyPrefix, policies),
		loadRecords(st, itemPrefix, items))
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.Store, v.meta, v.policies, v.items, v.broken = st, meta, policies, items, nil
	return nil
}

func loadRecords[T any, M interface {
	*T
	proto.Message
}](st *blockstore.Store, prefix string, into map[string]M) error {
	var bad error
	err := st.Records(prefix, "", func(key string, value []byte) bool {
		m := M(new(T))
		if err := catalog.DecodeProto(value, m); err != nil {
			bad = fmt.Errorf("record %q: %w", key, err)
			return false
		}
		into[strings.TrimPrefix(key, prefix)] = m
		return true
	})
	return errors.Join(err, bad)
}

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

// policy gives a policy as it is stored. The message is shared: it must not be
// changed. Error: POLICY_NOT_FOUND.
func (v *Vault) policy(n PolicyName) (*pb.Policy, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.policies[n.Policy]
	if p == nil || n.VaultName != v.Name {
		return nil, errPolicyNotFound(n)
	}
	return p, nil
}

// stored is the vault's record.
func (v *Vault) stored() *pb.Vault {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.meta
}

// itemCount is the number of protected items.
func (v *Vault) itemCount() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return int64(len(v.items))
}

// itemsOf gives the protected items for which keep answers true, by id.
func (v *Vault) itemsOf(keep func(*pb.ProtectedItem) bool) []*pb.ProtectedItem {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []*pb.ProtectedItem
	for _, it := range v.items {
		if keep(it) {
			out = append(out, it)
		}
	}
	slices.SortFunc(out, func(a, b *pb.ProtectedItem) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// policyList gives all policies, by id.
func (v *Vault) policyList() []*pb.Policy {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]*pb.Policy, 0, len(v.policies))
	for _, p := range v.policies {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pb.Policy) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// changeItem changes a protected item's record. change gets a copy to change;
// if it answers nil, the new record is written by commit, which applies the
// mutation in one batch with whatever else it writes (a point, say); nil means
// Store.Apply. Changes of one vault's records happen one after the other.
// Error: PROTECTED_ITEM_NOT_FOUND, and those of change and commit as they are.
func (v *Vault) changeItem(ctx context.Context, n ItemName, change func(*pb.ProtectedItem) error,
	commit func(blockstore.Mutation) error) (*pb.ProtectedItem, error) {
	v.write.Lock()
	defer v.write.Unlock()
	old, err := v.item(n)
	if err != nil {
		return nil, err
	}
	it := proto.CloneOf(old)
	if err := change(it); err != nil {
		return nil, err
	}
	m, err := recordMutation(itemPrefix+n.Item, it)
	if err != nil {
		return nil, err
	}
	if commit == nil {
		err = v.Store.Apply(ctx, m)
	} else {
		err = commit(m)
	}
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.items[n.Item] = it
	return it, nil
}

// putPolicy writes a policy, together with more. write is held.
func (v *Vault) putPolicy(ctx context.Context, id string, p *pb.Policy, more ...blockstore.Mutation) error {
	m, err := recordMutation(policyPrefix+id, p)
	if err != nil {
		return err
	}
	if err := v.Store.Apply(ctx, append(more, m)...); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.policies[id] = p
	return nil
}

// putItem writes a new protected item, together with more. write is held.
func (v *Vault) putItem(ctx context.Context, id string, it *pb.ProtectedItem, more ...blockstore.Mutation) error {
	m, err := recordMutation(itemPrefix+id, it)
	if err != nil {
		return err
	}
	if err := v.Store.Apply(ctx, append(more, m)...); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.items[id] = it
	return nil
}

func recordMutation(key string, m proto.Message) (blockstore.Mutation, error) {
	b, err := catalog.EncodeProto(m)
	if err != nil {
		return blockstore.Mutation{}, fmt.Errorf("encode record %q: %w", key, err)
	}
	return blockstore.Mutation{Key: key, Value: b}, nil
}

// etagOf stands for the state of a record: the beginning of the SHA-256 of its
// encoding.
func etagOf(stored proto.Message) string {
	b, err := catalog.EncodeProto(stored)
	if err != nil {
		return ""
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}

// checkEtag refuses a call whose etag is not that of the present state.
func checkEtag(name, etag string, stored proto.Message) error {
	if etag == "" || etag == etagOf(stored) {
		return nil
	}
	return newError(pb.ErrorReason_ERROR_REASON_ETAG_MISMATCH,
		"%q was changed since its etag %s was read; read it again and repeat the change", name, quote(etag)).
		with("name", name).with("etag", etag).with("present_etag", etagOf(stored))
}
