package server

import (
	"fmt"
	"slices"
	"strings"

	"cairn/blockstore"
	"cairn/server/catalog"
)

// sweep removes what broken-off creations and deletions of vaults left, at the
// start, before any vault is open. What it does not know it reports and leaves
// alone.
func (vs *vaults) sweep(known map[string]bool) error {
	trash, err := vs.s.cat.Trash()
	if err != nil {
		return fmt.Errorf("read registry of vaults: %w", err)
	}
	for _, uid := range trash {
		if err := vs.removeTrash(uid); err != nil {
			vs.s.log.Warn("directory of a deleted vault is left until the next start", "directory", vs.path(uid), "error", err)
		}
	}
	names, err := vs.s.opts.FS.List(vs.dir)
	if err != nil {
		return fmt.Errorf("read directory of vaults: %w", err)
	}
	for _, name := range names {
		switch {
		case known[name], slices.Contains(trash, name), name == "lost+found":
			continue
		case strings.HasPrefix(name, "new-"), vs.unfinished(name):
			if err := vs.s.opts.FS.RemoveAll(vs.path(name)); err != nil {
				vs.s.log.Warn("remains of a vault that was not finished are left", "directory", vs.path(name), "error", err)
			}
		default:
			vs.s.log.Warn("a directory among the vaults belongs to none of them and is left alone", "directory", vs.path(name))
		}
	}
	return nil
}

// unfinished says whether a directory is a vault that this server made and did
// not come to register: it has our name in it, and nothing else.
func (vs *vaults) unfinished(name string) bool {
	st, err := blockstore.Open(vs.path(name), vs.storeOptions())
	if err != nil {
		return false
	}
	defer st.Close()
	own := owner{}
	b, err := st.Record(ownerRecord)
	if err == nil {
		err = catalog.DecodeJSON(b, &own)
	}
	if err != nil || own.Server != vs.s.id {
		return false
	}
	empty := true
	other := st.Points("", "", func(blockstore.Point) bool { empty = false; return false })
	records := st.Records("", "", func(key string, _ []byte) bool {
		empty = empty && (key == ownerRecord || key == vaultRecord)
		return empty
	})
	return empty && other == nil && records == nil
}
