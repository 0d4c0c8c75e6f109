package xfslog

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Log is a log that has been read. It is immutable.
type Log struct {
	g       Geometry
	ring    *ring
	span    span
	order   binary.ByteOrder // of the machine
	records []uint32         // position of each, in their order
	// ops are all that is replayed, by address: what they change does not
	// overlap.
	ops   []op
	edits edits
	// For rebuild: how many blocks of the log's space are edits, which of them
	// are free again, and how many extents have been written.
	spare   int
	spares  []int64
	rebuilt int
	cache   cache
	report  Report
}

// Report says what Load found.
type Report struct {
	// Clean: the log ends with the record of an unmount, or was never written;
	// there is nothing to replay.
	Clean bool
	// Transactions that were committed and not known to be on disk, and the
	// number of different buffers and inodes that they change.
	Transactions, Buffers, Inodes int
	// Torn says for a person that records at the head of the log, or at its
	// tail, were left out because they were being written; empty if none.
	Torn string
	// Unfinished counts, by name, operations that the guest had begun, and whose
	// rest the kernel would do after the replay, that change only the accounts
	// of free and shared space.
	Unfinished map[string]int
	// Mappings is how many changes of the mapping of a file were such a rest and
	// have been made.
	Mappings int
}

// Warnings are sentences for Info.Warnings: none if the log is clean.
func (r Report) Warnings() []string {
	if r.Clean {
		return nil
	}
	list := []string{fmt.Sprintf("The file system was not unmounted: %v.", r)}
	if len(r.Unfinished) > 0 {
		var parts []string
		for name, n := range r.Unfinished {
			parts = append(parts, fmt.Sprintf("%d times %s", n, name))
		}
		slices.Sort(parts)
		list = append(list, fmt.Sprintf("Space that the guest was about to free may count as used (%s).", strings.Join(parts, ", ")))
	}
	return list
}

// String is one sentence for a person.
func (r Report) String() string {
	var s string
	switch {
	case r.Clean:
		return "the log is clean"
	case r.Transactions == 0:
		s = "the log holds no transaction to replay"
	default:
		s = fmt.Sprintf("the log was replayed in memory: %d transactions, %d buffers, %d inodes", r.Transactions, r.Buffers, r.Inodes)
	}
	if r.Mappings > 0 {
		s += fmt.Sprintf(", and %d changes of the mappings of files were finished", r.Mappings)
	}
	if r.Torn != "" {
		s += "; " + r.Torn
	}
	return s
}

// Report says what Load found.
func (l *Log) Report() Report { return l.report }

// Clean: there is nothing to replay, and Overlay gives back its argument.
func (l *Log) Clean() bool { return l.report.Clean }
