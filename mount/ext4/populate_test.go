package ext4_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes the files that have tripped readers, in a directory of the
// kernel's own mount.
type tree struct {
	testing.TB
	root  string
	block int64 // block size of the volume
	big   bool  // there is room for some 20 MiB
	rand  *rand.ChaCha8
	// may names what the file system is able to: unwritten extents, files
	// beyond 2 TiB, …
	prealloc, maxFile bool
	xattrMax          int
}

func (p *tree) path(name string) string { return filepath.Join(p.root, name) }

func (p *tree) check(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *tree) dir(name string) string {
	p.Helper()
	p.check(os.MkdirAll(p.path(name), 0o755))
	return name
}

func (p *tree) bytes(n int64) []byte {
	b := make([]byte, n)
	p.rand.Read(b)
	return b
}

func (p *tree) file(name string, size int64) {
	p.Helper()
	p.check(os.WriteFile(p.path(name), p.bytes(size), 0o644))
}

func (p *tree) open(name string, fn func(f *os.File)) {
	p.Helper()
	f, err := os.OpenFile(p.path(name), os.O_RDWR|os.O_CREATE, 0o644)
	p.check(err)
	fn(f)
	p.check(f.Close())
}

func (p *tree) write(f *os.File, off, n int64) {
	p.Helper()
	_, err := f.WriteAt(p.bytes(n), off)
	p.check(err)
}

func (p *tree) fill() {
	p.names()
	p.sizes()
	p.sparse()
	if p.prealloc {
		p.preallocated()
	}
	p.directories()
	p.links()
	p.special()
	p.times()
	p.owners()
	p.xattrs()
}

func (p *tree) names() {
	d := p.dir("names")
	for _, name := range []string{
		"plain", "with space ", " leading", "-dash", "new\nline", "tab\t", "back\\slash", "...", "..x", ".hidden",
		"한국어 파일 이름", "é-composed", "e\u0301-decomposed", "\xff\xfe not utf-8 \x80", "\x01\x02\x7f", "ß", "İ", "x",
		strings.Repeat("a", 247), strings.Repeat("b", 248), strings.Repeat("c", 249), strings.Repeat("d", 254),
		strings.Repeat("e", 255), strings.Repeat("가", 85),
	} {
		p.file(d+"/"+name, 5)
	}
}

func (p *tree) sizes() {
	d := p.dir("sizes")
	b := p.block
	sizes := []int64{0, 1, 4, 59, 60, 61, 100, 127, 128, 129, 150, 160, 200, 511, 512, 1023, b - 1, b, b + 1, 3*b + 7,
		12*b - 1, 12 * b, 12*b + 1, 13 * b, 100000, (12 + b/4) * b, 1 << 20}
	if p.big {
		sizes = append(sizes, (12+b/4)*b+1, 3<<20+17)
	}
	for _, n := range sizes {
		if n <= 5<<20 {
			p.file(fmt.Sprintf("%s/%d", d, n), n)
		}
	}
}

func (p *tree) sparse() {
	d := p.dir("sparse")
	b := p.block
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
		p.open(d+"/"+name, func(f *os.File) {
			for _, s := range spans {
				p.write(f, s[0], s[1])
			}
			end, err := f.Seek(0, 2)
			p.check(err)
			if name != "far" {
				// A hole at the end, to an odd size.
				p.check(f.Truncate(end + 3*b + 11))
			}
		})
	}
	if p.maxFile {
		p.open(d+"/enormous", func(f *os.File) {
			p.check(f.Truncate((1<<32 - 1) * b))
			p.write(f, (1<<32-2)*b-5, 10)
		})
	}
	// Truncated and written again behind: the tail of the last block was
	// other data once.
	p.open(d+"/truncated", func(f *os.File) {
		p.write(f, 0, 4*b)
		p.check(f.Sync())
		p.check(f.Truncate(b + 10))
		p.check(f.Truncate(3 * b))
		p.write(f, 5*b+1, 1)
	})
}

func (p *tree) preallocated() {
	d := p.dir("preallocated")
	b := p.block
	p.open(d+"/unwritten", func(f *os.File) { p.check(unix.Fallocate(int(f.Fd()), 0, 0, 20*b)) })
	p.open(d+"/partly", func(f *os.File) {
		p.check(unix.Fallocate(int(f.Fd()), 0, 0, 30*b))
		p.write(f, 3*b+5, 2*b)
		p.write(f, 17*b, b)
	})
	p.open(d+"/behind the end", func(f *os.File) {
		p.write(f, 0, b+100)
		p.check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 50*b))
	})
	p.open(d+"/punched", func(f *os.File) {
		p.write(f, 0, 20*b)
		p.check(f.Sync())
		p.check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4*b, 3*b))
		p.check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, 11*b, 2*b))
	})
	// Many extents: with small blocks the tree gets two levels of nodes.
	n := int64(400)
	if b <= 1024 {
		n = 1500
	}
	p.open(d+"/fragments", func(f *os.File) {
		p.write(f, 0, n*b)
		p.check(f.Sync())
		for i := int64(1); i < n; i += 2 {
			p.check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, i*b, b))
		}
	})
}

func (p *tree) directories() {
	p.dir("empty")
	deep := "deep"
	for i := range 60 {
		deep += fmt.Sprintf("/level %d", i)
	}
	p.file(p.dir(deep)+"/bottom", 3)

	n := 600
	if p.big {
		n = 3000
	}
	d := p.dir("many")
	target := p.path("names/plain")
	for i := range n {
		// Hard links cost no inodes.
		if i%500 == 0 {
			p.file(fmt.Sprintf("%s/source %d", d, i/500), 1)
			target = p.path(fmt.Sprintf("%s/source %d", d, i/500))
		}
		p.check(os.Link(target, p.path(fmt.Sprintf("%s/file %d with a name of some length", d, i))))
	}
	d = p.dir("thinned")
	for i := range 400 {
		p.check(os.Link(target, p.path(fmt.Sprintf("%s/%d%s", d, i, strings.Repeat("y", i%40)))))
	}
	for i := range 400 {
		if i%97 != 5 {
			p.check(os.Remove(p.path(fmt.Sprintf("%s/%d%s", d, i, strings.Repeat("y", i%40)))))
		}
	}
	// Small directories, which inline_data keeps in the inode, up to those
	// that just do not fit.
	for n := range 12 {
		d := p.dir(fmt.Sprintf("small/%d", n))
		for i := range n {
			p.check(os.Link(target, p.path(fmt.Sprintf("%s/%d-entry", d, i))))
		}
	}
	d = p.dir("small/removed")
	for _, name := range []string{"one", "two", "three", "four"} {
		p.check(os.Link(target, p.path(d+"/"+name)))
	}
	p.check(os.Remove(p.path(d + "/one")))
	p.check(os.Remove(p.path(d + "/three")))
}

func (p *tree) links() {
	d := p.dir("links")
	for _, n := range []int64{1, 58, 59, 60, 61, 100, 159, 160, 161, 500, 1000, 1023, 2000, 4000, 4095} {
		if n < p.block {
			p.check(os.Symlink(strings.Repeat("s", int(n)), p.path(fmt.Sprintf("%s/to %d", d, n))))
		}
	}
	p.check(os.Symlink("../names/한국어 파일 이름", p.path(d+"/relative")))
	p.file(d+"/first", 1000)
	for i := range 5 {
		p.check(os.Link(p.path(d+"/first"), p.path(fmt.Sprintf("%s/hard %d", d, i))))
	}
}

func (p *tree) special() {
	d := p.dir("special")
	node := func(name string, mode uint32, major, minor uint32) {
		p.check(unix.Mknod(p.path(d+"/"+name), mode|0o600, int(unix.Mkdev(major, minor))))
	}
	node("fifo", unix.S_IFIFO, 0, 0)
	node("socket", unix.S_IFSOCK, 0, 0)
	node("null", unix.S_IFCHR, 1, 3)
	node("disk", unix.S_IFBLK, 8, 17)
	node("none", unix.S_IFCHR, 0, 0)
	node("new major", unix.S_IFBLK, 259, 1)
	node("new minor", unix.S_IFCHR, 4, 70000)
	node("largest", unix.S_IFCHR, 4095, 1<<20-1)
	for _, mode := range []uint32{0, 0o777, 0o4755, 0o2755, 0o1777, 0o7000} {
		name := fmt.Sprintf("%s/mode %04o", d, mode)
		p.file(name, 1)
		p.check(unix.Chmod(p.path(name), mode))
	}
	p.check(unix.Chmod(p.path(p.dir(d+"/sticky")), 0o3777))
}

func (p *tree) times() {
	d := p.dir("times")
	for i, sec := range []int64{-1 << 31, -1<<31 + 1, -1, 0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 4102444800,
		1<<33 - 1, 1 << 33, 3 << 32, 15032385535} {
		for j, ns := range []int64{0, 1, 999999999} {
			name := fmt.Sprintf("%s/%d %d", d, i, j)
			p.file(name, 1)
			at := []unix.Timespec{{Sec: sec, Nsec: ns}, {Sec: -sec, Nsec: 999999999 - ns}}
			p.check(unix.UtimesNanoAt(unix.AT_FDCWD, p.path(name), at, unix.AT_SYMLINK_NOFOLLOW))
		}
	}
}

func (p *tree) owners() {
	d := p.dir("owners")
	for _, id := range []int{0, 1, 1000, 65535, 65536, 100000, 1<<31 - 1, 1 << 31, 1<<32 - 2} {
		name := fmt.Sprintf("%s/%d", d, id)
		p.file(name, 1)
		p.check(os.Lchown(p.path(name), id, 1<<32-2-id))
	}
}

func (p *tree) xattrs() {
	d := p.dir("xattrs")
	set := func(name, attr string, value []byte) {
		p.Helper()
		if err := unix.Lsetxattr(p.path(d+"/"+name), attr, value, 0); err != nil {
			p.Fatalf("set %s (%d bytes) of %s: %v", attr, len(value), name, err)
		}
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 20, 60, 90, 100, 101, 102, 103, 104, 200, 700} {
		name := fmt.Sprintf("size %d", n)
		p.file(d+"/"+name, 10)
		set(name, "user.value", p.bytes(int64(n)))
	}
	p.file(d+"/many", 10)
	for i := range 12 {
		set("many", fmt.Sprintf("user.attribute number %d", i), p.bytes(int64(i)))
	}
	p.file(d+"/all kinds", 10)
	set("all kinds", "user.note", []byte("a note"))
	set("all kinds", "trusted.secret", []byte("for root"))
	set("all kinds", "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	set("all kinds", "user."+strings.Repeat("n", 250), []byte("long name"))
	for i := range 3 { // equal attributes share a block
		name := fmt.Sprintf("shared %d", i)
		p.file(d+"/"+name, 10)
		set(name, "user.shared", bytes.Repeat([]byte("shared"), 100))
	}
	p.check(os.Symlink("nowhere", p.path(d+"/symlink")))
	set("symlink", "trusted.on a symlink", []byte("value"))
	p.check(os.Symlink(strings.Repeat("far", 30), p.path(d+"/slow symlink")))
	set("slow symlink", "trusted.big", p.bytes(500))
	p.check(os.Symlink("short", p.path(d+"/symlink with block")))
	set("symlink with block", "trusted.big", p.bytes(500))
	p.check(unix.Mknod(p.path(d+"/device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	set("device", "trusted.on a device", []byte("value"))

	p.file(d+"/acl", 10)
	set("acl", "system.posix_acl_access", acl(1, 6, 0, 2, 4, 1000, 2, 7, 70000, 4, 4, 0, 8, 2, 1<<31, 16, 7, 0, 32, 0, 0))
	p.dir(d + "/acl dir")
	set("acl dir", "system.posix_acl_default", acl(1, 7, 0, 4, 5, 0, 8, 5, 100, 16, 5, 0, 32, 5, 0))
	set("acl dir", "system.posix_acl_access", acl(1, 7, 0, 2, 1, 5, 4, 5, 0, 16, 5, 0, 32, 1, 0))
	p.file(d+"/acl dir/heir", 10)
	p.dir(d + "/acl dir/heir dir")

	for _, n := range []int{2000, 3900, 5000, 20000, 60000} {
		if n <= p.xattrMax {
			name := fmt.Sprintf("large %d", n)
			p.file(d+"/"+name, 10)
			set(name, "user.large", p.bytes(int64(n)))
			set(name, "user.small", []byte("next to it"))
		}
	}
}

// acl makes an access control list in the form of setxattr out of tag,
// permissions and id, repeatedly. Ids count only for named users and groups.
func acl(v ...uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for ; len(v) > 0; v = v[3:] {
		id := v[2]
		if v[0] != 2 && v[0] != 8 {
			id = 1<<32 - 1
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(v[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(v[1]))
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}
