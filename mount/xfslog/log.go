package xfslog

import (
	"encoding/binary"
	"fmt"
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
	ops    []op
	edits  edits
	cache  cache
	report Report
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
	return list
}

// String is one sentence for a person.
func (r Report) String() string {
	switch {
	case r.Clean:
		return "the log is clean"
	case r.Transactions == 0:
		return strings.TrimSuffix("the log holds no transaction to replay; "+r.Torn, "; ")
	}
	return strings.TrimSuffix(fmt.Sprintf("the log was replayed in memory: %d transactions, %d buffers, %d inodes; %s",
		r.Transactions, r.Buffers, r.Inodes, r.Torn), "; ")
}

// Report says what Load found.
func (l *Log) Report() Report { return l.report }

// Clean: there is nothing to replay, and Overlay gives back its argument.
func (l *Log) Clean() bool { return l.report.Clean }
