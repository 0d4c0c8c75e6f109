package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
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
