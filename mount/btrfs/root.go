package btrfs

import (
	"errors"
	"fmt"
	"time"

	"cairn/mount/filesys"
)

// rootInfo is what the root tree tells about a tree.
type rootInfo struct {
	used     uint64 // bytes of its nodes
	rootDir  uint64
	readOnly bool
	snapshot bool
	created  time.Time
}

func isNotExist(err error) bool { return errors.Is(err, filesys.ErrNotExist) }

// tree gives one of the trees that the root tree knows, as the log leaves it.
// What was deleted and only waits to be cleaned up is ErrNotExist.
func (v *volume) tree(id uint64) (*tree, error) {
	v.mu.Lock()
	t := v.trees[id]
	v.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t, err := v.loadTree(id)
	if err != nil {
		return nil, wrap(err, "tree %d", id)
	}
	v.mu.Lock()
	if len(v.trees) >= maxTrees {
		clear(v.trees)
	}
	v.trees[id] = t
	v.mu.Unlock()
	return t, nil
}

func (v *volume) loadTree(id uint64) (*tree, error) {
	c, err := v.rootTree.seekLast(key{id, typeRoot, maxOffset})
	if err != nil {
		return nil, err
	}
	if !c.at(id, typeRoot) {
		return nil, filesys.ErrNotExist
	}
	t, refs, err := v.decodeRoot(id, c.data)
	if err != nil {
		return nil, err
	}
	if refs == 0 {
		return nil, fmt.Errorf("it is being deleted: %w", filesys.ErrNotExist)
	}
	t.over = v.logs[id]
	return t, nil
}

// decodeRoot reads a root item, whose later part old kernels do not write.
func (v *volume) decodeRoot(id uint64, b []byte) (t *tree, refs uint32, err error) {
	if len(b) < 239 {
		return nil, 0, corrupt("root item of %d bytes", len(b))
	}
	t = &tree{v: v, id: id, root: ref{le.Uint64(b[176:]), le.Uint64(b[160:]), b[238]}}
	t.info = rootInfo{rootDir: le.Uint64(b[168:]), used: le.Uint64(b[192:]), readOnly: b[208]&1 != 0}
	if t.root.level >= maxLevel {
		return nil, 0, corrupt("a tree of %d levels", t.root.level)
	}
	if len(b) >= 439 && le.Uint64(b[239:]) == t.root.gen {
		t.info.snapshot = [16]byte(b[263:279]) != [16]byte{}
		t.info.created = stamp(b[339:])
	}
	if isFS(id) && t.info.rootDir < firstFreeID {
		return nil, 0, corrupt("root directory %d", t.info.rootDir)
	}
	return t, le.Uint32(b[216:]), nil
}

// link is where a subvolume hangs.
type link struct {
	parent uint64 // tree
	dir    uint64 // inode in it
	name   string
}

// decodeRootRef reads a reference or back reference of a subvolume.
func decodeRootRef(parent uint64, b []byte) (link, error) {
	if len(b) < 18 || len(b) != 18+int(le.Uint16(b[16:])) {
		return link{}, corrupt("reference to a subvolume of %d bytes", len(b))
	}
	return link{parent, le.Uint64(b), string(b[18:])}, nil
}

// links gives the place of a subvolume; the top level has none.
func (v *volume) links(id uint64) (list []link, err error) {
	c, err := v.rootTree.seek(key{id, typeRootBackref, 0})
	for ; err == nil && c.at(id, typeRootBackref) && len(list) < 64; err = c.next() {
		l, err := decodeRootRef(c.k.off, c.data)
		if err != nil {
			return nil, wrap(err, "subvolume %d", id)
		}
		list = append(list, l)
	}
	return list, err
}

// hangs says whether the entry of a directory is where subvolume id hangs. A
// snapshot has the entries of the subvolumes within its original, but only the
// original has these subvolumes.
func (v *volume) hangs(id, parent, dir uint64, name string) (bool, error) {
	b, ok, err := v.rootTree.get(key{parent, typeRootRef, id})
	if err != nil || !ok {
		return false, err
	}
	l, err := decodeRootRef(parent, b)
	if err != nil {
		return false, wrap(err, "subvolume %d", id)
	}
	if l.dir != dir || l.name != name {
		return false, nil
	}
	if _, err := v.tree(id); err != nil {
		if isNotExist(err) {
			return false, nil
		}
		return false, err
	}
	return true, nil
}
