package extract

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"time"

	"cairn/mount/tree"
)

// Sparse files stand in an archive without their holes, in version 1.0 of GNU's
// form for PAX archives, which GNU tar, bsdtar and Go read ("GNU tar: an
// archiver", section "PAX Format, Version 1.0"): the header's name is another
// one, records hold the real name and size, and the file's data begins with the
// map of what follows:
//
//	number of pieces, then offset and length of each, as decimal lines,
//	padded with zeros to 512 bytes; then the pieces
//
// archive/tar reads that form and does not write it, so the two headers are
// written here.
const (
	tarBlock = 512
	// maxPieces bounds the map of one file. Behind so many pieces everything
	// counts as data.
	maxPieces = 1 << 16
)

// piece is a row of data in a sparse file.
type piece struct{ off, n int64 }

// pieces lists where f has data, in whole blocks of the archive; nil when there
// is nothing else.
func pieces(ctx context.Context, f tree.File) ([]piece, error) {
	list := []piece{}
	size, data := f.Size(), int64(0)
	for off := int64(0); off < size; {
		is, n, err := f.Extent(ctx, off)
		if err != nil {
			return nil, fmt.Errorf("extent at %d: %w", off, err)
		}
		if n = min(n, size-off); n <= 0 {
			return nil, fmt.Errorf("extent at %d: empty", off)
		}
		if len(list) == maxPieces {
			is, n = true, size-off
		}
		if is {
			from, to := off/tarBlock*tarBlock, min((off+n+tarBlock-1)/tarBlock*tarBlock, size)
			if k := len(list); k > 0 && list[k-1].off+list[k-1].n >= from {
				data += to - list[k-1].off - list[k-1].n
				list[k-1].n = to - list[k-1].off
			} else {
				list = append(list, piece{from, to - from})
				data += to - from
			}
		}
		off += n
	}
	if data == size {
		return nil, nil
	}
	return list, nil
}

// sparseMap is what stands before the data. A file that ends with a hole has an
// empty piece at its end, as GNU tar writes it.
func sparseMap(list []piece, size int64) []byte {
	if k := len(list); k == 0 || list[k-1].off+list[k-1].n < size {
		list = append(slices.Clip(list), piece{size, 0})
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", len(list))
	for _, p := range list {
		fmt.Fprintf(&b, "%d\n%d\n", p.off, p.n)
	}
	b.Write(make([]byte, padding(int64(b.Len()))))
	return b.Bytes()
}

func padding(n int64) int64 { return -n & (tarBlock - 1) }

// sparse writes a sparse file: headers, map and data.
func (t *archive) sparse(p string, h *tar.Header, f tree.File, list []piece) error {
	if err := t.w.Flush(); err != nil { // the padding of what came before
		return err
	}
	m := sparseMap(list, h.Size)
	stored := int64(len(m))
	for _, x := range list {
		stored += x.n
	}
	dir, base := path.Split(h.Name)
	records := map[string]string{
		"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": h.Name, "GNU.sparse.realsize": strconv.FormatInt(h.Size, 10),
		"size": strconv.FormatInt(stored, 10), "uid": strconv.Itoa(h.Uid), "gid": strconv.Itoa(h.Gid),
		"mtime": paxTime(h.ModTime), "atime": paxTime(h.AccessTime),
	}
	maps.Copy(records, h.PAXRecords)
	var x bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(records)) {
		x.WriteString(paxRecord(k, records[k]))
	}
	head := tarHeader(path.Join(dir, "PaxHeaders.0", base), 'x', 0o644, 0, 0, int64(x.Len()), h.ModTime)
	head = append(head, x.Bytes()...)
	head = append(head, make([]byte, padding(int64(x.Len())))...)
	head = append(head, tarHeader(path.Join(dir, "GNUSparseFile.0", base), '0', h.Mode, int64(h.Uid), int64(h.Gid), stored, h.ModTime)...)
	if _, err := t.out.Write(append(head, m...)); err != nil {
		return written("write", err)
	}
	done := int64(0)
	for _, x := range list {
		t.count.done.Add(x.off - done) // the hole before it
		if err := t.stream(p, section{f, x.off, x.n}, t.out); err != nil {
			return err
		}
		done = x.off + x.n
	}
	t.count.done.Add(h.Size - done)
	if _, err := t.out.Write(make([]byte, padding(stored))); err != nil {
		return written("write", err)
	}
	return nil
}

// section is a part of a file, all of it data.
type section struct {
	f      tree.File
	off, n int64
}

func (s section) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.n {
		return 0, io.EOF
	}
	if int64(len(p)) > s.n-off {
		p = p[:s.n-off]
		n, err := s.f.ReadAt(p, s.off+off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return s.f.ReadAt(p, s.off+off)
}

func (s section) Size() int64 { return s.n }

func (s section) Extent(_ context.Context, off int64) (bool, int64, error) {
	return true, s.n - off, nil
}

// paxRecord is "length key=value\n", in which the length counts its own digits.
func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	size := n + len(strconv.Itoa(n))
	if n+len(strconv.Itoa(size)) != size {
		size = n + len(strconv.Itoa(size))
	}
	return strconv.Itoa(size) + " " + key + "=" + value + "\n"
}

// paxTime is a time in seconds, with a fraction.
func paxTime(t time.Time) string {
	sec, nsec := t.Unix(), int64(t.Nanosecond())
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	sign := ""
	if sec < 0 { // the fraction counts away from zero as well
		sign, sec, nsec = "-", -(sec + 1), 1e9-nsec
	}
	return fmt.Sprintf("%s%d.%09d", sign, sec, nsec)
}

// tarHeader is a header block of POSIX ustar. What does not fit its fields is in
// the records before it.
func tarHeader(name string, flag byte, mode, uid, gid, size int64, mtime time.Time) []byte {
	b := make([]byte, tarBlock)
	for i := range min(len(name), 100) {
		if b[i] = name[i]; b[i] >= 0x80 {
			b[i] = '_'
		}
	}
	octal := func(at, width int, v int64) {
		s := strconv.FormatInt(v, 8)
		if v < 0 || len(s) >= width {
			s = "0"
		}
		copy(b[at:], fmt.Sprintf("%0*s", width-1, s))
	}
	octal(100, 8, mode)
	octal(108, 8, uid)
	octal(116, 8, gid)
	octal(124, 12, size)
	octal(136, 12, mtime.Unix())
	b[156] = flag
	copy(b[257:], "ustar\x0000")
	octal(329, 8, 0)
	octal(337, 8, 0)
	copy(b[148:], "        ")
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}
