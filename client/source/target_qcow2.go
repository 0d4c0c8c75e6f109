package source

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"

	"cairn/client/source/nbd"
)

// qcow2Writer is the DiskWriter of qcow2 images: QEMU writes, told by NBD.
type qcow2Writer struct {
	*part
	ctx    context.Context
	export *export
}

// CreateQCOW2 is CreateRaw for a qcow2 image. It needs qemu-img and qemu-nbd.
// A size that is no multiple of 512 is rounded up to one, as QEMU does.
func CreateQCOW2(ctx context.Context, path string, size, allocated int64) (_ DiskWriter, err error) {
	// QEMU's own tables: 8 bytes of L2 for each cluster of 64 KiB that is in
	// use, in the worst case a table for every cluster; and 2 bytes of reference
	// count.
	const header = 1 << 20
	p, f, err := newPart(path, size, allocated+allocated/4096+header)
	if err != nil {
		return nil, err
	}
	f.Close()
	w := &qcow2Writer{part: p, ctx: ctx}
	defer func() {
		if err != nil {
			w.Abort()
		}
	}()
	words, err := run(ctx, infoLimit, io.Discard, "qemu-img", "create", "-q", "-f", "qcow2", p.path, strconv.FormatInt(size, 10))
	if err != nil {
		return nil, fmt.Errorf("create %s: %w: %s", path, err, words)
	}
	l := &layer{path: p.path, format: "qcow2"}
	// Syncs on the way would cost time and give nothing: Commit syncs the
	// file when it is whole.
	w.export, err = openExport(ctx, l.filename(true), 1, nbd.Options{}, "--cache=unsafe", "--discard=unmap")
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return w, nil
}

// WriteAt implements io.WriterAt.
func (w *qcow2Writer) WriteAt(b []byte, off int64) (int, error) {
	if err := w.inside(len(b), off); err != nil {
		return 0, err
	}
	n, err := w.export.Write(w.ctx, b, off)
	if err != nil {
		err = w.failed(err)
	}
	return n, err
}

// Commit implements DiskWriter.
func (w *qcow2Writer) Commit(ctx context.Context) error {
	if err := w.committable(ctx); err != nil {
		return err
	}
	if err := w.export.Flush(ctx); err != nil {
		return w.failed(err)
	}
	if err := w.export.finish(ctx); err != nil {
		return w.failed(err)
	}
	f, err := os.OpenFile(w.path, os.O_RDWR, 0)
	if err != nil {
		return w.failed(err)
	}
	defer f.Close()
	if err := w.publish(f); err != nil {
		return err
	}
	w.end()
	return nil
}

// Abort implements DiskWriter.
func (w *qcow2Writer) Abort() error {
	if !w.end() {
		return nil
	}
	if w.export != nil {
		w.export.kill()
	}
	return w.remove()
}
