package tree

import (
	"slices"
	"sync"
	"sync/atomic"

	"cairn/mount/filesys"
)

// keepLimit bounds what all volumes of a tree together keep of their metadata, in
// bytes, beside the one that is in use now, which bounds itself.
const keepLimit = 48 << 20

// keeping knows which volumes were used last, and lets the others go: an item
// can have hundreds of points, and people who look for a file walk through all.
type keeping struct {
	last  atomic.Pointer[Volume]
	mu    sync.Mutex
	order []*Volume // the last used in front; only those that keep something
}

// used notes that somebody asks something of the volume's file system.
func (v *Volume) used() {
	k := &v.tree.keeping
	if k.last.Load() == v || k.last.Swap(v) == v {
		return
	}
	if _, ok := v.fs.v.fs.(filesys.Keeper); !ok {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.Index(k.order, v); i >= 0 {
		k.order = slices.Delete(k.order, i, i+1)
	}
	k.order = slices.Insert(k.order, 0, v)
	sum := int64(0)
	for i, o := range k.order {
		fs := o.fs.v.fs.(filesys.Keeper)
		if sum += fs.Kept(); sum > keepLimit && i > 0 {
			fs.Forget()
			sum -= fs.Kept()
			k.order[i] = nil
		}
	}
	k.order = slices.DeleteFunc(k.order, func(o *Volume) bool { return o == nil })
}
