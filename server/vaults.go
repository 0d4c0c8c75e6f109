package server

import (
	"sync"
)

// vaults is the registry of vaults, each with its open store.
type vaults struct {
	s      *Server
	mu     sync.Mutex
	byName map[VaultName]*Vault
}

// use gives a vault whose store can be read, and keeps the store open until
// release is called; every call that touches a store does that. Errors:
// VAULT_NOT_FOUND, or the reason why the store is not open (STORE_LOCKED,
// STORE_TOO_NEW, STORE_UNAVAILABLE).
func (vs *vaults) use(n VaultName) (v *Vault, release func(), err error) {
	vs.mu.Lock()
	v = vs.byName[n]
	vs.mu.Unlock()
	if v == nil {
		return nil, nil, errVaultNotFound(n)
	}
	release, err = v.use()
	if err != nil {
		return nil, nil, err
	}
	return v, release, nil
}
