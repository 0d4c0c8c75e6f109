package xfslog

import (
	"cmp"
	"slices"

	"cairn/mount/filesys"
)

// Ranges are the bytes of the volume that Overlay gives in place of those that
// it is laid over, ascending and disjoint: whole buffers and inodes, even where
// the log changes a part of one or nothing.
func (l *Log) Ranges() []filesys.Range {
	var all []filesys.Range
	for i := 0; i < len(l.ops); {
		run := l.run(i)
		all = append(all, filesys.Range{Off: run[0].address(), Len: l.size(&run[0])})
		i += len(run)
	}
	for _, e := range l.edits {
		all = append(all, filesys.Range{Off: e.off, Len: int64(len(e.data))})
	}
	slices.SortFunc(all, func(a, b filesys.Range) int { return cmp.Compare(a.Off, b.Off) })
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && r.Off <= out[n-1].Off+out[n-1].Len {
			out[n-1].Len = max(out[n-1].Len, r.Off+r.Len-out[n-1].Off)
			continue
		}
		out = append(out, r)
	}
	return out
}
