package tree

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/mounttest"
)

// keeper is a guest that keeps 20 MiB as soon as it is asked something.
type keeper struct {
	*mounttest.FS
	kept    atomic.Int64
	forgets atomic.Int64
}

func (k *keeper) Kept() int64 { return k.kept.Load() }
func (k *keeper) Forget()     { k.kept.Store(0); k.forgets.Add(1) }
func (k *keeper) Lookup(dir uint64, name string) (uint64, error) {
	k.kept.Store(20 << 20)
	return k.FS.Lookup(dir, name)
}

// TestVolumesKeepLittleTogether: of many volumes those that were used last keep
// what they have read, and a volume that is used again answers as before.
func TestVolumesKeepLittleTogether(t *testing.T) {
	var mu sync.Mutex
	var all []*keeper
	open := func(io.ReaderAt, int64) (filesys.FS, error) {
		k := &keeper{FS: mounttest.NewFS()}
		k.File("/f", "content")
		mu.Lock()
		defer mu.Unlock()
		all = append(all, k)
		return k, nil
	}
	const points = 50
	var refs []Ref
	for i := range points {
		refs = append(refs, Ref{ID: fmt.Sprint(i), Time: mounttest.Epoch.AddDate(0, 0, i)})
	}
	tr := NewItem(Item{
		Name: "web1",
		List: func(context.Context) ([]Ref, error) { return refs, nil },
		Open: func(context.Context, string) (Point, error) { return testPoint(), nil },
	}, Options{OpenFS: open})
	ctx := context.Background()
	for round := range 3 {
		var wg sync.WaitGroup
		for i := range points {
			look := func() {
				name := fmt.Sprintf("/%s/volumes/vda1/f", refs[i].Time.Format(TimeFormat))
				at, err := tr.Resolve(ctx, name, true)
				if err != nil {
					t.Error(err)
					return
				}
				f, err := at.Node.Open(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				b := make([]byte, 7)
				if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF || string(b) != "content" {
					t.Errorf("%s: %q, %v", name, b, err)
				}
			}
			if round == 1 { // side by side
				wg.Go(look)
			} else {
				look()
			}
		}
		wg.Wait()
	}
	kept, forgets := int64(0), int64(0)
	for _, k := range all {
		kept, forgets = kept+k.Kept(), forgets+k.forgets.Load()
	}
	if kept > keepLimit+20<<20 || forgets < points/2 {
		t.Errorf("%d volumes keep %d MiB, and were told to forget %d times", len(all), kept>>20, forgets)
	}
}
