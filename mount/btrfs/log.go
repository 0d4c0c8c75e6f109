package btrfs

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"cairn/mount/filesys"
)

// maxLog bounds what the items of a replayed log take in memory. A log holds
// what was synced in the seconds between two commits.
const maxLog = 16 << 20

// maxLogItems bounds how many items a log may have, those that change nothing
// included.
const maxLogItems = 1 << 20

// openLog replays the log trees in memory: each subvolume with synced files has
// one, which the tree of log roots names.
func (v *volume) openLog(o filesys.Options) error {
	if v.super.logRoot.bytenr == 0 {
		return nil
	}
	if o.IgnoreLog {
		v.warnings = append(v.warnings, "The log was not replayed: what was synced after the last commit is missing or old.")
		return nil
	}
	err := v.replayLogs()
	if isNotExist(err) { // something that the log takes for granted
		err = corrupt("%v", err)
	}
	if err != nil {
		return wrap(err, "the file system was not unmounted and its log cannot be replayed (--ignore-log opens the last commit)")
	}
	v.warnings = append(v.warnings, "The file system was not unmounted; its log was replayed in memory.")
	return nil
}

func (v *volume) replayLogs() error {
	roots := &tree{v: v, id: logTreeID, root: v.super.logRoot}
	var sums []overItem
	size := 0
	// Linux goes from the last to the first; subvolumes do not touch each other.
	c, err := roots.seek(key{logTreeID, typeRoot, 0})
	for ; err == nil && c.at(logTreeID, typeRoot); err = c.next() {
		id := c.k.off
		log, _, err := v.decodeLogRoot(id, c.data)
		if err != nil {
			return wrap(err, "root of the log of subvolume %d", id)
		}
		t, err := v.tree(id)
		if isNotExist(err) {
			continue // the subvolume was deleted
		}
		if err != nil {
			return err
		}
		if t.over != nil {
			return corrupt("two logs of subvolume %d", id)
		}
		// A tree of its own, which nobody has yet.
		own := *t
		own.over = &overlay{}
		r := &replayer{t: &own, log: log, fixup: map[uint64]bool{}, spent: size}
		if err := r.run(); err != nil {
			return wrap(err, "log of subvolume %d", id)
		}
		if sums, err = r.appendSums(sums); err != nil {
			return wrap(err, "log of subvolume %d", id)
		}
		size = r.size()
		v.logs[id] = own.over
		v.mu.Lock()
		delete(v.trees, id)
		v.mu.Unlock()
	}
	if err != nil {
		return err
	}
	return v.addLogSums(sums)
}

func (v *volume) decodeLogRoot(id uint64, b []byte) (*tree, uint32, error) {
	if !isFS(id) {
		return nil, 0, corrupt("there is no such subvolume")
	}
	return v.decodeRoot(logTreeID, b)
}

// appendSums collects the checksums in a log.
func (r *replayer) appendSums(list []overItem) ([]overItem, error) {
	size := r.t.v.super.sums.size
	c, err := r.log.seek(key{csumObjectID, typeExtentCsum, 0})
	for ; err == nil && c.at(csumObjectID, typeExtentCsum); err = c.next() {
		if len(c.data)%size != 0 || c.k.off%uint64(r.t.v.super.sector) != 0 || c.k.off > 1<<62 {
			return nil, corrupt("checksums %v of %d bytes", c.k, len(c.data))
		}
		list = append(list, overItem{k: c.k, data: bytes.Clone(c.data)})
		if r.spent += len(c.data) + 64; r.size() > maxLog {
			return nil, errLogSize
		}
	}
	return list, err
}

var errLogSize = fmt.Errorf("a log of more than %d bytes or %d items: %w", maxLog, maxLogItems, filesys.ErrUnsupported)

// addLogSums makes a tree of the checksums, none of which overlap any more.
func (v *volume) addLogSums(list []overItem) error {
	if len(list) == 0 {
		return nil
	}
	sector, size := uint64(v.super.sector), uint64(v.super.sums.size)
	slices.SortStableFunc(list, func(a, b overItem) int { return cmp.Compare(a.k.off, b.k.off) })
	over := &overlay{}
	end := uint64(0)
	for _, item := range list {
		stop := item.k.off + uint64(len(item.data))/size*sector
		if stop <= end {
			continue
		}
		if item.k.off < end {
			item.data = item.data[(end-item.k.off)/sector*size:]
			item.k.off = end
		}
		over.set(item)
		end = stop
	}
	// It stands over a tree without any items.
	v.logSums = &tree{v: v, id: csumTreeID, over: over, bare: true}
	return nil
}
