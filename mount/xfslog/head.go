package xfslog

import (
	"errors"
	"fmt"

	"cairn/mount/filesys"
)

// span is what of the log has to be replayed.
type span struct {
	clean bool
	// tail is the position of the first record, head that behind the last. When
	// they are equal there is none.
	tail, head uint32
	last       header // the record that ends at head, unless clean
	torn       string // what was left out, for a person
}

// window is how many sectors before the head may be incomplete: all records that
// can be under way at one time.
func (r *ring) window() uint32 { return min(r.size, maxInFlight*maxRecord/sector) }

// find finds the head and the tail.
//
// The number of the cycle stands in the first word of every sector, so the head
// is where the number falls by one, and a binary search finds it. If what
// precedes is the record of an unmount, that is all: it was written when nothing
// else was under way. Otherwise the records that were under way may have reached
// the disk in any order, or in part; then the log ends before the first sector
// that is missing, at the start of the record that it belongs to.
func (r *ring) find() (span, error) {
	head, stop, empty, err := r.searchHead()
	if err != nil || empty {
		return span{clean: empty}, err
	}
	if _, clean, err := r.unmounted(head); clean || err != nil {
		return span{clean: clean}, err
	}
	if head, err = r.firstMissing(head, stop); err != nil {
		return span{}, err
	}
	// A record without its end.
	if h, found, err := r.lastHeader(head, r.window()); err != nil {
		return span{}, err
	} else if !found {
		return span{}, corrupt("log: no record before its head at sector %d", head)
	} else if r.end(&h) != head {
		head = h.at
	}
	last, clean, err := r.unmounted(head)
	if err != nil || clean {
		return span{clean: clean}, err
	}
	s := span{head: head, last: last}
	if err := r.dropTorn(&s); err != nil {
		return s, err
	}
	s.tail = s.last.tail.sector()
	if s.tail >= r.size {
		return s, corrupt("log record at sector %d: tail %v", s.last.at, s.last.tail)
	}
	return s, nil
}

// searchHead gives the position where the cycle falls, that of the start for a
// log whose last sector has just been written. Sectors before it that should
// have been written and were not have the cycle stop, or stop-1 if they are at
// the end of the log and the head is at its start.
func (r *ring) searchHead() (head, stop uint32, empty bool, err error) {
	first, err := r.cycleAt(0)
	if err != nil || first == 0 {
		return 0, 0, true, err
	}
	last, err := r.cycleAt(r.size - 1)
	if err != nil {
		return 0, 0, false, err
	}
	switch {
	case first == last:
		// As if the cycle fell behind the last sector.
		return 0, last, false, nil
	case last == 0 && first == 2:
		// The second round has begun while the end of the first was under way.
		if c, err := r.cycleAt(r.size - r.window()); err != nil || c != 0 {
			return 0, 1, false, err
		}
		fallthrough
	case last == 0 && first != 1:
		return 0, 0, false, corrupt("log: cycle %d at its start and %d at its end", first, last)
	}
	low, high := uint32(0), r.size-1 // cycles: low's is another than last, high's is last
	for high-low > 1 {
		mid := low + (high-low)/2
		c, err := r.cycleAt(mid)
		if err != nil {
			return 0, 0, false, err
		}
		if c == last {
			high = mid
		} else {
			low = mid
		}
	}
	return high, last, false, nil
}

// unmounted says whether the record that ends at head is that of an unmount, and
// gives that record.
func (r *ring) unmounted(head uint32) (header, bool, error) {
	h, found, err := r.lastHeader(head, 2+2*maxRecord/sector)
	if err != nil || !found {
		// What is no header in the middle of a record that is under way says
		// nothing yet.
		return h, false, ioOnly(err)
	}
	if r.end(&h) != head || h.ops != 1 {
		return h, false, nil
	}
	var p [sector]byte
	if err := r.read(p[:], r.add(h.at, h.sectors)); err != nil {
		return h, false, err
	}
	return h, p[opFlags]&opUnmount != 0, nil
}

// ioOnly keeps an error of reading, and drops one of what was read.
func ioOnly(err error) error {
	if errors.Is(err, filesys.ErrCorrupt) {
		return nil
	}
	return err
}

// firstMissing gives the first sector, of those before head that may have been
// under way, which still has what an earlier cycle wrote; head if all are there.
func (r *ring) firstMissing(head, stop uint32) (uint32, error) {
	n := r.window()
	at := r.sub(head, n)
	buf := make([]byte, 64<<10)
	for n > 0 {
		k := min(n, uint32(len(buf)/sector))
		if err := r.read(buf[:k*sector], at); err != nil {
			return 0, err
		}
		for i := range k {
			pos, want := r.add(at, i), stop
			if pos >= head {
				want-- // of the cycle before, at the end of the log
			}
			if cycle(buf[i*sector:]) == want {
				return pos, nil
			}
		}
		at, n = r.add(at, k), n-k
	}
	return head, nil
}

// dropTorn verifies the checksums of the last records and ends the log before
// the first that fails.
func (r *ring) dropTorn(s *span) error {
	tail := s.last.tail.sector()
	if tail >= r.size {
		return corrupt("log record at sector %d: tail %v", s.last.at, s.last.tail)
	}
	within := r.distance(tail, s.head)
	var list []header // newest first
	for at := s.head; len(list) < maxInFlight; {
		left := within - r.distance(at, s.head)
		h, found, err := r.lastHeader(at, min(left, r.window()))
		if err != nil {
			return err
		}
		if !found {
			break
		}
		list = append(list, h)
		at = h.at
	}
	var buf []byte
	for i := len(list) - 1; i >= 0; i-- {
		h := &list[i]
		// A sound header is followed by the next one or the head.
		next := s.head
		if i > 0 {
			next = list[i-1].at
		}
		ok := r.end(h) == next
		if ok {
			var err error
			if _, ok, buf, err = r.body(h, buf, true); err != nil {
				return err
			}
		}
		if ok {
			continue
		}
		s.torn = fmt.Sprintf("%d records at its end, written in part, were left out", i+1)
		var found bool
		var err error
		s.last, found, err = r.lastHeader(h.at, min(r.distance(tail, h.at), r.window()))
		s.head = h.at
		if err == nil && !found {
			err = corrupt("log record at sector %d fails its checksum, and none before it can be the last", h.at)
		}
		return err
	}
	return nil
}
