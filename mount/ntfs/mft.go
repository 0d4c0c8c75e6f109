package ntfs

import (
	"errors"
	"fmt"

	"cairn/mount/filesys"
)

const (
	// chunkBits is log2 of the bytes of the MFT that are read at once.
	chunkBits = 14
	// maxMFTRuns bounds the memory for the place of the MFT: a quarter of a
	// million pieces take 6 MiB.
	maxMFTRuns = 1 << 18
)

// mft knows where the records lie. Its runs are all in memory: everything else
// is found through them.
type mft struct {
	runs    []run
	records uint64 // that were ever written
}

// read reads the raw bytes of a record, through the cache.
func (m *mft) read(f *FS, p []byte, num uint64) error {
	if num >= m.records {
		return fmt.Errorf("MFT record %d of %d: %w", num, m.records, filesys.ErrNotExist)
	}
	chunk, in := num<<f.b.recordBits>>chunkBits, num<<f.b.recordBits&(1<<chunkBits-1)
	k := cacheKey{kind: kindChunk, a: chunk}
	c, ok := f.cache.get(k).([]byte)
	if !ok {
		c = make([]byte, min(1<<chunkBits, m.records<<f.b.recordBits-chunk<<chunkBits))
		if m.readAt(f, c, chunk<<chunkBits) != nil {
			// While the MFT is being found, or where the volume cannot be read,
			// the record may be there though its neighbours are not.
			if err := m.readAt(f, p, num<<f.b.recordBits); err != nil {
				return fmt.Errorf("MFT record %d: %w", num, err)
			}
			return nil
		}
		f.cache.put(k, c, len(c))
	}
	copy(p, c[in:])
	return nil
}

// readAt reads bytes of the MFT.
func (m *mft) readAt(f *FS, p []byte, off uint64) error {
	for len(p) > 0 {
		r, ok := findRun(m.runs, off>>f.b.clusterBits)
		if !ok || r.lcn == hole {
			return corrupt("the MFT has no cluster %d", off>>f.b.clusterBits)
		}
		in := off & uint64(f.b.clusterSize()-1)
		part := p[:min(uint64(len(p)), r.n<<f.b.clusterBits-in)]
		if err := readFull(f.r, part, r.lcn<<f.b.clusterBits+int64(in)); err != nil {
			return err
		}
		p, off = p[len(part):], off+uint64(len(part))
	}
	return nil
}

// place is where on the volume record num lies, if it lies in one piece.
func (m *mft) place(f *FS, num uint64) (filesys.Range, bool) {
	off := num << f.b.recordBits
	r, ok := findRun(m.runs, off>>f.b.clusterBits)
	in := off & uint64(f.b.clusterSize()-1)
	size := int64(1) << f.b.recordBits
	if !ok || r.lcn == hole || r.n<<f.b.clusterBits-in < uint64(size) {
		return filesys.Range{}, false
	}
	return filesys.Range{Off: r.lcn<<f.b.clusterBits + int64(in), Len: size}, true
}

// findMFT finds all of the MFT from its first record. The MFT may be in so many
// pieces that its own attributes are spread over several of its records: each of
// them must lie in a part that is known already.
func (f *FS) findMFT() error {
	p := make([]byte, 1<<f.b.recordBits)
	err := readFull(f.r, p, int64(f.b.mft<<f.b.clusterBits))
	var rec *record
	if err == nil {
		rec, err = parseRecord(p, 0)
	}
	if err == nil {
		err = f.mapMFT(rec)
	}
	if err == nil || !errors.Is(err, filesys.ErrCorrupt) {
		return err
	}
	copied, mirrorErr := f.mirrorRecord(0)
	if mirrorErr != nil || f.mapMFT(copied) != nil {
		return err
	}
	// What was read by way of the damaged record may be from anywhere.
	f.cache = newCache(cacheBytes)
	f.cache.put(cacheKey{kind: kindRecord}, copied, copied.cost(len(p)))
	return nil
}

func (f *FS) mapMFT(rec *record) error {
	f.mft = mft{}
	a := rec.find(attrData, "")
	if rec.flags&recordInUse == 0 || rec.base != 0 || a == nil || !a.nonresident || a.low != 0 {
		return corrupt("MFT record 0 does not describe the MFT")
	}
	if err := f.growMFT(a); err != nil {
		return err
	}
	f.mft.records = uint64(a.initialized) >> f.b.recordBits
	if l := rec.find(attrList, ""); l != nil {
		entries, err := f.listEntries(rec, l)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.typ != attrData || e.name != "" || e.low == 0 {
				continue
			}
			piece, err := f.mftPiece(rec, e)
			if err != nil {
				return err
			}
			if err := f.growMFT(piece); err != nil {
				return err
			}
		}
	}
	last := f.mft.runs[len(f.mft.runs)-1]
	if f.mft.records == 0 || (last.vcn+last.n)<<f.b.clusterBits < f.mft.records<<f.b.recordBits {
		return corrupt("the MFT has %d records in %d clusters", f.mft.records, last.vcn+last.n)
	}
	// A larger one would map clusters again and again.
	if f.mft.records<<f.b.recordBits > f.b.clusters<<f.b.clusterBits {
		return corrupt("the MFT has %d records on a volume of %d clusters", f.mft.records, f.b.clusters)
	}
	return nil
}

// growMFT adds the runs of one piece, which must begin where the last ended.
func (f *FS) growMFT(a *attr) error {
	end := uint64(0)
	if n := len(f.mft.runs); n > 0 {
		end = f.mft.runs[n-1].vcn + f.mft.runs[n-1].n
	}
	if !a.nonresident || a.low != end {
		return corrupt("a piece of the MFT begins at cluster %d instead of %d", a.low, end)
	}
	runs, err := decodeRuns(a.pairs, a.low, a.next, f.b.clusters)
	switch {
	case err != nil:
		return fmt.Errorf("MFT: %w", err)
	case len(runs) == 0:
		return corrupt("a piece of the MFT is empty")
	case len(f.mft.runs)+len(runs) > maxMFTRuns:
		return unsupported("an MFT in more than %d pieces", maxMFTRuns)
	}
	f.mft.runs = append(f.mft.runs, runs...)
	return nil
}

// mftPiece reads the record with a piece of the MFT's data.
func (f *FS) mftPiece(base *record, e listEntry) (*attr, error) {
	rec, err := f.extension(base, e.ref)
	if err != nil {
		return nil, err
	}
	return rec.piece(e)
}
