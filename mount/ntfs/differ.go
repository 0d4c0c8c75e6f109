package ntfs

import (
	"sort"

	"cairn/mount/filesys"
)

// ChangedInodes goes through the MFT once, record by record, and calls fn with
// the inodes
//
//   - whose records, of either state, lie in what changed,
//   - of which any other attribute than the content lies there: index blocks,
//     named streams, attribute lists,
//   - that are symbolic links of Windows or junctions, whose targets are shown in
//     a way that depends on other directories.
//
// Where a record is the same in both, the place of its attributes is as well.
func (f *FS) ChangedInodes(other filesys.FS, changed []filesys.Range, fn func(ino uint64) bool) error {
	o, ok := other.(*FS)
	if !ok {
		return unsupported("comparison of NTFS with another file system")
	}
	if o.b.serial != f.b.serial || o.b.clusterBits != f.b.clusterBits || o.b.recordBits != f.b.recordBits || o.b.mft != f.b.mft {
		return unsupported("comparison with a volume that was formatted anew")
	}
	more, err := f.visitChanged(o, changed, fn)
	if more && err == nil {
		_, err = o.visitChanged(f, changed, fn)
	}
	return err
}

// visitChanged calls fn for the inodes of one state, and tells whether it wants
// more.
func (f *FS) visitChanged(o *FS, changed []filesys.Range, fn func(uint64) bool) (more bool, err error) {
	buf := make([]byte, 1<<chunkBits)
	per := uint64(len(buf)) >> f.b.recordBits
	for first := uint64(0); first < f.mft.records; first += per {
		n := min(per, f.mft.records-first)
		p := buf[:n<<f.b.recordBits]
		if err := f.mft.readAt(f, p, first<<f.b.recordBits); err != nil {
			return false, err
		}
		for i := range n {
			num := first + i
			raw := p[i<<f.b.recordBits : (i+1)<<f.b.recordBits]
			rec, err := parseRecord(raw, num)
			if err != nil {
				if string(raw[:4]) == "FILE" && le.Uint16(raw[0x16:])&recordInUse == 0 {
					continue // the reserved ones have no number of their own
				}
				// What cannot be read may be anything. Records that were
				// never used are not even records.
				rec = &record{num: num, flags: recordInUse}
			}
			if rec.flags&recordInUse == 0 {
				continue
			}
			if err == nil && !f.mayDiffer(o, rec, changed) {
				continue
			}
			ino := num
			if rec.base != 0 {
				ino = refNum(rec.base)
			}
			if ino < firstUser && ino != inoRoot || rec.inExtend() {
				continue // no directory lists it
			}
			if ino != inoMFT && !fn(ino) || !f.visitParents(o, rec, fn) {
				return false, nil
			}
		}
	}
	return true, nil
}

// visitParents calls fn for the directories that name a record which is another
// file's in the other state, or a file of another kind: what they say of it is
// something else then, even if they are the same.
func (f *FS) visitParents(o *FS, rec *record, fn func(uint64) bool) (more bool) {
	was, err := o.record(rec.num)
	const kinds = fileReparse | fileSystem
	if err == nil && was.flags == rec.flags && was.seq == rec.seq && was.base == rec.base &&
		was.fileAttrs()&kinds == rec.fileAttrs()&kinds {
		return true
	}
	for i := range rec.attrs {
		if a := &rec.attrs[i]; a.typ == attrFileName && !a.nonresident {
			if n, err := parseFileName(a.value); err == nil && refNum(n.parent) != inoMFT && !fn(refNum(n.parent)) {
				return false
			}
		}
	}
	return true
}

// mayDiffer says whether anything that a record decides, but for the content,
// may have changed.
func (f *FS) mayDiffer(o *FS, rec *record, changed []filesys.Range) bool {
	at, ok := f.mft.place(f, rec.num)
	was, _ := o.mft.place(o, rec.num)
	if !ok || at != was || touches(changed, at.Off, at.Len) || rec.num < mirrored {
		return true
	}
	for i := range rec.attrs {
		a := &rec.attrs[i]
		if a.typ == attrReparse {
			return true
		}
		if !a.nonresident || a.typ == attrData && a.name == "" {
			continue
		}
		runs, err := decodeRuns(a.pairs, a.low, a.next, f.b.clusters)
		if err != nil {
			return true
		}
		for _, r := range runs {
			if r.lcn != hole && touches(changed, r.lcn<<f.b.clusterBits, int64(r.n<<f.b.clusterBits)) {
				return true
			}
		}
	}
	// Small system files may be special files, by what is in them.
	return rec.fileAttrs()&fileSystem != 0
}

// touches says whether any of the ranges, which are ascending and disjoint, has a
// byte of [off, off+n).
func touches(ranges []filesys.Range, off, n int64) bool {
	i := sort.Search(len(ranges), func(i int) bool { return ranges[i].Off+ranges[i].Len > off })
	return i < len(ranges) && ranges[i].Off < off+n
}

// inExtend says whether a record is one of the file system's own files that lie
// in $Extend, which no directory lists.
func (rec *record) inExtend() bool {
	for i := range rec.attrs {
		if a := &rec.attrs[i]; a.typ == attrFileName && !a.nonresident {
			if n, err := parseFileName(a.value); err == nil && refNum(n.parent) == inoExtend {
				return true
			}
		}
	}
	return false
}
