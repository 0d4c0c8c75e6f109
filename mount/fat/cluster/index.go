package cluster

import (
	"cmp"
	"slices"
)

// maxIndex bounds the names in one Index: 8 bytes each.
const maxIndex = 1 << 19

// indexLimit bounds the indexes that one Indexes keeps, in bytes.
const indexLimit = 8 << 20

// Index finds names in a directory that the format keeps unsorted: hashes of
// the names, and the slots where their entries begin.
type Index struct {
	items []indexItem
	full  bool
	// Damage is what was wrong with the directory, if names may be missing.
	Damage error
}

type indexItem struct{ hash, slot uint32 }

// Add takes a name's hash and slot. Slots must come in ascending order.
func (x *Index) Add(hash uint32, slot int64) {
	if len(x.items) == maxIndex || slot >= 1<<32 {
		x.full = true
		return
	}
	x.items = append(x.items, indexItem{hash, uint32(slot)})
}

// Find calls fn with the slots of all names of that hash, ascending, until it
// returns false.
func (x *Index) Find(hash uint32, fn func(slot int64) bool) {
	i, _ := slices.BinarySearchFunc(x.items, hash, func(it indexItem, hash uint32) int { return cmp.Compare(it.hash, hash) })
	for ; i < len(x.items) && x.items[i].hash == hash; i++ {
		if !fn(int64(x.items[i].slot)) {
			return
		}
	}
}

// Indexes keeps the indexes of the directories used last.
type Indexes struct{ cache *Cache[uint64, *Index] }

// NewIndexes makes a set without indexes.
func NewIndexes() *Indexes { return &Indexes{NewCache[uint64, *Index](indexLimit)} }

// Get gives the index of directory dir. If there is none yet, build fills it; an
// error of build that tells of damage becomes part of the index. nil means that
// the directory is too large for one.
func (xs *Indexes) Get(dir uint64, build func(*Index) error) (*Index, error) {
	if x, ok := xs.cache.Get(dir); ok {
		return x, nil
	}
	x := &Index{}
	if err := build(x); Damaged(err) {
		x.Damage = err
	} else if err != nil {
		return nil, err
	}
	if x.full {
		// What is remembered is only that it is of no use.
		xs.cache.Put(dir, nil, 0)
		return nil, nil
	}
	slices.SortStableFunc(x.items, func(a, b indexItem) int { return cmp.Compare(a.hash, b.hash) })
	x.items = append(make([]indexItem, 0, len(x.items)), x.items...) // without what append kept ready
	xs.cache.Put(dir, x, 8*len(x.items))
	return x, nil
}

// Hash is the hash of a name, folded by whoever compares names.
func Hash(name string) uint32 {
	h := uint32(2166136261) // FNV-1a
	for i := 0; i < len(name); i++ {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return h
}
