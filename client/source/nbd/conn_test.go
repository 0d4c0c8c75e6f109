package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
)

// TestPipelined: replies in the opposite order reach those who asked.
func TestPipelined(t *testing.T) {
	const readers = 16
	var waiting []*fakeRequest
	c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) {
		if waiting = append(waiting, r); len(waiting) < readers {
			return // nothing until all are there: so they must be in flight together
		}
		for _, r := range slices.Backward(waiting) {
			p.chunk(chunkDone, chunkOffsetData, r, r.offset, bytes.Repeat([]byte{byte(r.offset)}, int(r.length)))
		}
	}), Options{})
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			got := make([]byte, 100+i)
			if _, err := c.ReadAt(got, int64(i)); err != nil || len(bytes.Trim(got, string(rune(i)))) != 0 {
				t.Errorf("reader %d: %v, %v", i, err, got)
			}
		})
	}
	wg.Wait()
}

// TestCancel: whatever the server does not do, a cancelled call returns, its
// buffer is left alone, and others go on where that is possible.
func TestCancel(t *testing.T) {
	t.Run("waiting", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) {
			if r.offset == 0 {
				cancel()
				<-release
			}
			p.chunk(chunkDone, chunkOffsetData, r, r.offset, bytes.Repeat([]byte{1}, int(r.length)))
		}), Options{})
		buf := make([]byte, 1000)
		if _, err := c.Read(ctx, buf, 0); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		close(release) // now the reply comes, too late
		if _, err := c.ReadAt(make([]byte, 10), 5); err != nil {
			t.Errorf("the next read: %v", err)
		}
		if len(bytes.Trim(buf, "\x00")) != 0 {
			t.Error("the buffer was written to after the read had returned")
		}
	})
	t.Run("in the middle of data", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) {
			p.put(uint32(magicStructured), uint16(chunkDone), uint16(chunkOffsetData), r.cookie, uint32(8+r.length), r.offset, "half of it")
			cancel()
			p.take(1) // for ever
		}), Options{})
		if _, err := c.Read(ctx, make([]byte, 1000), 0); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("sending", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := connect(t, serve(t, func(p *peer) {
			p.negotiate(fakeExport{size: 1 << 30})
			p.take(28)
			cancel() // and never read the rest
			<-t.Context().Done()
		}), Options{})
		if _, err := c.Write(ctx, make([]byte, 32<<20), 0); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("before", func(t *testing.T) {
		c := connect(t, server(t, fakeExport{}, func(*peer, *fakeRequest) { t.Error("a request") }), Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Read(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
	})
}

// TestHangUp: requests in flight when the connection ends fail, and so do
// those that come later; Close stays quiet.
func TestHangUp(t *testing.T) {
	c := connect(t, serve(t, func(p *peer) {
		p.negotiate(fakeExport{size: fakeSize})
		p.request()
	}), Options{})
	for range 2 {
		if _, err := c.ReadAt(make([]byte, 10), 0); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("error %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestClose(t *testing.T) {
	started := make(chan struct{})
	c := connect(t, server(t, fakeExport{}, func(p *peer, r *fakeRequest) { close(started) }), Options{})
	failed := make(chan error)
	go func() {
		_, err := c.ReadAt(make([]byte, 10), 0)
		failed <- err
	}()
	<-started
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("in flight: %v", err)
	}
	if _, err := c.ReadAt(make([]byte, 10), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("after: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
