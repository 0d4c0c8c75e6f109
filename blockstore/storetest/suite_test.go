package storetest

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"cairn/blockstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLocal(t *testing.T) {
	for name, o := range map[string]blockstore.Options{
		"default":     {},
		"tiny tables": {TableSize: 1 << 10, BlockSize: 16 << 10, FS: vfs.NewMem()},
	} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T) Target {
				s, err := blockstore.Create(filepath.Join(t.TempDir(), "vault"), o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if r, err := s.Verify(context.Background(), nil); err == nil && (r.BadCount > 0 || r.Orphans > 0) {
						t.Errorf("vault is not clean afterwards: %+v", r)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				return Local(s)
			})
		})
	}
}
