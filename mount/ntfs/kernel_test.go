package ntfs_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys/fstest"
	"cairn/mount/ntfs"
)

// configs are the kinds of volumes that mkntfs makes.
var configs = []struct {
	name    string
	args    string
	cluster int64
	mib     int64
	options string
	big     bool
}{
	{name: "512", args: "-c 512", cluster: 512, mib: 48},
	{name: "1k", args: "-c 1024", cluster: 1024, mib: 64},
	{name: "2k", args: "-c 2048", cluster: 2048, mib: 64, options: "compression"},
	{name: "4k", args: "-c 4096 -L Volume¿名", cluster: 4096, mib: 150, big: true},
	{name: "8k", args: "-c 8192", cluster: 8192, mib: 100},
	{name: "64k", args: "-c 65536", cluster: 65536, mib: 150},
	{name: "128k", args: "-c 131072", cluster: 131072, mib: 200},
	{name: "sectors of 1k", args: "-s 1024 -c 1024", cluster: 1024, mib: 64},
	{name: "4k sectors", args: "-s 4096 -c 4096", cluster: 4096, mib: 100},
	{name: "4k sectors, 8k clusters", args: "-s 4096 -c 8192", cluster: 8192, mib: 100},
}

// ignored is what ntfs-3g does not tell or what is told in a better way: FUSE
// has no SEEK_HOLE and no creation time.
var ignored = fstest.Ignore{Holes: true, CtimeBtime: false}

// TestKernel fills volumes of many kinds by ntfs-3g and compares what is read
// with ntfs-3g's own read-only mount.
func TestKernel(t *testing.T) {
	for _, c := range configs {
		t.Run(c.name, func(t *testing.T) {
			image := mkntfs(t, c.mib<<20, strings.Fields(c.args)...)
			dir, unmount := mount(t, image, c.options)
			fill(t, dir, min(c.cluster, 8192), c.big)
			unmount()
			compare(t, image)
		})
	}
}

// TestLargeClusters: the largest that mkntfs makes.
func TestLargeClusters(t *testing.T) {
	image := mkntfs(t, 100<<20, "-c", "1048576")
	dir, unmount := mount(t, image, "")
	p := &fstest.Tree{TB: t, Root: dir, Block: 4096, Rand: rand.NewChaCha8([32]byte{1})}
	for i := range 300 {
		p.File(p.Dir("many")+fmt.Sprintf("/file %d", i), int64(i))
	}
	p.File("large", 5<<20+17)
	p.Open("sparse", func(f *os.File) {
		p.Write(f, 7<<20, 100)
		p.Write(f, 3<<20, 100)
	})
	unmount()
	compare(t, image)
}

// compare holds what is read from an image against ntfs-3g's mount of it.
func compare(t *testing.T, image string, names ...string) *ntfs.FS {
	t.Helper()
	fs := openImage(t, image)
	dir, unmount := mount(t, image, "ro")
	defer unmount()
	ig := ignored
	ig.Names = names
	fstest.Compare(t, btimeless{fs}, dir, ig)
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	info := fs.Info()
	if info.BlockSize != int(st.Bsize) || info.Size != int64(st.Blocks)*st.Bsize || info.Free != int64(st.Bfree)*st.Bsize {
		t.Errorf("statfs is %+v, want %+v", info, st)
	}
	if len(info.Warnings) > 0 {
		t.Errorf("warnings: %q", info.Warnings)
	}
	return fs
}

// fill makes all that ntfs-3g can make.
func fill(t *testing.T, dir string, cluster int64, big bool) {
	p := &fstest.Tree{TB: t, Root: dir, Block: cluster, Big: big, Rand: rand.NewChaCha8([32]byte{1})}
	names(p)
	p.Sizes()
	sparse(p)
	directories(p)
	p.Links()
	special(p)
	times(p)
	streams(p)
	fragments(p, 300)
	reparsePoints(p)
}

// names makes files with every kind of name.
func names(p *fstest.Tree) {
	d := p.Dir("names")
	for _, name := range []string{
		"plain", "with space ", " leading", "-dash", "new\nline", "tab\t", "back\\slash", "...", "..x", ".hidden", "a:b", "con",
		"한국어 파일 이름", "é-composed", "e\u0301-decomposed", "\x01\x02\x7f", "ß", "İ", "x", "X", "xX", "Xx", "XX", "xx",
		"😀 pair", "lone \xed\xa0\xbd half", "\xed\xb8\x80", "\uffff\ufffe", "trailing.", "ÿŸ",
		strings.Repeat("a", 247), strings.Repeat("e", 255), strings.Repeat("가", 255), strings.Repeat("😀", 127),
	} {
		p.File(d+"/"+name, 5)
	}
	d = p.Dir("case")
	for i := range 64 {
		name := []byte("sameName")
		for b := range 6 {
			if i>>b&1 != 0 {
				name[b] ^= 0x20
			}
		}
		p.File(d+"/"+string(name), 3)
	}
	p.File("dosname with a long name", 10)
	p.Check(unix.Setxattr(p.Path("dosname with a long name"), "system.ntfs_dos_name", []byte("DOSNAM~1.TXT"), 0))
}

// directories makes empty, deep, large and thinned directories, and a file of
// more names than one record has room for.
func directories(p *fstest.Tree) {
	p.Dir("empty")
	deep := "deep"
	for i := range 60 {
		deep += fmt.Sprintf("/level %d", i)
	}
	p.File(p.Dir(deep)+"/bottom", 3)
	d, n := p.Dir("many"), 500
	if p.Big {
		n = 3000
	}
	for i := range n {
		p.File(fmt.Sprintf("%s/file %d with a name of some length", d, i), int64(i%3))
	}
	// In a directory whose entries were removed, those that are left over in
	// blocks and behind the ends of blocks are no entries.
	d = p.Dir("thinned")
	for i := range 600 {
		p.File(fmt.Sprintf("%s/%d%s", d, i, strings.Repeat("y", i%40)), 0)
	}
	for i := range 600 {
		if i%97 != 5 {
			p.Check(os.Remove(p.Path(fmt.Sprintf("%s/%d%s", d, i, strings.Repeat("y", i%40)))))
		}
	}
	d = p.Dir("emptied")
	for i := range 200 {
		p.File(fmt.Sprintf("%s/%d of those that go", d, i), 0)
	}
	for i := range 200 {
		p.Check(os.Remove(p.Path(fmt.Sprintf("%s/%d of those that go", d, i))))
	}
	d = p.Dir("names of one")
	p.File(d+"/first", 2000)
	for i := range 150 {
		p.Check(os.Link(p.Path(d+"/first"), p.Path(fmt.Sprintf("%s/name %d of the same file", d, i))))
	}
}

// sparse makes files with holes. All of them are read whole: FUSE does not tell
// where the holes are.
func sparse(p *fstest.Tree) {
	d := p.Dir("sparse")
	b := p.Block
	for name, spans := range map[string][][2]int64{
		"hole first":     {{5*b + 3, 100}},
		"hole between":   {{0, b}, {7 * b, 10}, {40*b - 1, 2 * b}},
		"every other":    {{0, 1}, {2 * b, 1}, {4 * b, 1}, {6 * b, 1}, {8 * b, 1}, {10 * b, 1}, {12 * b, 1}},
		"nothing at all": nil,
		"backwards":      {{300 * b, 5}, {200 * b, 5}, {100 * b, 5}, {0, 5}},
	} {
		p.Open(d+"/"+name, func(f *os.File) {
			end := int64(0)
			for _, s := range spans {
				p.Write(f, s[0], s[1])
				end = max(end, s[0]+s[1])
			}
			p.Check(f.Truncate(end + 3*b + 11))
		})
	}
	p.Open(d+"/truncated", func(f *os.File) {
		p.Write(f, 0, 4*b)
		p.Check(f.Sync())
		p.Check(f.Truncate(b + 10))
		p.Check(f.Truncate(3 * b))
		p.Write(f, 5*b+1, 1)
	})
}

// times makes files with times since 1970: those before are wrong in ntfs-3g, by
// the sign of their nanoseconds.
func times(p *fstest.Tree) {
	d := p.Dir("times")
	for i, sec := range []int64{0, 1, 1<<31 - 1, 1 << 31, 1 << 32, 4102444800, 1 << 33, 15032385535, 200000000000} {
		name := fmt.Sprintf("%s/%d", d, i)
		p.File(name, 1)
		at := []unix.Timespec{{Sec: sec, Nsec: 999999900}, {Sec: sec / 2, Nsec: 123456700}}
		p.Check(unix.UtimesNanoAt(unix.AT_FDCWD, p.Path(name), at, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func special(p *fstest.Tree) {
	d := p.Dir("special")
	for name, dev := range map[string][3]uint32{"fifo": {unix.S_IFIFO}, "socket": {unix.S_IFSOCK}, "null": {unix.S_IFCHR, 1, 3},
		"disk": {unix.S_IFBLK, 8, 17}, "new major": {unix.S_IFBLK, 259, 1}, "new minor": {unix.S_IFCHR, 4, 70000}} {
		p.Check(unix.Mknod(p.Path(d+"/"+name), dev[0]|0o600, int(unix.Mkdev(dev[1], dev[2]))))
	}
}

// streams makes named streams, resident and not.
func streams(p *fstest.Tree) {
	d := p.Dir("streams")
	for i, n := range []int64{0, 1, 100, 700, 5000, 40000, 65536} {
		name := p.Path(fmt.Sprintf("%s/%d", d, n))
		p.File(fmt.Sprintf("%s/%d", d, n), 10)
		p.Check(unix.Setxattr(name, "user.note", p.Bytes(n), 0))
		p.Check(unix.Setxattr(name, fmt.Sprintf("user.また %d", i), p.Bytes(20), 0))
	}
	p.File(d+"/many", 100000)
	for i := range 150 {
		p.Check(unix.Setxattr(p.Path(d+"/many"), fmt.Sprintf("user.%d of very many", i), p.Bytes(int64(i*7)), 0))
	}
	p.Check(unix.Setxattr(p.Path(p.Dir(d+"/directory")), "user.note", p.Bytes(300), 0))
}

// fragments makes files in very many pieces, by writing to two in turn.
func fragments(p *fstest.Tree, n int64) {
	d := p.Dir("fragments")
	b := p.Block
	var files []*os.File
	for i := range 3 {
		f, err := os.Create(p.Path(fmt.Sprintf("%s/%d", d, i)))
		p.Check(err)
		files = append(files, f)
	}
	for i := range n {
		for j, f := range files {
			if j < 2 || i%2 == 0 {
				p.Write(f, i*b, b)
			}
		}
	}
	for _, f := range files {
		p.Check(f.Close())
	}
}

// reparsePoints makes those whose targets are shown as ntfs-3g shows them.
func reparsePoints(p *fstest.Tree) {
	p.File(p.Dir("links/Inner Dir")+"/File", 5)
	for name, l := range map[string]struct {
		target string
		dir    bool
	}{
		"same":   {target: `Inner Dir\File`},
		"case":   {target: `inner dir\FILE`},
		"up":     {target: `..\LINKS\inner DIR`, dir: true},
		"escape": {target: `.\..\links\Inner Dir\.\file`},
	} {
		path := p.Path("links/reparse " + name)
		if l.dir {
			p.Dir("links/reparse " + name)
		} else {
			p.File("links/reparse "+name, 0)
		}
		setReparse(p, path, 0xA000000C, symlinkData(l.target, 1))
	}
}

// symlinkData is the data of a symlink's reparse point.
func symlinkData(target string, flags uint32) []byte {
	s := utf16le(target)
	b := le.AppendUint16(nil, 0)
	b = le.AppendUint16(b, uint16(len(s)))
	b = le.AppendUint16(b, uint16(len(s)))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, flags)
	return append(b, s...)
}

// junctionData is the data of a junction's.
func junctionData(target string) []byte {
	s := utf16le(target)
	b := le.AppendUint16(nil, 0)
	b = le.AppendUint16(b, uint16(len(s)))
	b = le.AppendUint16(b, uint16(len(s)+2))
	b = le.AppendUint16(b, 0)
	return append(append(b, s...), 0, 0, 0, 0)
}

func setReparse(t testing.TB, path string, tag uint32, data []byte) {
	t.Helper()
	b := le.AppendUint32(nil, tag)
	b = le.AppendUint16(b, uint16(len(data)))
	b = le.AppendUint16(b, 0)
	must(t, unix.Lsetxattr(path, "system.ntfs_reparse_data", append(b, data...), 0))
}
