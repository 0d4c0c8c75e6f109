package mount

import (
	"bytes"
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

// halfHole is a file whose first half is a hole.
type halfHole struct{ *bytes.Reader }

func (h halfHole) Extent(ctx context.Context, off int64) (data bool, length int64, err error) {
	half := h.Size() / 2
	if off < half {
		return false, half - off, ctx.Err()
	}
	return true, h.Size() - off, ctx.Err()
}

// TestLseekDespiteSignals: a signal that came meanwhile does not fail a search
// that is over at once.
func TestLseekDespiteSignals(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := &file{f: halfHole{bytes.NewReader(make([]byte, 100))}}
	if at, errno := f.Lseek(ctx, 3, unix.SEEK_DATA); at != 50 || errno != 0 {
		t.Errorf("data at %d, %v", at, errno)
	}
	if at, errno := f.Lseek(ctx, 60, unix.SEEK_HOLE); at != 100 || errno != 0 {
		t.Errorf("a hole at %d, %v", at, errno)
	}
}
