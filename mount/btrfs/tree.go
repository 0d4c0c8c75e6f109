package btrfs

// tree is one of the file system's trees: items sorted by key.
type tree struct {
	v    *volume
	id   uint64
	root ref
	// over holds the items that the log tree would change, nil without any.
	over *overlay
	info rootInfo
	// bare: there are no items but those of the log.
	bare bool
}

// isFS says whether a tree holds files: the top level or a subvolume.
func isFS(id uint64) bool { return id == topLevelID || id >= firstFreeID && id <= lastFreeID }

// load reads a node of the tree and checks that it may be one of it. Trees of
// files share nodes with the snapshots that were made of them.
func (t *tree) load(r ref) (*node, error) {
	n, err := t.v.node(r)
	if err != nil {
		return nil, wrap(err, "tree %d", t.id)
	}
	if n.owner != t.id && !(isFS(t.id) && isFS(n.owner)) {
		return nil, corrupt("tree %d: node %d belongs to tree %d", t.id, r.bytenr, n.owner)
	}
	return n, nil
}

// walker stands at an item of a tree as it is on the devices, without the log.
type walker struct {
	t     *tree
	nodes [maxLevel]*node // from the leaf (0) up to the root
	slots [maxLevel]int
	valid bool // it stands at an item
}

// seek goes to the first item whose key is not below k.
func (w *walker) seek(t *tree, k key) error {
	*w = walker{t: t}
	if t.bare {
		return nil
	}
	n, err := t.load(t.root)
	for err == nil {
		level := n.ref.level
		i := n.search(k)
		if level > 0 && (i == n.n || n.key(i) != k) {
			i = max(i-1, 0)
		}
		w.nodes[level], w.slots[level] = n, i
		if level == 0 {
			if w.valid = i < n.n; !w.valid {
				return w.up()
			}
			return nil
		}
		n, err = w.child(int(level))
	}
	return err
}

// child loads the node below the slot of a level, whose keys must be those that
// the slot and the next one promise.
func (w *walker) child(level int) (*node, error) {
	parent, i := w.nodes[level], w.slots[level]
	n, err := w.t.load(parent.child(i))
	if err != nil {
		return nil, err
	}
	if n.n == 0 || n.key(0) != parent.key(i) || i+1 < parent.n && n.key(n.n-1).cmp(parent.key(i+1)) >= 0 {
		return nil, corrupt("tree %d: the keys of node %d are not those that its parent promises", w.t.id, n.ref.bytenr)
	}
	return n, nil
}

// up leaves a leaf that has no more items for the next one.
func (w *walker) up() error {
	w.valid = false
	top := int(w.t.root.level)
	level := 1
	for ; ; level++ {
		if level > top {
			return nil
		}
		if w.slots[level]+1 < w.nodes[level].n {
			break
		}
	}
	w.slots[level]++
	for ; level > 0; level-- {
		n, err := w.child(level)
		if err != nil {
			return err
		}
		w.nodes[level-1], w.slots[level-1] = n, 0
	}
	w.valid = true
	return nil
}

func (w *walker) next() error {
	if w.slots[0]++; w.slots[0] < w.nodes[0].n {
		return nil
	}
	return w.up()
}

// prev goes one item back, and gives false where there is none.
func (w *walker) prev() (bool, error) {
	if w.slots[0] > 0 {
		w.slots[0]--
		w.valid = true
		return true, nil
	}
	top := int(w.t.root.level)
	level := 1
	for ; ; level++ {
		if level > top {
			return false, nil
		}
		if w.slots[level] > 0 {
			break
		}
	}
	w.slots[level]--
	for ; level > 0; level-- {
		n, err := w.child(level)
		if err != nil {
			return false, err
		}
		w.nodes[level-1], w.slots[level-1] = n, n.n-1
	}
	w.valid = true
	return true, nil
}

func (w *walker) key() key { return w.nodes[0].key(w.slots[0]) }

// cursor walks a tree as it would be after the replay of the log.
type cursor struct {
	w    walker
	over overIter
	k    key
	data []byte
	ok   bool // it stands at an item
	log  bool // which comes from the log
}

// seek gives a cursor at the first item whose key is not below k.
func (t *tree) seek(k key) (*cursor, error) {
	c := &cursor{}
	if err := c.w.seek(t, k); err != nil {
		return nil, err
	}
	c.over = t.over.seek(k)
	return c, c.settle()
}

// settle takes whichever of the two sources is first.
func (c *cursor) settle() error {
	for {
		item := c.over.item()
		if c.ok = c.w.valid; c.ok {
			c.k = c.w.key()
		}
		if item == nil || c.ok && c.k.cmp(item.k) < 0 {
			c.log = false
			if c.ok {
				c.data = c.w.nodes[0].item(c.w.slots[0])
			}
			return nil
		}
		if c.ok && c.k == item.k { // hidden by the log's
			if err := c.w.next(); err != nil {
				return err
			}
		}
		if !item.deleted {
			c.ok, c.log, c.k, c.data = true, true, item.k, item.data
			return nil
		}
		c.over.next()
	}
}

func (c *cursor) next() error {
	if c.log {
		c.over.next()
	} else if err := c.w.next(); err != nil {
		return err
	}
	return c.settle()
}

// at says whether the cursor is at an item of an object and type.
func (c *cursor) at(obj uint64, typ uint8) bool { return c.ok && c.k.obj == obj && c.k.typ == typ }

// place is the logical address of the item's data, 0 if it comes from the log.
func (c *cursor) place() uint64 {
	if c.log {
		return 0
	}
	off, _ := c.w.nodes[0].itemRange(c.w.slots[0])
	return c.w.nodes[0].ref.bytenr + uint64(off)
}

// seekLast gives a cursor at the last item of k's object and type whose offset
// is not above k's, or else at whatever follows.
func (t *tree) seekLast(k key) (*cursor, error) {
	if t.over == nil {
		return t.seekLastStored(k)
	}
	from := k
	for {
		c, err := t.seek(from)
		if err != nil || c.ok && c.k == from {
			return c, err
		}
		// Nothing stands exactly there: take the larger of what precedes it in
		// the tree and in the log. A deleted item means to look further back.
		best, found := key{}, false
		var w walker
		if err := w.seek(t, from); err != nil {
			return nil, err
		}
		ok := false
		if w.nodes[0] != nil {
			if ok, err = w.prev(); err != nil {
				return nil, err
			}
		}
		if ok {
			best, found = w.key(), true
		}
		if item := t.over.before(from); item != nil && (!found || item.k.cmp(best) >= 0) {
			best, found = item.k, true
		}
		if !found || best.obj != k.obj || best.typ != k.typ {
			return c, nil
		}
		from = best
	}
}

// seekLastStored is seekLast where there is no log.
func (t *tree) seekLastStored(k key) (*cursor, error) {
	c := &cursor{}
	if err := c.w.seek(t, k); err != nil {
		return nil, err
	}
	if !c.w.valid || c.w.key() != k {
		wasValid := c.w.valid
		back, err := c.w.prev()
		if err != nil {
			return nil, err
		}
		if back {
			if found := c.w.key(); found.obj != k.obj || found.typ != k.typ {
				if err := c.w.next(); err != nil {
					return nil, err
				}
			}
		} else {
			c.w.valid = wasValid
		}
	}
	return c, c.settle()
}

// get gives the data of one item, and whether it is there.
func (t *tree) get(k key) ([]byte, bool, error) {
	c, err := t.seek(k)
	if err != nil || !c.ok || c.k != k {
		return nil, false, err
	}
	return c.data, true, nil
}
