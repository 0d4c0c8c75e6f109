package xfslog

import (
	"fmt"
	"io"
	"strings"

	"cairn/mount/filesys"
)

// Log is a log that has been read. It is immutable.
type Log struct {
	g      Geometry
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

// Load reads the log of the file system on volume. A clean log costs some twenty
// reads of a sector; one that is not is read once, from its tail to its head.
//
// Errors wrap filesys.ErrCorrupt, filesys.ErrUnsupported (naming the feature)
// or what volume returned.
func Load(volume io.ReaderAt, g Geometry) (*Log, error) {
	return nil, fmt.Errorf("replay of the log: %w", filesys.ErrUnsupported)
}

// Report says what Load found.
func (l *Log) Report() Report { return l.report }

// Clean: there is nothing to replay, and Overlay gives back its argument.
func (l *Log) Clean() bool { return l.report.Clean }
