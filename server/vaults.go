package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// vaults is the registry of vaults, each with its store. That of a vault which
// cannot be opened is tried again from time to time.
type vaults struct {
	s   *Server
	dir string // of all vaults
	res *blockstore.Resources

	create sync.Mutex // held while a vault is made

	mu       sync.Mutex
	byName   map[VaultName]*Vault
	machines map[string]ItemName // machine → the item that protects it
	protect  sync.Mutex          // held while a machine is protected
}

// minFree is the free space below which vaults refuse to write; it is the
// stores' own default.
const minFree = 128 << 20

func (vs *vaults) storeOptions() blockstore.Options {
	return blockstore.Options{FS: vs.s.opts.FS, Resources: vs.res, MinFree: minFree, Logger: storeLogger{vs.s.log}}
}

type storeLogger struct{ log *slog.Logger }

func (l storeLogger) Infof(format string, args ...any)  { l.log.Info(fmt.Sprintf(format, args...)) }
func (l storeLogger) Errorf(format string, args ...any) { l.log.Error(fmt.Sprintf(format, args...)) }

// openVaults opens all registered vaults. One that cannot be opened is there as
// unavailable.
func openVaults(s *Server) (*vaults, error) {
	fs := s.opts.FS
	vs := &vaults{
		s: s, dir: fs.PathJoin(s.opts.Dir, vaultsName), res: s.opts.Resources,
		byName: map[VaultName]*Vault{}, machines: map[string]ItemName{},
	}
	if err := makeDir(fs, vs.dir); err != nil {
		return nil, fmt.Errorf("make directory of vaults: %w", err)
	}
	known := map[string]bool{}
	err := s.cat.Vaults(func(m *pb.Vault) bool {
		ids, _ := splitName(m.Name, vaultPattern, false)
		v := newVault(VaultName{ids[0], ids[1]}, m)
		vs.byName[v.Name], known[v.UID] = v, true
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read registry of vaults: %w", err)
	}
	if err := vs.sweep(known); err != nil {
		return nil, err
	}
	for _, v := range vs.byName {
		vs.open(v)
	}
	return vs, nil
}

// open opens a vault's store, or notes why it cannot be opened.
func (vs *vaults) open(v *Vault) {
	st, err := blockstore.Open(vs.path(v.UID), vs.storeOptions())
	if err == nil {
		if uid := st.Info().UUID; uid != v.UID {
			err = fmt.Errorf("%w: it holds the vault %s, not %s", blockstore.ErrNotVault, uid, v.UID)
		} else {
			err = v.load(st)
		}
		if err != nil {
			err = errors.Join(err, st.Close())
		}
	}
	if err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.broken == nil || v.broken.Message != storeProblem(v.Name, err).Message {
			vs.s.log.Error("vault is not available", "vault", v.Name.String(), "error", err)
		}
		v.broken = storeProblem(v.Name, err)
		return
	}
	items := v.itemsOf(func(*pb.ProtectedItem) bool { return true })
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for _, it := range items {
		n := ItemName{v.Name, it.Name[strings.LastIndexByte(it.Name, '/')+1:]}
		if other, taken := vs.machines[it.Machine]; taken && other != n {
			vs.s.log.Error("a machine is protected twice", "machine", it.Machine, "item", n.String(), "other", other.String())
			continue
		}
		vs.machines[it.Machine] = n
	}
}

// storeProblem says why a vault's store cannot be opened.
func storeProblem(n VaultName, err error) *Error {
	e := classify(err)
	switch e.Reason {
	case pb.ErrorReason_ERROR_REASON_STORE_TOO_NEW, pb.ErrorReason_ERROR_REASON_STORE_LOCKED, pb.ErrorReason_ERROR_REASON_DATA_CORRUPT:
	default:
		e = newError(pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, "%v", err).because(err)
	}
	e.Message = fmt.Sprintf("vault %q is not available: %s", n, e.Message)
	return e.with("vault", n.String())
}

func (vs *vaults) path(uid string) string { return vs.s.opts.FS.PathJoin(vs.dir, uid) }

// find gives a registered vault, in whatever state. Error: VAULT_NOT_FOUND.
func (vs *vaults) find(n VaultName) (*Vault, error) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	v := vs.byName[n]
	if v == nil {
		return nil, errVaultNotFound(n)
	}
	return v, nil
}

// use gives a vault whose store can be read, and keeps the store open until
// release is called; every call that touches a store does that. Errors:
// VAULT_NOT_FOUND, or the reason why the store is not open (STORE_LOCKED,
// STORE_TOO_NEW, STORE_UNAVAILABLE).
func (vs *vaults) use(n VaultName) (v *Vault, release func(), err error) {
	if v, err = vs.find(n); err != nil {
		return nil, nil, err
	}
	if release, err = v.use(); err != nil {
		return nil, nil, err
	}
	return v, release, nil
}

// list gives the vaults of a subscription, by id.
func (vs *vaults) list(subscription string) []*Vault {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	var out []*Vault
	for n, v := range vs.byName {
		if n.Subscription == subscription {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *Vault) int { return strings.Compare(a.Name.Vault, b.Name.Vault) })
	return out
}

// all gives all vaults, in no order.
func (vs *vaults) all() []*Vault {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	return slices.Collect(maps.Values(vs.byName))
}

// itemOf gives the item that protects a machine.
func (vs *vaults) itemOf(machine string) (ItemName, bool) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	n, ok := vs.machines[machine]
	return n, ok
}

// make makes a vault: meta is its record but for the uid. What also writes is
// durable together with the vault's registration. Error: ALREADY_EXISTS.
//
// The store is made under a name that shows that it is not finished, gets its
// records, and is renamed; with the entry in the catalog it is there. A crash in
// between leaves a directory that sweep recognises.
func (vs *vaults) make(ctx context.Context, n VaultName, meta *pb.Vault, also func(*catalog.Tx, *Vault) error) (*Vault, error) {
	vs.create.Lock()
	defer vs.create.Unlock()
	if _, err := vs.find(n); err == nil {
		return nil, newError(pb.ErrorReason_ERROR_REASON_ALREADY_EXISTS,
			"vault %q exists already; choose another vault_id", n).with("name", n.String())
	}
	var r [8]byte
	if _, err := io.ReadFull(vs.s.opts.Rand, r[:]); err != nil {
		return nil, fmt.Errorf("make a directory name: %w", err)
	}
	fs, dir := vs.s.opts.FS, vs.path("new-"+hex.EncodeToString(r[:]))
	v, err := vs.makeIn(ctx, dir, n, meta)
	if err == nil {
		dir = vs.path(v.UID)
		if err = vs.s.cat.Update(ctx, func(tx *catalog.Tx) error {
			return errors.Join(tx.PutVault(v.meta), also(tx, v))
		}); err != nil {
			err = errors.Join(err, v.Store.Close())
		}
	}
	if err != nil {
		if rm := fs.RemoveAll(dir); rm != nil {
			vs.s.log.Warn("remains of a vault that could not be made are left", "directory", dir, "error", rm)
		}
		return nil, err
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.byName[n] = v
	return v, nil
}

// makeIn makes the store of a vault in dir, renames that, and opens it.
func (vs *vaults) makeIn(ctx context.Context, dir string, n VaultName, meta *pb.Vault) (*Vault, error) {
	o := vs.storeOptions()
	o.BlockSize = int(meta.BlockSize)
	st, err := blockstore.Create(dir, o)
	if err != nil {
		return nil, err
	}
	meta.Uid = st.Info().UUID
	m, err := recordMutation(vaultRecord, meta)
	own, jsonErr := catalog.EncodeJSON(owner{Server: vs.s.id})
	if err = errors.Join(err, jsonErr); err == nil {
		err = st.Apply(ctx, m, blockstore.Mutation{Key: ownerRecord, Value: own})
	}
	if err = errors.Join(err, st.Close()); err != nil {
		return nil, err
	}
	path := vs.path(meta.Uid)
	if err := vs.s.opts.FS.Rename(dir, path); err != nil {
		return nil, err
	}
	v := newVault(n, meta)
	if err = syncDir(vs.s.opts.FS, vs.dir); err == nil {
		if st, err = blockstore.Open(path, vs.storeOptions()); err == nil {
			if err = v.load(st); err == nil {
				return v, nil
			}
			err = errors.Join(err, st.Close())
		}
	}
	return nil, errors.Join(err, vs.s.opts.FS.RemoveAll(path))
}

// update changes a vault's record. change gets a copy to change.
func (vs *vaults) update(ctx context.Context, v *Vault, change func(*pb.Vault) error) error {
	v.write.Lock()
	defer v.write.Unlock()
	meta := proto.CloneOf(v.stored())
	if err := change(meta); err != nil {
		return err
	}
	m, err := recordMutation(vaultRecord, meta)
	if err != nil {
		return err
	}
	if err := v.Store.Apply(ctx, m); err != nil {
		return err
	}
	v.mu.Lock()
	v.meta = meta
	v.mu.Unlock()
	// The registry's copy is for when the store cannot be opened. If it cannot be
	// written now, the store's record still holds.
	if err := vs.s.cat.Update(context.WithoutCancel(ctx), func(tx *catalog.Tx) error { return tx.PutVault(meta) }); err != nil {
		vs.s.log.Error("registry's copy of a vault not written", "vault", v.Name.String(), "error", err)
	}
	return nil
}

// remove deletes a vault that check finds empty, with all its jobs. From the
// step that takes it out of the catalog on it is gone for everyone; its directory
// goes then, or at the next start.
func (vs *vaults) remove(v *Vault, check func() error) error {
	v.write.Lock()
	err := check()
	if err == nil {
		err = vs.s.jobs.ForgetVault(v.Name.String(), func(tx *catalog.Tx) error {
			return errors.Join(tx.DeleteVault(v.Name.String()), tx.PutTrash(v.UID))
		})
	}
	if err == nil {
		v.mu.Lock()
		v.gone = true
		v.mu.Unlock()
		vs.mu.Lock()
		delete(vs.byName, v.Name)
		vs.mu.Unlock()
	}
	v.write.Unlock()
	if err != nil {
		return err
	}
	v.mu.Lock()
	for v.refs > 0 {
		v.idle.Wait()
	}
	v.mu.Unlock()
	if err := v.Store.Close(); err != nil {
		vs.s.log.Warn("store of a deleted vault did not close", "vault", v.Name.String(), "error", err)
	}
	if err := vs.removeTrash(v.UID); err != nil {
		vs.s.log.Warn("directory of a deleted vault is left until the next start", "vault", v.Name.String(), "error", err)
	}
	return nil
}

// removeTrash removes the directory of a vault that is not registered any more.
func (vs *vaults) removeTrash(uid string) error {
	if err := vs.s.opts.FS.RemoveAll(vs.path(uid)); err != nil {
		return err
	}
	if err := syncDir(vs.s.opts.FS, vs.dir); err != nil {
		return err
	}
	return vs.s.cat.Update(context.Background(), func(tx *catalog.Tx) error { return tx.DeleteTrash(uid) })
}

// mend opens vaults again whose stores could not be opened or stopped writing,
// until ctx ends.
func (vs *vaults) mend(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, v := range vs.all() {
			vs.reopen(v)
		}
	}
}

// reopen opens a vault's store anew if that is of use, and nobody uses it.
func (vs *vaults) reopen(v *Vault) {
	v.write.Lock()
	defer v.write.Unlock()
	v.mu.Lock()
	failed := v.broken == nil && v.Store.Info().Failed != nil
	try := !v.gone && (v.broken != nil || failed && v.refs == 0)
	if try && failed {
		v.broken = storeProblem(v.Name, v.Store.Info().Failed) // nobody begins to use it
	}
	v.mu.Unlock()
	if !try {
		return
	}
	if failed {
		if err := v.Store.Close(); err != nil {
			vs.s.log.Warn("store that failed did not close", "vault", v.Name.String(), "error", err)
		}
	}
	vs.open(v)
	if release, err := v.use(); err == nil {
		release()
		vs.s.log.Info("vault is available again", "vault", v.Name.String())
	}
}

// close closes all stores.
func (vs *vaults) close() error {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	var errs []error
	for _, v := range vs.byName {
		v.mu.Lock()
		v.gone = true
		for v.refs > 0 {
			v.idle.Wait()
		}
		if v.broken == nil {
			if err := v.Store.Close(); err != nil {
				errs = append(errs, fmt.Errorf("close vault %s: %w", v.Name, err))
			}
		}
		v.mu.Unlock()
	}
	return errors.Join(errs...)
}
