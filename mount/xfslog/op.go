package xfslog

import (
	"cmp"
	"slices"
)

// An op is one piece of a buffer or inode that a committed transaction logged,
// and where in the log it is.
type op struct {
	// block is where the buffer is on the volume, units how long it is, both in
	// sectors of 512 bytes. For what belongs to an inode that is the buffer in
	// which the inode was.
	block uint64
	// log is where the bytes are, from the start of the log, in bytes.
	log uint32
	// seq is the number of the transaction in the order of commits.
	seq uint32
	// start is the sector of the record in which the transaction began, which
	// gives its sequence number.
	start uint32
	// off is where the bytes belong in the buffer; for an inode, where the inode
	// is in it, and sub where the bytes belong in what kind says.
	off   uint32
	sub   uint16
	len   uint16
	units uint16
	kind  kind
	form  uint8
}

// kind is what an op does. Within a transaction, ops are applied in the order of
// their kinds.
type kind uint8

const (
	// kindCancel: the buffer was freed. What was logged of it before, in the
	// same transaction too, is not replayed: it may hold file data since.
	kindCancel kind = iota
	// kindBuffer: bytes of a buffer; form is its type.
	kindBuffer
	// kindCreate: the inode is new; form is unused, log its generation.
	kindCreate
	// kindRaw: bytes of an inode as they stand on disk; sub is their offset.
	kindRaw
	// kindCore: the part of an inode that all have, in the byte order of the
	// machine.
	kindCore
	// kindData and kindAttr: an inode's forks; form says in which form.
	kindData
	kindAttr
	// kindUnlinked: the field that links an inode without names to the next.
	kindUnlinked
	// kindOwner: the blocks of the mapping of a fork belong to another inode
	// now; form is the fork.
	kindOwner
)

// Forms of a fork.
const (
	formCopy   = iota // as on disk
	formRoot          // the root of a B+tree as in the kernel's memory
	formDevice        // a device number, which is in the op's log field
)

func (o *op) isInode() bool { return o.kind >= kindCreate }

// address is where on the volume the buffer or inode begins, in bytes.
func (o *op) address() int64 {
	at := int64(o.block) * sector
	if o.isInode() {
		at += int64(o.off)
	}
	return at
}

// maxOps is how many ops are kept, 20 MiB of them, of which pruning must free an
// eighth. A log of 64 MiB cannot need more (an op stands for 128 bytes at least,
// or 116 of an inode, with its operation's header). Most of what is logged is
// logged again soon, so that larger ones seldom need more either.
const maxOps = 640 << 10

// byBuffer sorts ops by buffer, cancels first, then what is of the buffer, then
// what is of each inode in it; each of these by age.
func byBuffer(a, b op) int {
	if c := cmp.Or(cmp.Compare(a.block, b.block), cmp.Compare(a.units, b.units), cmp.Compare(a.class(), b.class())); c != 0 {
		return c
	}
	if a.isInode() {
		if c := cmp.Compare(a.off, b.off); c != 0 {
			return c
		}
	}
	return byAge(a, b)
}

func (o *op) class() int {
	switch {
	case o.kind == kindCancel:
		return 0
	case o.isInode():
		return 2
	}
	return 1
}

func byAge(a, b op) int {
	return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.kind, b.kind), cmp.Compare(a.off, b.off), cmp.Compare(a.sub, b.sub))
}

// byAddress is the order in which ops are kept when all are known.
func byAddress(a, b op) int { return cmp.Or(cmp.Compare(a.address(), b.address()), byAge(a, b)) }

// prune drops ops that have no effect because of later ones. It leaves ops
// sorted by buffer.
//
// Whether an op is applied at all depends on what is on the volume: nothing is
// that is older than that. So a newer op makes an older one useless only if it
// is applied whenever the older one is, that is, if its sequence number is not
// lower. (Kernels before 5.14 could begin transactions in one order and commit
// them in another.)
func (l *loader) prune(ops []op) []op {
	slices.SortFunc(ops, byBuffer)
	kept := ops[:0]
	for len(ops) > 0 {
		n := runLength(ops, func(a, b *op) bool { return a.block == b.block && a.units == b.units })
		group := ops[:n]
		ops = ops[n:]
		k := runLength(group, func(a, b *op) bool { return b.kind == a.kind })
		var cancelled bool
		var last uint32
		if group[0].kind == kindCancel {
			cancelled, last = true, group[k-1].seq
			group = group[k:]
		}
		for len(group) > 0 {
			n := runLength(group, func(a, b *op) bool {
				return a.isInode() == b.isInode() && (!a.isInode() || a.off == b.off)
			})
			run := group[:n]
			group = group[n:]
			if cancelled {
				i := slices.IndexFunc(run, func(o op) bool { return o.seq > last })
				if i < 0 {
					continue
				}
				run = run[i:]
			}
			if len(run) > 1 && l.ascending(run) {
				if run[0].isInode() {
					run = pruneInode(run)
				} else {
					run = l.pruneBuffer(run)
				}
			}
			// Never in front of what is still to be looked at.
			kept = append(kept, run...)
		}
	}
	return kept
}

// runLength is the number of ops at the start of a list that belong together
// with the first.
func runLength(ops []op, same func(first, o *op) bool) int {
	n := 1
	for n < len(ops) && same(&ops[0], &ops[n]) {
		n++
	}
	return n
}

// ascending: the sequence numbers never fall.
func (l *loader) ascending(run []op) bool {
	for i := 1; i < len(run); i++ {
		if l.lsn(&run[i]) < l.lsn(&run[i-1]) {
			return false
		}
	}
	return true
}

// pruneBuffer drops ops all of whose bytes later ones write.
func (l *loader) pruneBuffer(run []op) []op {
	// One bit for each 4 bytes. Ops that begin or end between count only for
	// the words that they fill.
	words := int(run[0].units) * sector / 4
	if cap(l.covered) < words {
		l.covered = make([]bool, words)
	}
	covered := l.covered[:words]
	clear(covered)
	at := len(run)
	for i := len(run) - 1; i >= 0; i-- {
		o := run[i]
		from, to := int(o.off), int(o.off)+int(o.len)
		if slices.Contains(covered[from/4:(to+3)/4], false) {
			for w := (from + 3) / 4; w < to/4; w++ {
				covered[w] = true
			}
			at--
			run[at] = o
		}
	}
	return run[at:]
}

// pruneInode keeps of an inode's ops those since it was created, and of these
// the newest of each kind, with the core that goes with a fork: that tells where
// the fork is.
func pruneInode(run []op) []op {
	const none = ^uint32(0)
	newest := [kindOwner + 1]uint32{}
	for i := range newest {
		newest[i] = none
	}
	var created uint32
	for _, o := range run {
		newest[o.kind] = o.seq
		if o.kind == kindCreate {
			created = o.seq
		}
	}
	kept := run[:0]
	for _, o := range run {
		keep := o.seq == newest[o.kind] || o.kind == kindRaw || o.kind == kindOwner
		if o.kind == kindCore {
			keep = keep || o.seq == newest[kindData] || o.seq == newest[kindAttr]
		}
		if keep && o.seq >= created {
			kept = append(kept, o)
		}
	}
	return kept
}
