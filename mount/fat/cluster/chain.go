package cluster

import (
	"fmt"
	"slices"
)

// maxMarks bounds the runs that one Chain remembers (12 bytes each).
const maxMarks = 1 << 14

// Chain is where the clusters of one file or directory are.
//
// It remembers runs of neighbouring clusters. When there are more than maxMarks
// of them it keeps only some, as marks from which the table is walked: so
// chosen that from the end of a mark no more than gap clusters lie before the
// next one. As any two marks that follow each other then cover more than gap
// clusters, a gap of 2n/maxMarks suffices for n clusters, however they lie.
type Chain struct {
	t      *Table
	first  uint32
	need   int64 // the clusters that the file ought to have
	n      int64 // the clusters that it has, up to need
	marks  []mark
	gap    int64
	broken error // why there are fewer than need; nil: the chain ends
}

// mark is a run: clusters first … first+n-1 are number index … index+n-1 of the
// chain.
type mark struct{ index, first, n uint32 }

// chainKey: the same chain can be asked for with different needs only by
// entries that contradict each other.
type chainKey struct {
	first uint32
	need  int64
}

// Chain walks the chain that begins with cluster first, as far as it takes to
// know where its first need clusters are and that they are different ones. A
// chain that is shorter than need is not an error yet, one that runs in circles
// is. A longer chain is none: systems allocate ahead of writing.
func (t *Table) Chain(first uint32, need int64) (*Chain, error) {
	k := chainKey{first, need}
	if c, ok := t.chains.Get(k); ok {
		return c, nil
	}
	c := &Chain{t: t, first: first, need: need}
	if err := c.walk(); err != nil {
		return nil, err
	}
	c.marks = append(make([]mark, 0, len(c.marks)), c.marks...) // without what append kept ready
	t.chains.Put(k, c, c.cost())
	return c, nil
}

// cost is about what a chain takes in memory.
func (c *Chain) cost() int { return 12*len(c.marks) + 128 }

// Contiguous is the chain of need clusters from first on, without a look at the
// table.
func (t *Table) Contiguous(first uint32, need int64) (*Chain, error) {
	if !t.Valid(first) || need > int64(t.Clusters-(first-First)) {
		return nil, Corrupt("%d clusters from %d on, of %d", need, first, t.Clusters)
	}
	return &Chain{t: t, first: first, need: need, n: need, marks: []mark{{0, first, uint32(need)}}}, nil
}

// walk fills the chain.
//
// Circles are found by Brent's method: one cluster is remembered and compared
// with each that follows, and replaced by the current one after 1, 2, 4, …
// steps. A circle that the first need clusters run into is so found within
// 3 need steps.
func (c *Chain) walk() error {
	t := c.t
	if !t.Valid(c.first) {
		return Corrupt("chain begins with cluster %d of %d", c.first, t.Clusters)
	}
	w := t.Volume.Window()
	run := mark{0, c.first, 1}
	seen, steps, power := c.first, int64(0), int64(1)
	cur, limit := c.first, 3*c.need+4
	c.n = min(1, c.need)
	for i := int64(1); i <= limit; i++ {
		next, err := t.entry(w, cur)
		if err != nil {
			return fmt.Errorf("chain of cluster %d: %w", c.first, err)
		}
		if !t.Valid(next) {
			if next < t.End && i < c.need {
				c.broken = t.broken(cur, next)
			}
			break
		}
		if next == seen {
			return Corrupt("chain of cluster %d runs in circles by way of cluster %d", c.first, next)
		}
		if steps++; steps == power {
			seen, steps, power = next, 0, 2*power
		}
		if i < c.need {
			c.n = i + 1
			if next == cur+1 {
				run.n++
			} else {
				c.add(run)
				run = mark{uint32(i), next, 1}
			}
		}
		cur = next
	}
	c.add(run)
	return nil
}

// add takes a run behind all others.
func (c *Chain) add(m mark) {
	c.keep(m)
	for len(c.marks) > maxMarks {
		c.gap = max(16, 2*c.gap)
		all := c.marks
		c.marks = c.marks[:0]
		for _, m := range all {
			c.keep(m)
		}
		if len(c.marks) < maxMarks*3/4 {
			break
		}
	}
}

// keep appends a run unless it can be reached from the last one.
func (c *Chain) keep(m mark) {
	if k := len(c.marks); k > 0 && c.gap > 0 {
		last := c.marks[k-1]
		if int64(m.index)+int64(m.n)-int64(last.index)-int64(last.n) <= c.gap {
			return
		}
	}
	c.marks = append(c.marks, m)
}

// Clusters is how many clusters the chain has, up to those that it needs.
func (c *Chain) Clusters() int64 { return c.n }

// Whole says, by nil, that the chain has all the clusters that it needs.
func (c *Chain) Whole() error {
	switch {
	case c.n >= c.need:
		return nil
	case c.broken != nil:
		return Corrupt("chain of cluster %d breaks after %d of %d clusters: %v", c.first, c.n, c.need, c.broken)
	}
	return Corrupt("chain of cluster %d ends after %d of %d clusters", c.first, c.n, c.need)
}

// Ended says, by nil, that the chain ends in order, whatever its length.
func (c *Chain) Ended() error {
	if c.broken != nil {
		return c.Whole()
	}
	return nil
}

// At gives the cluster number index of the chain, and how many from there, up
// to want, lie behind each other on the volume.
func (c *Chain) At(index, want int64) (first uint32, n int64, err error) {
	if index >= c.n || index < 0 {
		if err := c.Whole(); err != nil {
			return 0, 0, err
		}
		return 0, 0, Corrupt("cluster %d of a chain of %d", index, c.n)
	}
	i, found := slices.BinarySearchFunc(c.marks, index, func(m mark, index int64) int { return int(int64(m.index) - index) })
	if !found {
		i--
	}
	m := c.marks[i]
	if at := index - int64(m.index); at < int64(m.n) {
		return m.first + uint32(at), min(want, int64(m.n)-at), nil
	}
	// Not remembered: on from the end of the mark.
	w := c.t.Volume.Window()
	cur := m.first + m.n - 1
	for k := int64(m.index) + int64(m.n) - 1; k < index; k++ {
		if cur, err = c.step(w, cur); err != nil {
			return 0, 0, err
		}
	}
	last := cur
	for n = 1; n < min(want, c.n-index); n++ {
		next, err := c.step(w, last)
		if err != nil {
			return 0, 0, err
		}
		if next != last+1 {
			break
		}
		last = next
	}
	return cur, n, nil
}

func (c *Chain) step(w *Window, cur uint32) (uint32, error) {
	next, err := c.t.entry(w, cur)
	if err == nil && !c.t.Valid(next) {
		err = Corrupt("chain of cluster %d is not what it was", c.first)
	}
	return next, err
}
