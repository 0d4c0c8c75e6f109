package xfslog

import (
	"cmp"
	"fmt"
	"io"
	"slices"
)

// loader collects what the log holds.
type loader struct {
	g       *Geometry
	ring    *ring
	span    span
	records []uint32 // where each starts, in their order
	pending map[uint32]*transaction
	// pendingOps is how many ops those have.
	pendingOps int
	acts       int  // intents and done items that those have
	pieces     int  // of the items that are not complete yet
	created    int  // chunks of new inodes so far
	ops        []op // of committed transactions
	seq        uint32
	open       map[intentKey]intent // begun and not finished
	covered    []bool               // for pruneBuffer
	report     Report
}

// lsn is the sequence number of a transaction that began in the record at sector
// start: those behind the last record were written in the cycle before it.
func (s *span) lsn(start uint32) lsn {
	c := s.last.cycleNumber()
	if start > s.last.at {
		if c--; c == recordMagic {
			c--
		}
	}
	return lsn(c)<<32 | lsn(start)
}

func (h *header) cycleNumber() uint32 { return h.lsn.cycle() }

func (l *loader) lsn(o *op) lsn { return l.span.lsn(o.start) }

// Load reads the log of the file system on volume. A clean log costs some twenty
// reads of a sector; one that is not is read once, from its tail to its head.
//
// Errors wrap filesys.ErrCorrupt, filesys.ErrUnsupported (naming the feature)
// or what volume returned.
func Load(volume io.ReaderAt, g Geometry) (*Log, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	l := &loader{g: &g, report: Report{Unfinished: map[string]int{}}}
	var err error
	if l.ring, err = newRing(volume, &g); err != nil {
		return nil, err
	}
	if l.span, err = l.ring.find(); err != nil {
		return nil, err
	}
	l.report.Torn = l.span.torn
	if l.span.clean {
		return &Log{g: g, report: Report{Clean: true}}, nil
	}
	if err := l.scan(); err != nil {
		return nil, err
	}
	return l.log(volume)
}

// reset forgets what has been read.
func (l *loader) reset() {
	l.records, l.ops, l.seq = l.records[:0], l.ops[:0], 0
	l.pendingOps, l.acts, l.pieces, l.created = 0, 0, 0, 0
	l.pending, l.open = map[uint32]*transaction{}, map[intentKey]intent{}
	l.report.Transactions = 0
}

// scan reads the log from its tail to its head.
//
// Records at the tail may be damaged by the ones under way at the head, which
// the kernel writes over the tail as soon as that has moved on: then the log
// begins behind them.
func (l *loader) scan() error {
	l.reset()
	r, s := l.ring, &l.span
	var buf []byte
	for at := s.tail; at != s.head; {
		h, err := r.headerAt(at)
		if err == nil {
			err = l.checkHeader(&h)
		}
		var body []byte
		if err == nil {
			var ok bool
			if body, ok, buf, err = r.body(&h, buf, true); err == nil && !ok {
				err = corrupt("log record at sector %d fails its checksum", at)
			}
		}
		if err != nil {
			if ioOnly(err) != nil || r.distance(s.head, at) > maxInFlight*s.last.buffer/sector {
				return err
			}
			next, found, err2 := r.nextHeader(r.add(at, 1), r.distance(at, s.head)-1)
			if err2 != nil {
				return err2
			}
			if !found {
				return err
			}
			if s.torn == "" {
				s.torn = "records at its start that others had been written over in part were left out"
				l.report.Torn = s.torn
			}
			at = next
			l.reset()
			continue
		}
		l.records = append(l.records, at)
		if err := l.record(&h, body); err != nil {
			return err
		}
		at = r.end(&h)
	}
	return nil
}

// checkHeader refuses a record that is not what must stand there.
func (l *loader) checkHeader(h *header) error {
	r, s := l.ring, &l.span
	switch {
	case h.format != s.last.format:
		return corrupt("log record at sector %d is of another machine than the last", h.at)
	case h.uuid != l.g.UUID:
		return corrupt("log record at sector %d is of the file system %x", h.at, h.uuid)
	case h.sectors+h.bodySectors() > r.distance(h.at, s.head):
		return corrupt("log record at sector %d reaches behind the head at %d", h.at, s.head)
	case h.lsn != s.lsn(h.at):
		return corrupt("log record at sector %d is numbered %v, not %v", h.at, h.lsn, s.lsn(h.at))
	case h.len > h.sectors*cycleSectors*sector:
		return corrupt("log record at sector %d: %d bytes with %d headers", h.at, h.len, h.sectors)
	}
	return nil
}

// log makes what was collected ready to be read.
func (l *loader) log(volume io.ReaderAt) (*Log, error) {
	ops := l.prune(l.ops)
	slices.SortFunc(ops, byAddress)
	log := &Log{g: *l.g, ring: l.ring, span: l.span, records: slices.Clip(l.records), ops: ops, report: l.report}
	var err error
	if log.order, err = l.span.last.byteOrder(); err != nil {
		return nil, err
	}
	end := int64(0)
	for i := 0; i < len(ops); {
		run := log.run(i)
		o := &run[0]
		if o.address() < end {
			return nil, corrupt("log: buffers that overlap at sector %d", o.block)
		}
		for j := range run {
			if run[j].isInode() != o.isInode() || !o.isInode() && run[j].units != o.units {
				return nil, corrupt("log: two buffers at sector %d", o.block)
			}
		}
		end = o.address() + log.size(o)
		if o.isInode() {
			log.report.Inodes++
		} else {
			log.report.Buffers++
		}
		i += len(run)
	}
	if err := log.changeOwners(volume); err != nil {
		return nil, err
	}
	if err := log.finishIntents(volume, l.open); err != nil {
		return nil, err
	}
	return log, nil
}

// run is the ops for the buffer or inode of which the first is at i.
func (l *Log) run(i int) []op {
	at := l.ops[i].address()
	n := 1
	for i+n < len(l.ops) && l.ops[i+n].address() == at {
		n++
	}
	return l.ops[i : i+n]
}

// size of the buffer or inode that an op belongs to, in bytes.
func (l *Log) size(o *op) int64 {
	if o.isInode() {
		return int64(l.g.InodeSize)
	}
	return int64(o.units) * sector
}

// find gives the first op whose address is at least at.
func (l *Log) find(at int64) int {
	i, _ := slices.BinarySearchFunc(l.ops, at, func(o op, at int64) int { return cmp.Compare(o.address(), at) })
	return i
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
