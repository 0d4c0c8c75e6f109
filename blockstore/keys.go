package blockstore

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// First bytes of the keys in index/. See the package comment.
const (
	digestSpace = 'd'
	stateKey    = "m"
	pointSpace  = 'p'
	recordSpace = 'r'
)

const (
	digestKeyLen = 1 + len(block.Digest{})
	// maxKey and maxValue bound names and records, so that a batch of a few fits
	// a memtable.
	maxKey   = 1 << 10
	maxValue = 1 << 20
	maxDisks = 4096

	pointVersion = 1
	stateVersion = 1
)

// blockKey is a block's key in blocks/.
func blockKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func parseBlockKey(k []byte) (id uint64, err error) {
	if len(k) != 8 {
		return 0, fmt.Errorf("%w: key %x in %s", ErrCorrupt, k, blocksName)
	}
	return binary.BigEndian.Uint64(k), nil
}

func digestKey(dst []byte, d block.Digest) []byte {
	return append(append(dst, digestSpace), d[:]...)
}

func spaceKey(space byte, name string) []byte { return append([]byte{space}, name...) }

// entry is what the index knows of a block.
type entry struct {
	id     uint64 // 0: there is no such block
	stored uint32 // length of its stored form in bytes
	page   bool   // it is a map page, not data
}

func (e entry) append(dst []byte) []byte {
	v := uint64(e.stored) << 1
	if e.page {
		v |= 1
	}
	return binary.AppendUvarint(binary.AppendUvarint(dst, e.id), v)
}

func parseEntry(p []byte) (entry, error) {
	id, n := binary.Uvarint(p)
	if n <= 0 || id == 0 {
		return entry{}, fmt.Errorf("%w: index entry %x", ErrCorrupt, p)
	}
	v, m := binary.Uvarint(p[n:])
	if m <= 0 || n+m != len(p) || v>>1 > math.MaxUint32 {
		return entry{}, fmt.Errorf("%w: index entry %x", ErrCorrupt, p)
	}
	return entry{id: id, stored: uint32(v >> 1), page: v&1 != 0}, nil
}

// state is the one record of the store itself, written in every batch that
// makes blocks known.
type state struct {
	next   uint64 // ids below are taken, or never used again
	blocks uint64 // index entries
	stored uint64 // bytes of their stored forms
	plain  uint64 // bytes of their plain forms
}

func (st state) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	for _, v := range []uint64{st.next, st.blocks, st.stored, st.plain} {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}

func parseState(p []byte) (state, error) {
	r := reader{p: p}
	if v := r.byte(); v != stateVersion {
		return state{}, fmt.Errorf("%w: state record of version %d", ErrCorrupt, v)
	}
	st := state{next: r.uvarint(), blocks: r.uvarint(), stored: r.uvarint(), plain: r.uvarint()}
	if !r.done() {
		return state{}, fmt.Errorf("%w: state record %x", ErrCorrupt, p)
	}
	return st, nil
}

// appendPoint writes a point's record, all but its id, which is the key.
func appendPoint(dst []byte, p Point) []byte {
	dst = append(dst, pointVersion)
	dst = binary.AppendUvarint(dst, uint64(len(p.Disks)))
	for _, d := range p.Disks {
		dst = binary.AppendUvarint(dst, uint64(len(d.Name)))
		dst = append(dst, d.Name...)
		dst = binary.AppendUvarint(dst, uint64(d.Map.Size))
		dst = binary.AppendUvarint(dst, uint64(d.Map.BlockSize))
		dst = append(dst, d.Map.Root[:]...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(p.Meta)))
	return append(dst, p.Meta...)
}

func parsePoint(id string, b []byte) (Point, error) {
	r := reader{p: b}
	if v := r.byte(); v != pointVersion {
		return Point{}, fmt.Errorf("%w: point %s: record of version %d, this program knows %d", ErrCorrupt, id, v, pointVersion)
	}
	p := Point{ID: id}
	n := r.uvarint()
	for range min(n, maxDisks+1) {
		if r.bad {
			break
		}
		p.Disks = append(p.Disks, Disk{
			Name: string(r.bytes(r.uvarint())),
			Map: diskmap.Map{
				Size:      int64(r.uvarint()),
				BlockSize: int(r.uvarint()),
				Root:      r.digest(),
			},
		})
	}
	p.Meta = append([]byte(nil), r.bytes(r.uvarint())...)
	if !r.done() || n > maxDisks {
		return Point{}, fmt.Errorf("%w: point %s: record is malformed", ErrCorrupt, id)
	}
	return p, nil
}

// reader takes a record apart; bad once it was cut short.
type reader struct {
	p   []byte
	bad bool
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.p)) {
		r.p, r.bad = nil, true
		return nil
	}
	b := r.p[:n]
	r.p = r.p[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.p)
	if n <= 0 {
		r.p, r.bad = nil, true
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) digest() (d block.Digest) {
	copy(d[:], r.bytes(uint64(len(d))))
	return d
}

func (r *reader) done() bool { return !r.bad && len(r.p) == 0 }

// checkName refuses ids and keys that no store takes.
func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: %s is empty", ErrInvalid, what)
	case len(name) > maxKey:
		return fmt.Errorf("%w: %s of %d bytes, at most %d allowed", ErrInvalid, what, len(name), maxKey)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: %s %q is not UTF-8", ErrInvalid, what, name)
	}
	return nil
}

// check refuses a point that a store with this block size does not take.
func (p Point) check(blockSize int) error {
	if err := checkName("point id", p.ID); err != nil {
		return err
	}
	if len(p.Meta) > maxValue {
		return fmt.Errorf("%w: point %s: %d bytes of metadata, at most %d allowed", ErrInvalid, p.ID, len(p.Meta), maxValue)
	}
	if len(p.Disks) > maxDisks {
		return fmt.Errorf("%w: point %s: %d disks, at most %d allowed", ErrInvalid, p.ID, len(p.Disks), maxDisks)
	}
	names := map[string]bool{}
	for _, d := range p.Disks {
		if err := checkName("disk name", d.Name); err != nil {
			return fmt.Errorf("point %s: %w", p.ID, err)
		}
		if names[d.Name] {
			return fmt.Errorf("%w: point %s: two disks named %s", ErrInvalid, p.ID, d.Name)
		}
		names[d.Name] = true
		if err := d.Map.Validate(); err != nil {
			return fmt.Errorf("%w: point %s: disk %s: %w", ErrInvalid, p.ID, d.Name, err)
		}
		if d.Map.BlockSize != blockSize {
			return fmt.Errorf("%w: point %s: disk %s has blocks of %d bytes, the vault's are %d", ErrInvalid, p.ID, d.Name, d.Map.BlockSize, blockSize)
		}
	}
	return nil
}
