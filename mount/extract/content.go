package extract

import (
	"context"
	"fmt"
	"io"
	"path"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cairn/mount/tree"
)

var buffers = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// unreadable reports the volumes that cannot be read when n is the directory of
// all volumes of a point.
func (j *job) unreadable(n tree.Node, src string) {
	for name, err := range tree.Unreadable(n) {
		j.fail(path.Join(src, name), err)
	}
}

// slot waits until another read may begin, which the returned function ends.
func (j *job) slot(ctx context.Context) (func(), error) {
	select {
	case j.reads <- struct{}{}:
		return func() { <-j.reads }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// read fills p from off.
func read(f tree.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// chunks calls fn with each piece of f, at most chunkSize long, in order.
func chunks(ctx context.Context, f tree.File, fn func(data bool, off, n int64) error) error {
	for off, size := int64(0), f.Size(); off < size; {
		data, n, err := f.Extent(ctx, off)
		if err != nil {
			return fmt.Errorf("extent at %d: %w", off, err)
		}
		if n = min(n, size-off); n <= 0 {
			return fmt.Errorf("extent at %d: empty", off)
		}
		if data {
			// Aligned pieces, so that a block is not fetched for two of them.
			n = min(n, chunkSize-off%chunkSize)
		}
		if err := fn(data, off, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// copyContent writes f into the empty file fd, several pieces at a time, and
// leaves its holes out.
func (j *job) copyContent(path string, f tree.File, fd int) error {
	size := f.Size()
	if err := unix.Ftruncate(fd, size); err != nil {
		return written("set size", err)
	}
	g, ctx := errgroup.WithContext(j.ctx)
	g.SetLimit(j.opts.Parallel)
	err := chunks(ctx, f, func(data bool, off, n int64) error {
		if !data {
			j.count.done.Add(n)
			return ctx.Err()
		}
		g.Go(func() error {
			end, err := j.slot(ctx)
			if err != nil {
				return err
			}
			defer end()
			buf := buffers.Get().(*[chunkSize]byte)
			defer buffers.Put(buf)
			if err := read(f, buf[:n], off); err != nil {
				return err
			}
			if err := pwrite(fd, buf[:n], off); err != nil {
				return written("write", err)
			}
			j.count.bytes.Add(n)
			j.count.done.Add(n)
			j.progress(path, false)
			return nil
		})
		return ctx.Err()
	})
	if werr := g.Wait(); werr != nil {
		return werr // the cause of ctx's end
	}
	return err
}

func pwrite(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if err != nil && err != unix.EINTR {
			return err
		}
		p, off = p[max(n, 0):], off+int64(max(n, 0))
	}
	return nil
}

// stream writes f to w in order, while the pieces behind are being read.
func (j *job) stream(path string, f tree.File, w io.Writer) error {
	ctx, cancel := context.WithCancel(j.ctx)
	type piece struct {
		buf  *[chunkSize]byte // nil for a hole
		n    int64
		done chan error
	}
	// What waits in the channel, together with the piece that is being
	// written, bounds memory.
	pieces := make(chan piece, j.opts.Parallel)
	var listErr error
	var readers sync.WaitGroup
	go func() {
		defer close(pieces)
		listErr = chunks(ctx, f, func(data bool, off, n int64) error {
			p := piece{n: n, done: make(chan error, 1)}
			if data {
				p.buf = buffers.Get().(*[chunkSize]byte)
				readers.Go(func() {
					end, err := j.slot(ctx)
					if err == nil {
						err = read(f, p.buf[:n], off)
						end()
					}
					p.done <- err
				})
			} else {
				p.done <- nil
			}
			select {
			case pieces <- p:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	var err error
	for p := range pieces {
		if err == nil {
			err = <-p.done
		}
		if err == nil {
			err = j.writePiece(w, p.buf, p.n)
		}
		if err != nil {
			cancel() // and drain
		} else {
			j.count.done.Add(p.n)
			j.progress(path, false)
		}
		if p.buf != nil && err == nil {
			buffers.Put(p.buf)
		}
	}
	cancel()
	readers.Wait()
	if err == nil {
		err = listErr
	}
	return err
}

var zeros [64 << 10]byte

func (j *job) writePiece(w io.Writer, buf *[chunkSize]byte, n int64) error {
	if buf != nil {
		_, err := w.Write(buf[:n])
		j.count.bytes.Add(n)
		return written("write", err)
	}
	for n > 0 {
		if err := j.ctx.Err(); err != nil {
			return err
		}
		k, err := w.Write(zeros[:min(n, int64(len(zeros)))])
		if err != nil {
			return written("write", err)
		}
		n -= int64(k)
	}
	return nil
}
