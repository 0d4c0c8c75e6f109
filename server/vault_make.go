package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

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
		vs.s.metrics.ForgetVault(v.Name.String())
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
