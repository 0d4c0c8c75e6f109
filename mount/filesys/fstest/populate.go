package fstest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Tree makes the files that have tripped readers, in a directory of the
// kernel's own mount. Fill makes all of them; a file system that cannot have
// some is given the others one by one. A failure ends the test.
type Tree struct {
	testing.TB
	Root  string
	Block int64 // block size of the volume
	Big   bool  // there is room for some 20 MiB
	Rand  *rand.ChaCha8
	// What the file system is able to: unwritten extents, files beyond 2 TiB,
	// and the largest extended attribute.
	Prealloc, MaxFile bool
	XattrMax          int
	SymlinkMax        int64 // longest target in bytes, 0 if only Block limits it
	// DeviceMax are the largest major and minor device number, 0 for Linux's own
	// limits.
	DeviceMax [2]uint32
}

// Path is where name lies in the tree.
func (p *Tree) Path(name string) string { return filepath.Join(p.Root, name) }

// Check ends the test with an error.
func (p *Tree) Check(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// Dir makes a directory, with those above it, and gives its name back.
func (p *Tree) Dir(name string) string {
	p.Helper()
	p.Check(os.MkdirAll(p.Path(name), 0o755))
	return name
}

// Bytes gives n random bytes.
func (p *Tree) Bytes(n int64) []byte {
	b := make([]byte, n)
	p.Rand.Read(b)
	return b
}

// File makes a file of size random bytes.
func (p *Tree) File(name string, size int64) {
	p.Helper()
	p.Check(os.WriteFile(p.Path(name), p.Bytes(size), 0o644))
}

// Open hands a file, which is made if need be, to fn.
func (p *Tree) Open(name string, fn func(f *os.File)) {
	p.Helper()
	f, err := os.OpenFile(p.Path(name), os.O_RDWR|os.O_CREATE, 0o644)
	p.Check(err)
	fn(f)
	p.Check(f.Close())
}

// Write writes n random bytes at off.
func (p *Tree) Write(f *os.File, off, n int64) {
	p.Helper()
	_, err := f.WriteAt(p.Bytes(n), off)
	p.Check(err)
}

// Fill makes everything.
func (p *Tree) Fill() {
	p.Names()
	p.Sizes()
	p.Sparse()
	if p.Prealloc {
		p.Preallocated()
	}
	p.Directories()
	p.Links()
	p.Special()
	p.Times()
	p.Owners()
	p.Xattrs()
}

// Names makes files with every kind of name.
func (p *Tree) Names() {
	d := p.Dir("names")
	for _, name := range []string{
		"plain", "with space ", " leading", "-dash", "new\nline", "tab\t", "back\\slash", "...", "..x", ".hidden",
		"한국어 파일 이름", "é-composed", "e\u0301-decomposed", "\xff\xfe not utf-8 \x80", "\x01\x02\x7f", "ß", "İ", "x",
		strings.Repeat("a", 247), strings.Repeat("b", 248), strings.Repeat("c", 249), strings.Repeat("d", 254),
		strings.Repeat("e", 255), strings.Repeat("가", 85),
	} {
		p.File(d+"/"+name, 5)
	}
}

// Sizes makes files of sizes at which formats change.
func (p *Tree) Sizes() {
	d := p.Dir("sizes")
	b := p.Block
	sizes := []int64{0, 1, 4, 59, 60, 61, 100, 127, 128, 129, 150, 160, 200, 511, 512, 1023, b - 1, b, b + 1, 3*b + 7,
		12*b - 1, 12 * b, 12*b + 1, 13 * b, 100000, (12 + b/4) * b, 1 << 20}
	if p.Big {
		sizes = append(sizes, (12+b/4)*b+1, 3<<20+17)
	}
	for _, n := range sizes {
		if n <= 5<<20 {
			p.File(fmt.Sprintf("%s/%d", d, n), n)
		}
	}
}

// Sparse makes files with holes.
func (p *Tree) Sparse() {
	d := p.Dir("sparse")
	b := p.Block
	for name, spans := range map[string][][2]int64{
		"hole first":     {{5*b + 3, 100}},
		"hole between":   {{0, b}, {7 * b, 10}, {40*b - 1, 2 * b}},
		"single":         {{(12 + b/8) * b, 10}},
		"double":         {{(12 + b/4 + b) * b, 10}, {(12 + b/4 + b + 3) * b, 2 * b}},
		"triple":         {{0, 1}, {(12 + b/4 + b/4*b/4 + 77) * b, 3 * b}},
		"every other":    {{0, 1}, {2 * b, 1}, {4 * b, 1}, {6 * b, 1}, {8 * b, 1}, {10 * b, 1}, {12 * b, 1}},
		"nothing at all": nil,
		"far":            {{100, 1}, {1<<31 + 5, 100}, {1<<33 + 1, 1}},
	} {
		p.Open(d+"/"+name, func(f *os.File) {
			for _, s := range spans {
				p.Write(f, s[0], s[1])
			}
			end, err := f.Seek(0, 2)
			p.Check(err)
			if name != "far" {
				// A hole at the end, to an odd size.
				p.Check(f.Truncate(end + 3*b + 11))
			}
		})
	}
	if p.MaxFile {
		p.Open(d+"/enormous", func(f *os.File) {
			p.Check(f.Truncate((1<<32 - 1) * b))
			p.Write(f, (1<<32-2)*b-5, 10)
		})
	}
	// Truncated and written again behind: the tail of the last block was
	// other data once.
	p.Open(d+"/truncated", func(f *os.File) {
		p.Write(f, 0, 4*b)
		p.Check(f.Sync())
		p.Check(f.Truncate(b + 10))
		p.Check(f.Truncate(3 * b))
		p.Write(f, 5*b+1, 1)
	})
}

// Preallocated makes files with unwritten extents, and with very many.
func (p *Tree) Preallocated() {
	d := p.Dir("preallocated")
	b := p.Block
	p.Open(d+"/unwritten", func(f *os.File) { p.Check(unix.Fallocate(int(f.Fd()), 0, 0, 20*b)) })
	p.Open(d+"/partly", func(f *os.File) {
		p.Check(unix.Fallocate(int(f.Fd()), 0, 0, 30*b))
		p.Write(f, 3*b+5, 2*b)
		p.Write(f, 17*b, b)
	})
	p.Open(d+"/behind the end", func(f *os.File) {
		p.Write(f, 0, b+100)
		p.Check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 50*b))
	})
	p.Open(d+"/punched", func(f *os.File) {
		p.Write(f, 0, 20*b)
		p.Check(f.Sync())
		p.Check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4*b, 3*b))
		p.Check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 11*b, 2*b))
	})
	// Many extents: with small blocks the tree gets two levels of nodes.
	n := int64(400)
	if b <= 1024 {
		n = 1500
	}
	p.Open(d+"/fragments", func(f *os.File) {
		p.Write(f, 0, n*b)
		p.Check(f.Sync())
		for i := int64(1); i < n; i += 2 {
			p.Check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, i*b, b))
		}
	})
}

// Directories makes empty, deep, large, thinned and small directories.
func (p *Tree) Directories() {
	p.Dir("empty")
	deep := "deep"
	for i := range 60 {
		deep += fmt.Sprintf("/level %d", i)
	}
	p.File(p.Dir(deep)+"/bottom", 3)

	n := 600
	if p.Big {
		n = 3000
	}
	d := p.Dir("many")
	target := p.Path("names/plain")
	for i := range n {
		// Hard links cost no inodes.
		if i%500 == 0 {
			p.File(fmt.Sprintf("%s/source %d", d, i/500), 1)
			target = p.Path(fmt.Sprintf("%s/source %d", d, i/500))
		}
		p.Check(os.Link(target, p.Path(fmt.Sprintf("%s/file %d with a name of some length", d, i))))
	}
	d = p.Dir("thinned")
	for i := range 400 {
		p.Check(os.Link(target, p.Path(fmt.Sprintf("%s/%d%s", d, i, strings.Repeat("y", i%40)))))
	}
	for i := range 400 {
		if i%97 != 5 {
			p.Check(os.Remove(p.Path(fmt.Sprintf("%s/%d%s", d, i, strings.Repeat("y", i%40)))))
		}
	}
	// Small directories, which inline_data keeps in the inode, up to those
	// that just do not fit.
	for n := range 12 {
		d := p.Dir(fmt.Sprintf("small/%d", n))
		for i := range n {
			p.Check(os.Link(target, p.Path(fmt.Sprintf("%s/%d-entry", d, i))))
		}
	}
	d = p.Dir("small/removed")
	for _, name := range []string{"one", "two", "three", "four"} {
		p.Check(os.Link(target, p.Path(d+"/"+name)))
	}
	p.Check(os.Remove(p.Path(d + "/one")))
	p.Check(os.Remove(p.Path(d + "/three")))
}

// Links makes symlinks of many lengths, and hard links.
func (p *Tree) Links() {
	d := p.Dir("links")
	for _, n := range []int64{1, 58, 59, 60, 61, 100, 159, 160, 161, 500, 1000, 1023, 2000, 4000, 4095} {
		if n < p.Block && (p.SymlinkMax == 0 || n <= p.SymlinkMax) {
			p.Check(os.Symlink(strings.Repeat("s", int(n)), p.Path(fmt.Sprintf("%s/to %d", d, n))))
		}
	}
	p.Check(os.Symlink("../names/한국어 파일 이름", p.Path(d+"/relative")))
	p.File(d+"/first", 1000)
	for i := range 5 {
		p.Check(os.Link(p.Path(d+"/first"), p.Path(fmt.Sprintf("%s/hard %d", d, i))))
	}
}
