package blockstore

import (
	"sync"
	"sync/atomic"
)

// Ack tells when what one Put brought is durable. What was new in it is fixed
// when Put returns.
type Ack struct {
	Blocks      int   // blocks that were neither stored nor on their way
	PlainBytes  int64 // their plain bytes
	StoredBytes int64 // the bytes they take

	done chan struct{}
	open atomic.Int32 // flights that are awaited, and one for Put itself
	mu   sync.Mutex
	err  error
}

// Done is closed when the blocks of the Put are durable, or the first failed.
// That can take as long as it takes to fill a table: have as much as two tables
// unacknowledged, or use Flush.
func (a *Ack) Done() <-chan struct{} { return a.done }

// Err says, once Done is closed, why a block was lost: ErrFull, ErrFailed,
// ErrClosed. Nil means that all are durable.
func (a *Ack) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (a *Ack) settle(err error) {
	if a == nil {
		return
	}
	if err != nil {
		a.mu.Lock()
		if a.err == nil {
			a.err = err
		}
		a.mu.Unlock()
	}
	if a.open.Add(-1) == 0 {
		close(a.done)
	}
}
