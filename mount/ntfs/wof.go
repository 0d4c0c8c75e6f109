package ntfs

import (
	"fmt"
	"io"

	"cairn/mount/filesys"
)

// System compression ("CompactOS") keeps a file's content in the stream
// WofCompressedData, leaves a hole of the content's size where the content was,
// and marks the file with a reparse point of the Windows Overlay Filter. The
// stream has the form of a resource in a WIM file: the offsets of all chunks but
// the first, counted from the end of this table (32 bits each, or 64 when the
// content has 4 GiB or more), then the chunks. A chunk that is as long as its
// content is not compressed.
type wof struct {
	packed *stream
	size   int64
	bits   uint // log2 of the content of a chunk
	unpack func(dst, src []byte) error
}

const (
	wofProviderWIM  = 1
	wofProviderFile = 2
	// wofBatch is how much content is unpacked from one read.
	wofBatch = 256 << 10
)

// loadWOF reads what the reparse point tells: versions and names of provider and
// algorithm ([MS-FSCC] section 2.1.2 leaves it to the driver; the structures are
// WOF_EXTERNAL_INFO and FILE_PROVIDER_EXTERNAL_INFO_V1 of the Windows SDK).
func (in *inode) loadWOF() error {
	d := in.reparse.data
	if len(d) < 8 {
		return corrupt("inode %d: overlay of %d bytes", in.num, len(d))
	}
	switch version, provider := le.Uint32(d), le.Uint32(d[4:]); {
	case version != 1:
		in.refused = unsupported("inode %d: overlay filter version %d", in.num, version)
		return nil
	case provider == wofProviderWIM:
		in.refused = unsupported("inode %d: its content is in a WIM file (WIMBoot)", in.num)
		return nil
	case provider != wofProviderFile:
		in.refused = unsupported("inode %d: overlay filter provider %d", in.num, provider)
		return nil
	}
	if len(d) < 16 {
		return corrupt("inode %d: overlay of %d bytes", in.num, len(d))
	}
	if version := le.Uint32(d[8:]); version != 1 {
		in.refused = unsupported("inode %d: system compression version %d", in.num, version)
		return nil
	}
	w := &wof{unpack: xpress}
	switch algorithm := le.Uint32(d[12:]); algorithm {
	case 0:
		w.bits = 12
	case 1:
		w.bits, w.unpack = 15, lzx
	case 2:
		w.bits = 13
	case 3:
		w.bits = 14
	default:
		in.refused = unsupported("inode %d: system compression algorithm %d", in.num, algorithm)
		return nil
	}
	var err error
	if w.packed, err = in.stream(attrData, wofStream); err != nil {
		return err
	}
	if w.packed == nil || in.data == nil || in.data.Size() > 1<<maxVolumeBits {
		in.refused = corrupt("inode %d: system compression without data", in.num)
		return nil
	}
	if in.refused = w.packed.readable(); in.refused == nil {
		w.size = in.data.Size()
		in.wof = w
	}
	return nil
}

func (w *wof) Size() int64 { return w.size }

// chunks is how many chunks there are.
func (w *wof) chunks() int64 { return (w.size + 1<<w.bits - 1) >> w.bits }

// entrySize is the size of an offset in the table.
func (w *wof) entrySize() int64 {
	if w.size > 1<<32-1 {
		return 8
	}
	return 4
}

// offsets gives where in the stream the chunks [first, end) begin, and where the
// last of them ends.
func (w *wof) offsets(first, end int64) ([]int64, error) {
	n, size := w.chunks(), w.entrySize()
	table := (n - 1) * size
	offs := make([]int64, 0, end-first+1)
	from, to := max(first-1, 0), min(end, n-1) // entries in the table
	p := make([]byte, max(0, (to-from)*size))
	if got, err := w.packed.ReadAt(p, from*size); got < len(p) {
		return nil, w.wrap(err, first)
	}
	if first == 0 {
		offs = append(offs, table)
	}
	for ; len(p) > 0; p = p[size:] {
		off := uint64(le.Uint32(p))
		if size == 8 {
			off = le.Uint64(p)
		}
		if off > uint64(w.packed.Size()) {
			return nil, corrupt("inode %d: a chunk at %d of %d", w.packed.base.num, off, w.packed.Size())
		}
		offs = append(offs, table+int64(off))
	}
	if end == n {
		offs = append(offs, w.packed.Size())
	}
	for i, off := range offs[1:] {
		if n := off - offs[i]; n <= 0 || n > w.plain(first+int64(i)) {
			return nil, corrupt("inode %d: chunk %d has %d bytes for %d", w.packed.base.num, first+int64(i), n, w.plain(first+int64(i)))
		}
	}
	return offs, nil
}

// plain is the size of chunk nr's content.
func (w *wof) plain(nr int64) int64 { return min(1<<w.bits, w.size-nr<<w.bits) }

func (w *wof) wrap(err error, chunk int64) error {
	return fmt.Errorf("inode %d: chunk %d: %w", w.packed.base.num, chunk, asCorrupt(err))
}

func (w *wof) key(nr int64) cacheKey {
	return cacheKey{kind: kindUnit, sub: uint32(w.packed.first.id), a: w.packed.where.num, b: uint64(nr)}
}

func (w *wof) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: %w", off, filesys.ErrInvalid)
	}
	if off >= w.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > w.size-off {
		p, end = p[:w.size-off], io.EOF
	}
	done := 0
	for done < len(p) {
		pos := off + int64(done)
		first := pos >> w.bits
		if plain, ok := w.packed.fs.cache.get(w.key(first)).([]byte); ok {
			done += copy(p[done:], plain[pos-first<<w.bits:])
			continue
		}
		last := min((off+int64(len(p))-1)>>w.bits, first+wofBatch>>w.bits-1)
		n, err := w.readChunks(p[done:], pos, first, last+1)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, end
}

// readChunks reads from the chunks [first, end), whose first has byte pos.
func (w *wof) readChunks(p []byte, pos, first, end int64) (done int, err error) {
	offs, err := w.offsets(first, end)
	if err != nil {
		return 0, err
	}
	packed := make([]byte, offs[len(offs)-1]-offs[0])
	if n, err := w.packed.ReadAt(packed, offs[0]); n < len(packed) {
		return 0, w.wrap(err, first)
	}
	for nr := first; nr < end && done < len(p); nr++ {
		src := packed[offs[nr-first]-offs[0] : offs[nr-first+1]-offs[0]]
		size, in := w.plain(nr), pos+int64(done)-nr<<w.bits
		dst := p[done:]
		part := in > 0 || int64(len(dst)) < size
		if part {
			dst = make([]byte, size)
		}
		dst = dst[:size]
		if int64(len(src)) == size {
			copy(dst, src)
		} else if err := w.unpack(dst, src); err != nil {
			return done, w.wrap(err, nr)
		}
		if part {
			w.packed.fs.cache.put(w.key(nr), dst, len(dst))
			done += copy(p[done:], dst[in:])
		} else {
			done += len(dst)
		}
	}
	return done, nil
}

// Extent: all of it is data.
func (w *wof) Extent(off int64) (bool, int64, error) {
	if off < 0 || off >= w.size {
		return false, 0, fmt.Errorf("extent at %d of %d: %w", off, w.size, filesys.ErrInvalid)
	}
	return true, w.size - off, nil
}

// Stored tells where a chunk lies.
func (w *wof) Stored(off int64) (filesys.Range, int64, error) {
	if off < 0 || off >= w.size {
		return filesys.Range{}, 0, fmt.Errorf("extent at %d of %d: %w", off, w.size, filesys.ErrInvalid)
	}
	nr := off >> w.bits
	n := w.plain(nr) - (off - nr<<w.bits)
	offs, err := w.offsets(nr, nr+1)
	if err != nil {
		return filesys.Range{}, 0, err
	}
	at, got, err := w.packed.Stored(offs[0])
	if err != nil {
		return filesys.Range{}, 0, err
	}
	size, plain := offs[1]-offs[0], w.plain(nr)
	switch {
	case at.Len != got || at.Off < 0 || got < size || size < plain && size == n:
		// In several pieces, compressed itself, or as long as plain data.
		at.Off = -1
	case size == plain:
		at = filesys.Range{Off: at.Off + plain - n, Len: n}
	default:
		at.Len = size
	}
	return at, n, nil
}
