package xfslog

import (
	"encoding/binary"
	"slices"
)

// Operations: the body of a record is a row of them, each with a header.
const (
	opHeader = 12
	opFlags  = 9 // offset in the header

	opStart     = 0x01
	opCommit    = 0x02
	opContinue  = 0x04 // the rest of the region follows
	opContinued = 0x08 // this is the rest, or a part of it
	opEnd       = 0x10 // this is the end of the rest
	opUnmount   = 0x20

	clientTransaction = 0x69
	clientLog         = 0xAA
)

const (
	transactionMagic  = 0x5452414E
	transactionHeader = 16
	// maxRegions is how many parts an item can have: every second chunk of the
	// largest buffer, and the format.
	maxRegions = 65536/chunk/2 + 1
	// maxFirst is how much of an item's first part is kept, which says what the
	// others are.
	maxFirst = 128
	// maxPending bounds transactions that have not been committed. Kernels have
	// had a handful at a time since 2.6.39, and a few hundred before.
	maxPending = 16 << 10
	// maxPieces bounds the regions of their items, and the pieces that these are
	// in, together.
	maxPieces = 128 << 10
)

// transaction is one that has begun.
type transaction struct {
	start  uint32 // sector of the record
	header []byte
	order  binary.ByteOrder
	item   item
	ops    []op
	acts   []intent
}

// item is one thing that a transaction has changed, while its regions come in.
type item struct {
	// first is the start of the first region, firstLen its length.
	first    []byte
	firstLen int
	// total is how many regions there will be; zero: there is no item.
	total   int
	regions []region // without the first, except for its place in the count
	pieces  []piece
	count   int
}

// region is a part of an item: pieces[from:to] of its item.
type region struct {
	from, to int
	len      int
	peek     [2]byte // how it begins
}

// piece is a part of a region that is in one operation.
type piece struct{ log, len uint32 }

// record takes the operations in the body of a record.
func (l *loader) record(h *header, body []byte) error {
	order, err := h.byteOrder()
	if err != nil {
		return err
	}
	first := uint32(h.at+h.sectors) % l.ring.size
	for at, n := 0, uint32(0); at < len(body) && n < h.ops; n++ {
		p := body[at:]
		if len(p) < opHeader {
			return corrupt("log record at sector %d: operation header of %d bytes", h.at, len(p))
		}
		tid, size, client, flags := be.Uint32(p), be.Uint32(p[4:]), p[8], p[opFlags]
		if client != clientTransaction && client != clientLog || uint64(size) > uint64(len(p)-opHeader) {
			return corrupt("log record at sector %d: operation at byte %d: client %#x, %d bytes", h.at, at, client, size)
		}
		at += opHeader
		where := uint32((uint64(first)*sector + uint64(at)) % (uint64(l.ring.size) * sector))
		if err := l.operation(h, order, tid, flags, p[opHeader:opHeader+size], where); err != nil {
			return err
		}
		at += int(size)
	}
	return nil
}

// operation takes one operation, whose data is at byte where of the log.
func (l *loader) operation(h *header, order binary.ByteOrder, tid uint32, flags byte, data []byte, where uint32) error {
	t := l.pending[tid]
	if t == nil {
		// Without its start in what is replayed, a transaction is on disk
		// already.
		if flags&opStart == 0 {
			return nil
		}
		if len(l.pending) >= maxPending {
			return unsupported("log record at sector %d: more than %d transactions at a time", h.at, maxPending)
		}
		l.pending[tid] = &transaction{start: h.at, order: order}
		if len(data) > 0 {
			return corrupt("log record at sector %d: start of a transaction with %d bytes", h.at, len(data))
		}
		return nil
	}
	flags &^= opEnd
	if flags&opContinued != 0 {
		flags &^= opContinue
	}
	var err error
	switch flags {
	case 0, opContinue:
		err = l.region(t, data, where)
	case opContinued:
		err = l.continuation(t, data, where)
	case opCommit:
		if err = l.finish(t); err == nil {
			err = l.commit(t)
		}
		l.drop(t)
		delete(l.pending, tid)
	case opUnmount:
		l.drop(t)
		delete(l.pending, tid)
	case opStart:
		// The kernel drops what the number stood for before.
		if len(data) > 0 {
			err = corrupt("start of a transaction with %d bytes", len(data))
		}
		l.drop(t)
		l.pending[tid] = &transaction{start: h.at, order: order}
	default:
		err = corrupt("operation with flags %#x", flags)
	}
	return wrap(err, "log record at sector %d, transaction %#x", h.at, tid)
}

// region begins a region: the transaction's header, or of an item.
func (l *loader) region(t *transaction, data []byte, where uint32) error {
	if len(data) == 0 {
		return nil
	}
	if len(t.header) < transactionHeader {
		if len(t.header) > 0 || len(data) > transactionHeader || len(data) >= 4 && t.order.Uint32(data) != transactionMagic {
			return corrupt("no transaction header")
		}
		t.header = append(t.header, data...)
		return nil
	}
	it := &t.item
	if it.total == it.count {
		if err := l.finish(t); err != nil {
			return err
		}
		if len(data) < 4 {
			return corrupt("item of %d bytes", len(data))
		}
		n := int(t.order.Uint16(data[2:]))
		if n == 0 || n > maxRegions {
			return corrupt("item %#x of %d regions", t.order.Uint16(data), n)
		}
		it.total = n
	}
	it.count++
	if it.count > 1 {
		r := region{from: len(it.pieces), to: len(it.pieces)}
		copy(r.peek[:], data)
		it.regions = append(it.regions, r)
		l.pieces++
	}
	return l.extend(it, data, where)
}

// continuation is the rest of the region before it, or a part of the rest.
func (l *loader) continuation(t *transaction, data []byte, where uint32) error {
	if len(t.header) < transactionHeader {
		if len(t.header)+len(data) > transactionHeader {
			return corrupt("transaction header of %d bytes", len(t.header)+len(data))
		}
		if t.header = append(t.header, data...); len(t.header) >= 4 && t.order.Uint32(t.header) != transactionMagic {
			return corrupt("no transaction header")
		}
		return nil
	}
	if t.item.count == 0 {
		// The kernel takes it for a part of the header; an empty region of it
		// comes first then.
		if len(data) == 0 {
			return nil
		}
		return corrupt("continuation of nothing")
	}
	return l.extend(&t.item, data, where)
}

// extend adds data to an item's newest region.
func (l *loader) extend(it *item, data []byte, where uint32) error {
	if it.count == 1 {
		it.first = append(it.first, data[:min(len(data), maxFirst-len(it.first))]...)
		it.firstLen += len(data)
		return nil
	}
	if len(data) == 0 {
		return nil
	}
	if l.pieces++; l.pieces > maxPieces {
		return unsupported("more than %d pieces of items at a time", maxPieces)
	}
	it.pieces = append(it.pieces, piece{where, uint32(len(data))})
	r := &it.regions[len(it.regions)-1]
	r.to, r.len = len(it.pieces), r.len+len(data)
	return nil
}

// clear forgets an item, and keeps little room for the next.
func (l *loader) clear(it *item) {
	l.pieces -= len(it.regions) + len(it.pieces)
	if cap(it.regions)+cap(it.pieces) > 32 {
		it.regions, it.pieces = nil, nil
	}
	*it = item{first: it.first[:0], regions: it.regions[:0], pieces: it.pieces[:0]}
}

// drop takes back what a transaction counts for.
func (l *loader) drop(t *transaction) {
	l.pendingOps -= len(t.ops)
	l.acts -= len(t.acts)
	t.ops, t.acts = nil, nil
	l.clear(&t.item)
}

// finish takes the item that is complete, if there is one.
func (l *loader) finish(t *transaction) error {
	it := &t.item
	if it.total == 0 {
		return nil
	}
	if it.count != it.total {
		return corrupt("item %#x has %d of %d regions", t.order.Uint16(it.first), it.count, it.total)
	}
	before := len(t.ops)
	err := l.item(t, it)
	l.clear(it)
	l.pendingOps += len(t.ops) - before
	if err == nil && l.pendingOps+len(l.ops) > maxOps {
		err = l.makeRoom()
	}
	return err
}

// makeRoom prunes what is committed.
func (l *loader) makeRoom() error {
	l.ops = l.prune(l.ops)
	if most := maxOps / 8 * 7; l.pendingOps+len(l.ops) > most {
		return unsupported("more than %d changed pieces of metadata in the log", most)
	}
	return nil
}

// commit makes a transaction's ops count.
func (l *loader) commit(t *transaction) error {
	l.seq++
	for i := range t.ops {
		t.ops[i].seq = l.seq
	}
	switch n := len(l.ops) + len(t.ops); {
	case len(l.ops) == 0:
		l.ops, t.ops, l.pendingOps = t.ops, nil, l.pendingOps-n // often the only large one
	case n > cap(l.ops) && n > maxOps/4:
		// Once more, and not by doubling.
		l.ops = slices.Grow(l.ops, maxOps+64-len(l.ops))
	}
	l.ops = append(l.ops, t.ops...)
	l.report.Transactions++
	return l.intents(t)
}
