package mounttest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DiffOptions says what Diff is to overlook. The zero value compares
// everything that the kernel shows, but for inode and device numbers, of which
// only the grouping of hard links has to agree.
type DiffOptions struct {
	Atime bool
	Ctime bool // and birth time: what no program can set
	// Blocks overlooks st_blocks, Holes where data begins and ends, Dirs the
	// size and link count of directories: all three belong to the file system.
	Blocks, Holes, Dirs bool
	Owners, Xattrs      bool
	// Skip leaves out what has this name, at any depth.
	Skip []string
}

// DiffResult is what Diff found.
type DiffResult struct {
	Entries     int   // names that were compared
	Bytes       int64 // bytes of content that were compared
	Differences []string
}

const maxDifferences = 50

// Diff walks two directories and compares every name, type, mode, owner, time,
// size, link, target, device, attribute, hole and byte. An error means that
// want could not be read or that there were too many differences to go on; what
// cannot be read in got is a difference.
func Diff(want, got string, opts DiffOptions) (DiffResult, error) {
	d := differ{opts: opts, wantInos: map[inode]inode{}, gotInos: map[inode]inode{}, wb: make([]byte, 1<<20), gb: make([]byte, 1<<20)}
	err := d.entry(want, got, ".")
	return d.res, err
}

type differ struct {
	opts              DiffOptions
	res               DiffResult
	wantInos, gotInos map[inode]inode // hard links: want → got and back
	wb, gb            []byte
}

// inode tells files apart: btrfs gives the same number in each subvolume, with
// another device.
type inode struct {
	major, minor uint32
	number       uint64
}

func inodeOf(s *unix.Statx_t) inode { return inode{s.Dev_major, s.Dev_minor, s.Ino} }

var errTooMany = fmt.Errorf("more than %d differences", maxDifferences)

func (d *differ) differ(rel, format string, args ...any) error {
	if len(d.res.Differences) == maxDifferences {
		return errTooMany
	}
	d.res.Differences = append(d.res.Differences, fmt.Sprintf("%q: %s", rel, fmt.Sprintf(format, args...)))
	return nil
}

func (d *differ) entry(want, got, rel string) error {
	d.res.Entries++
	var w, g unix.Statx_t
	const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME
	if err := unix.Statx(unix.AT_FDCWD, want, unix.AT_SYMLINK_NOFOLLOW, mask, &w); err != nil {
		return fmt.Errorf("statx %s: %w", want, err)
	}
	if err := unix.Statx(unix.AT_FDCWD, got, unix.AT_SYMLINK_NOFOLLOW, mask, &g); err != nil {
		return d.differ(rel, "statx: %v", err)
	}
	if err := d.stat(rel, &w, &g); err != nil {
		return err
	}
	if w.Mode&unix.S_IFMT != g.Mode&unix.S_IFMT {
		return nil
	}
	if !d.opts.Xattrs {
		if err := d.xattrs(want, got, rel); err != nil {
			return err
		}
	}
	switch w.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return d.directory(want, got, rel)
	case unix.S_IFLNK:
		wt, err := os.Readlink(want)
		if err != nil {
			return err
		}
		if gt, err := os.Readlink(got); err != nil || gt != wt {
			return d.differ(rel, "target is %q, %v; want %q", gt, err, wt)
		}
	case unix.S_IFREG:
		wi, gi := inodeOf(&w), inodeOf(&g)
		if _, met := d.wantInos[wi]; met && w.Nlink > 1 {
			if d.wantInos[wi] != gi || d.gotInos[gi] != wi {
				return d.differ(rel, "is not the hard link it should be")
			}
			return nil
		}
		if other, met := d.gotInos[gi]; met {
			return d.differ(rel, "shares its inode number with another file (inode %d in want)", other)
		}
		d.wantInos[wi], d.gotInos[gi] = gi, wi
		return d.content(want, got, rel, int64(w.Size))
	}
	return nil
}

func (d *differ) stat(rel string, w, g *unix.Statx_t) error {
	o, dir := d.opts, w.Mode&unix.S_IFMT == unix.S_IFDIR
	for _, c := range []struct {
		what      string
		got, want any
		skip      bool
	}{
		{"mode", fmt.Sprintf("%o", g.Mode), fmt.Sprintf("%o", w.Mode), false},
		{"uid", g.Uid, w.Uid, o.Owners},
		{"gid", g.Gid, w.Gid, o.Owners},
		{"link count", g.Nlink, w.Nlink, dir && o.Dirs},
		{"size", g.Size, w.Size, dir && o.Dirs},
		{"blocks", g.Blocks, w.Blocks, o.Blocks},
		{"device", [2]uint32{g.Rdev_major, g.Rdev_minor}, [2]uint32{w.Rdev_major, w.Rdev_minor}, false},
		{"mtime", stamp(g.Mtime), stamp(w.Mtime), false},
		{"atime", stamp(g.Atime), stamp(w.Atime), o.Atime},
		{"ctime", stamp(g.Ctime), stamp(w.Ctime), o.Ctime},
		{"birth time", stamp(g.Btime), stamp(w.Btime), o.Ctime || w.Mask&unix.STATX_BTIME == 0},
	} {
		if !c.skip && c.got != c.want {
			if err := d.differ(rel, "%s is %v, want %v", c.what, c.got, c.want); err != nil {
				return err
			}
		}
	}
	return nil
}

func stamp(t unix.StatxTimestamp) string { return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec) }

func (d *differ) directory(want, got, rel string) error {
	wn, err := names(want)
	if err != nil {
		return err
	}
	gn, err := names(got)
	if err != nil {
		return d.differ(rel, "list: %v", err)
	}
	for _, name := range wn {
		if slices.Contains(d.opts.Skip, name) {
			continue
		}
		if _, ok := slices.BinarySearch(gn, name); !ok {
			if err := d.differ(filepath.Join(rel, name), "is missing"); err != nil {
				return err
			}
			continue
		}
		if err := d.entry(want+"/"+name, got+"/"+name, filepath.Join(rel, name)); err != nil {
			return err
		}
	}
	for i, name := range gn {
		_, ok := slices.BinarySearch(wn, name)
		if i > 0 && gn[i-1] == name {
			ok = false
		}
		if !ok && !slices.Contains(d.opts.Skip, name) {
			if err := d.differ(filepath.Join(rel, name), "should not be there, or comes twice"); err != nil {
				return err
			}
		}
	}
	return nil
}

func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.Readdirnames(-1)
	slices.Sort(list)
	return list, err
}

func (d *differ) xattrs(want, got, rel string) error {
	w, err := xattrs(want)
	if err != nil {
		return fmt.Errorf("attributes of %s: %w", want, err)
	}
	g, err := xattrs(got)
	if err != nil {
		return d.differ(rel, "attributes: %v", err)
	}
	if !slices.Equal(w, g) {
		return d.differ(rel, "attributes are %q, want %q", g, w)
	}
	return nil
}

// xattrs gives name=value pairs, sorted.
func xattrs(path string) ([]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, err
	}
	var list []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, name+"="+string(value[:n]))
	}
	slices.Sort(list)
	return list, nil
}

// content compares where the data is first, and has the kernel forget what was
// read of the file before: to SEEK_DATA, what is cached of an unwritten extent
// is data.
func (d *differ) content(want, got, rel string, size int64) error {
	w, err := unix.Open(want, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", want, err)
	}
	defer unix.Close(w)
	if err := unix.Fadvise(w, 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("forget cached bytes of %s: %w", want, err)
	}
	g, err := unix.Open(got, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return d.differ(rel, "open: %v", err)
	}
	defer unix.Close(g)
	spans, err := Spans(w, size)
	if err != nil {
		return fmt.Errorf("holes of %s: %w", want, err)
	}
	if !d.opts.Holes {
		gs, err := Spans(g, size)
		if err != nil || !slices.Equal(spans, gs) {
			if err := d.differ(rel, "data at %v, %v; want %v", gs, err, spans); err != nil {
				return err
			}
		}
	}
	// Of a large sparse file only the data, with some bytes around it, is
	// compared, and the holes where they begin and end.
	if size <= 64<<20 {
		spans = []Span{{0, size}}
	}
	for _, s := range spans {
		if err := d.bytes(w, g, rel, max(0, s.Start-5000), min(size, s.End+5000)); err != nil {
			return err
		}
	}
	return nil
}

// Spans is where the open file fd of size bytes has data, by SEEK_DATA.
func Spans(fd int, size int64) (list []Span, err error) {
	for off := int64(0); off < size; {
		start, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		list = append(list, Span{start, end})
		off = end
	}
	return list, nil
}

func (d *differ) bytes(w, g int, rel string, off, end int64) error {
	wb, gb := d.wb, d.gb
	for off < end {
		n := int(min(int64(len(wb)), end-off))
		if err := pread(w, wb[:n], off); err != nil {
			return err
		}
		if err := pread(g, gb[:n], off); err != nil {
			return d.differ(rel, "read %d bytes at %d: %v", n, off, err)
		}
		if !bytes.Equal(wb[:n], gb[:n]) {
			i := 0
			for wb[i] == gb[i] {
				i++
			}
			return d.differ(rel, "byte %d is %02x, want %02x", off+int64(i), gb[i], wb[i])
		}
		off += int64(n)
		d.res.Bytes += int64(n)
	}
	return nil
}

func pread(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pread(fd, p, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		p, off = p[max(n, 0):], off+int64(max(n, 0))
	}
	return nil
}
