package xfslog

import (
	"cmp"
	"io"
	"slices"
)

// edits are blocks and inodes that the kernel changes after the replay, with
// their new content, by address. They do not overlap.
type edits []edit

type edit struct {
	off  int64
	data []byte
}

// maxEdits is how many bytes of them are kept.
const maxEdits = 8 << 20

func (e edits) find(off int64) (int, bool) {
	return slices.BinarySearchFunc(e, off, func(e edit, off int64) int { return cmp.Compare(e.off, off) })
}

// apply lays the edits over p, the bytes at off.
func (e edits) apply(p []byte, off int64) {
	i, _ := e.find(off)
	for i = max(0, i-1); i < len(e) && e[i].off < off+int64(len(p)); i++ {
		at, data := e[i].off-off, e[i].data
		if at < 0 {
			if -at >= int64(len(data)) {
				continue
			}
			data, at = data[-at:], 0
		}
		copy(p[at:], data)
	}
}

// edit gives the n bytes at off of the replayed volume, to be changed in place.
func (l *Log) edit(volume io.ReaderAt, off int64, n int) ([]byte, error) {
	i, found := l.edits.find(off)
	if found && len(l.edits[i].data) == n {
		return l.edits[i].data, nil
	}
	if (len(l.edits)+1)*n > maxEdits {
		return nil, unsupported("the log changes mappings of more than %d bytes", maxEdits)
	}
	data, err := l.replayed(volume, off, n)
	if err != nil {
		return nil, err
	}
	l.edits = slices.Insert(l.edits, i, edit{off, data})
	return data, nil
}

// replayed reads n bytes at off of the replayed volume.
func (l *Log) replayed(volume io.ReaderAt, off int64, n int) ([]byte, error) {
	data := make([]byte, n)
	if got, err := l.Overlay(volume).ReadAt(data, off); got < n {
		if err == io.EOF {
			err = corrupt("byte %d is behind the end of the volume", off)
		}
		return nil, err
	}
	return data, nil
}
