package agent

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// RestoreDisk writes the disk of a map to w, whose bytes are zeros so far:
// blocks of zeros are not written. What r returns is verified already.
// progress, if set, is called with the bytes of each batch written, from
// several goroutines.
func RestoreDisk(ctx context.Context, r diskmap.BlockReader, m diskmap.Map, w io.WriterAt, progress func(bytes int64)) error {
	type entry struct {
		index uint64
		d     block.Digest
	}
	size := max(1, batchBytes/m.BlockSize)
	work := make(chan []entry)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		var batch []entry
		send := func() error {
			if len(batch) == 0 {
				return nil
			}
			select {
			case work <- batch:
				batch = nil
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		err := diskmap.Walk(ctx, r, m, 0, m.Blocks(), func(i uint64, d block.Digest) error {
			batch = append(batch, entry{i, d})
			if len(batch) == size {
				return send()
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read disk map: %w", err)
		}
		return send()
	})
	for range runtime.GOMAXPROCS(0) + 1 {
		g.Go(func() error {
			var buf []byte
			ds := make([]block.Digest, 0, size)
			for batch := range work {
				ds = ds[:0]
				for _, e := range batch {
					ds = append(ds, e.d)
				}
				plain, err := r.ReadBlocks(ctx, ds)
				if err != nil {
					return err
				}
				// Blocks that follow each other on the disk are written at once.
				var total int64
				for i := 0; i < len(batch); {
					first := batch[i].index
					buf = buf[:0]
					for i < len(batch) && batch[i].index == first+uint64(len(buf)/m.BlockSize) {
						if len(plain[i]) != m.BlockSize {
							return fmt.Errorf("block %d has %d bytes, must be %d: %w", batch[i].index, len(plain[i]), m.BlockSize, block.ErrCorrupt)
						}
						buf = append(buf, plain[i]...)
						i++
					}
					off := int64(first) * int64(m.BlockSize)
					n := min(int64(len(buf)), m.Size-off) // the last block is padded
					if _, err := w.WriteAt(buf[:n], off); err != nil {
						return fmt.Errorf("write %d bytes at offset %d: %w", n, off, err)
					}
					total += n
				}
				if progress != nil {
					progress(total)
				}
			}
			return nil
		})
	}
	return g.Wait()
}
