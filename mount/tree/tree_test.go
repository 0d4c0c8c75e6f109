package tree

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cairn/blockstore/diskmap"
	"cairn/mount/filesys"
	"cairn/mount/mounttest"
)

var ctx = context.Background()

var _ Image = (*diskmap.Image)(nil)

// part is a partition of a test disk: its MBR type and what stands at its start.
type part struct {
	kind byte
	fill func(b []byte)
}

func ext(b []byte)   { copy(b[1024+56:], "\x53\xef") }
func f2fs(b []byte)  { copy(b[1024:], "\x10\x20\xf5\xf2") }
func swap(b []byte)  { copy(b[4086:], "SWAPSPACE2") }
func nothing([]byte) {}

const partSize = 1 << 20

// disk builds an MBR disk of up to four partitions of 1 MiB.
func disk(parts ...part) *mounttest.Disk {
	b := make([]byte, (len(parts)+1)*partSize)
	b[510], b[511] = 0x55, 0xaa
	for i, p := range parts {
		e := b[446+16*i:]
		e[4] = p.kind
		binary.LittleEndian.PutUint32(e[8:], uint32((i+1)*partSize/512))
		binary.LittleEndian.PutUint32(e[12:], partSize/512)
		p.fill(b[(i+1)*partSize:])
	}
	return &mounttest.Disk{Bytes: b}
}

var pointTime = time.Date(2026, 11, 20, 22, 0, 0, 0, time.UTC)

// testPoint has a disk with two file systems (one of a kind that nobody reads
// yet), swap and an empty partition, and a second disk without partitions.
func testPoint() Point {
	vdb := &mounttest.Disk{Bytes: make([]byte, partSize)}
	ext(vdb.Bytes)
	return Point{
		Name: "subscriptions/default/vaults/v/protectedItems/web1/recoveryPoints/p1", ID: "p1", Time: pointTime,
		JSON: []byte(`{"name":"p1","consistency":"CRASH_CONSISTENT"}`),
		Disks: []Disk{
			{Name: "vda", Image: disk(part{0x83, ext}, part{0x83, f2fs}, part{0x82, swap}, part{0x83, nothing})},
			{Name: "vdb", Size: partSize, Image: vdb},
		},
	}
}

// testFS is what every ext volume of the tests holds.
func testFS() *mounttest.FS {
	fs := mounttest.NewFS()
	fs.Dir("/etc")
	fs.File("/etc/hostname", "web1\n")
	fs.Symlink("/etc/alternatives", "../usr")
	fs.Dir("/usr")
	fs.Dir("/usr/bin")
	fs.File("/usr/bin/sh", "#!")
	fs.Symlink("/bin", "usr/bin")
	fs.Symlink("/abs", "/etc/hostname")
	fs.Symlink("/escape", "../../../../../../etc/hostname")
	fs.Symlink("/etc/up", "../../../point.json")
	fs.Symlink("/loop1", "loop2")
	fs.Symlink("/loop2", "/loop1")
	return fs
}

// openFake opens a fresh testFS for every volume.
func openFake(io.ReaderAt, int64) (filesys.FS, error) { return testFS(), nil }

func onlyExt(r io.ReaderAt, size int64) (filesys.FS, error) {
	b := make([]byte, 2)
	if _, err := r.ReadAt(b, 1024+56); err != nil {
		return nil, err
	}
	if b[0] != 0x53 {
		return nil, fmt.Errorf("f2fs is recognised but cannot be read: %w", filesys.ErrUnsupported)
	}
	return testFS(), nil
}

func list(t *testing.T, n Node) []string {
	t.Helper()
	var names []string
	err := n.ReadDir(ctx, 0, func(e Entry) bool {
		names = append(names, e.Name)
		if e.Next == 0 {
			t.Errorf("%q has no cookie", e.Name)
		}
		a, err := e.Node.Attr(ctx)
		if err != nil {
			t.Errorf("attributes of %q: %v", e.Name, err)
		}
		if a.Ino != e.Ino || e.Type != 0 && a.Mode&filesys.TypeMask != e.Type {
			t.Errorf("%q: entry has inode %d type %o, the node %d %o", e.Name, e.Ino, e.Type, a.Ino, a.Mode)
		}
		l, err := n.Lookup(ctx, e.Name)
		if err != nil {
			t.Errorf("lookup of %q: %v", e.Name, err)
		} else if la, _ := l.Attr(ctx); la != a && n.Fresh() == 0 { // else it may be a new note each time
			t.Errorf("lookup of %q gives %+v, the directory %+v", e.Name, la, a)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func find(t *testing.T, tr *Tree, p string) Found {
	t.Helper()
	f, err := tr.Resolve(ctx, p, true)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func content(t *testing.T, tr *Tree, p string) string {
	t.Helper()
	f, err := find(t, tr, p).Node.Open(ctx)
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	return string(b)
}

func TestPointLayout(t *testing.T) {
	tr := NewPoint(testPoint(), Options{OpenFS: onlyExt})
	for _, tc := range []struct {
		dir  string
		want []string
	}{
		{"/", []string{"disks", "point.json", "volumes"}},
		{"/disks", []string{"vda.raw", "vdb.raw"}},
		{"/volumes", []string{"vda1", "vda2.UNREADABLE.txt", "vda3.SWAP.txt", "vda4.EMPTY.txt", "vdb"}},
		{"/volumes/vda1/etc", []string{"hostname", "alternatives", "up"}},
		{"/volumes/vdb/usr/bin", []string{"sh"}},
	} {
		if got := list(t, find(t, tr, tc.dir).Node); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.dir, got, tc.want)
		}
	}
	if got := content(t, tr, "volumes/vda1/etc/hostname"); got != "web1\n" {
		t.Errorf("hostname is %q", got)
	}
	if got := content(t, tr, "disks/vdb.raw"); len(got) != partSize || got[1024+56] != 0x53 {
		t.Error("the raw disk is not the disk")
	}
	a := find(t, tr, "disks/vda.raw").Attr
	if a.Size != 5*partSize || a.Blocks >= a.Size/512 || !a.Mtime.Equal(pointTime) || a.Mode != fileMode {
		t.Errorf("raw disk: %+v", a)
	}
}

func TestNotes(t *testing.T) {
	tr := NewPoint(testPoint(), Options{OpenFS: onlyExt})
	for p, want := range map[string]string{
		"volumes/vda2.UNREADABLE.txt": "vda2 cannot be read: f2fs is recognised but cannot be read",
		"volumes/vda3.SWAP.txt":       "vda3 holds swap space.\n",
		"volumes/vda4.EMPTY.txt":      "Its bytes are in disks/vda.raw from byte 4194304, 1048576 bytes long.\n",
	} {
		if got := content(t, tr, p); !strings.Contains(got, want) {
			t.Errorf("%s is\n%s\nwant in it %q", p, got, want)
		}
	}
	for _, p := range []string{"volumes/vda2", "volumes/vda3", "volumes/vda2.SWAP.txt", "volumes/vda1.UNREADABLE.txt", "volumes/vda", "volumes/vda9"} {
		if _, err := tr.Resolve(ctx, p, true); !errors.Is(err, filesys.ErrNotExist) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestPointJSON(t *testing.T) {
	tr := NewPoint(testPoint(), Options{OpenFS: openFake})
	text := content(t, tr, "point.json")
	var got struct {
		Name        string
		Consistency string
		Layout      []struct {
			Disk           string
			Size           int64
			PartitionTable string
			Volumes        []struct {
				Name, Path, Content, Unreadable string
				Start, Length                   int64
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if got.Name != "p1" || got.Consistency != "CRASH_CONSISTENT" || len(got.Layout) != 2 {
		t.Fatalf("got %+v", got)
	}
	vda := got.Layout[0]
	if vda.PartitionTable != "mbr" || vda.Size != 5*partSize || len(vda.Volumes) != 4 {
		t.Errorf("vda: %+v", vda)
	}
	if v := vda.Volumes[0]; v.Path != "volumes/vda1" || v.Content != "ext2" || v.Start != partSize || v.Length != partSize {
		t.Errorf("vda1: %+v", v)
	}
	if v := vda.Volumes[1]; v.Path != "" || v.Unreadable == "" {
		t.Errorf("vda2: %+v", v)
	}
	for in, want := range map[string]string{
		`{}`: `{"k":1}`, ` {"a":2} `: `{"a":2,"k":1}`, `[1]`: `{"point":[1],"k":1}`, ``: `{"point":null,"k":1}`, `{bad`: `{"point":null,"k":1}`, `null`: `{"point":null,"k":1}`,
	} {
		if got := string(addKey([]byte(in), "k", []byte("1"))); got != want {
			t.Errorf("addKey(%q) = %s, want %s", in, got, want)
		}
	}
}

// Nothing is opened before somebody asks, and then once, however many ask.
func TestLazyAndOnce(t *testing.T) {
	var opens atomic.Int32
	gate := make(chan struct{})
	tr := NewPoint(testPoint(), Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) {
		opens.Add(1)
		<-gate
		return testFS(), nil
	}})
	list(t, tr.Root())
	content(t, tr, "point.json")
	if n := opens.Load(); n != 0 {
		t.Fatalf("%d volumes opened by looking at the root", n)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := tr.Resolve(ctx, "volumes/vda1/etc", true); err != nil {
				t.Error(err)
			}
		})
	}
	close(gate)
	wg.Wait()
	if n := opens.Load(); n != 1 {
		t.Errorf("%d opens for one volume", n)
	}
}

// brief is a file system that must not count what is free.
type brief struct {
	*mounttest.FS
	t *testing.T
}

func (b brief) Info() filesys.Info {
	b.t.Error("what is free was counted")
	return b.FS.Info()
}

func (b brief) Brief() filesys.Info { return b.FS.Info() }

// Only who asks for the free space of a volume waits until it is counted.
func TestNothingIsCounted(t *testing.T) {
	tr := NewPoint(testPoint(), Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { return brief{testFS(), t}, nil }})
	list(t, find(t, tr, "/volumes").Node)
	content(t, tr, "volumes/vda1/etc/hostname")
	if v := find(t, tr, "volumes/vda1").Node.Volume(); v.Brief().BlockSize != testFS().Info().BlockSize {
		t.Errorf("brief: %+v", v.Brief())
	}
}

// An error on the way to a volume is shown, and tried again; one of the volume
// itself is remembered.
func TestOpenErrors(t *testing.T) {
	for _, tc := range []struct {
		err      error
		settled  bool
		lookup   error
		wantText string
	}{
		{errors.New("server unavailable"), false, nil, "server unavailable"},
		{fmt.Errorf("superblock: %w", filesys.ErrCorrupt), true, filesys.ErrNotExist, "superblock: file system is corrupt"},
	} {
		var opens atomic.Int32
		var fail atomic.Bool
		fail.Store(true)
		tr := NewPoint(testPoint(), Options{OpenFS: func(r io.ReaderAt, size int64) (filesys.FS, error) {
			opens.Add(1)
			if fail.Load() {
				return nil, tc.err
			}
			return testFS(), nil
		}})
		vols := find(t, tr, "volumes").Node
		if vols.Fresh() == 0 {
			t.Error("volumes/ may be cached for ever before it was looked at")
		}
		_, err := vols.Lookup(ctx, "vda1")
		if tc.settled && !errors.Is(err, filesys.ErrNotExist) || !tc.settled && !errors.Is(err, tc.err) {
			t.Errorf("%v: lookup gives %v", tc.err, err)
		}
		var names []string
		_ = vols.ReadDir(ctx, 0, func(e Entry) bool { names = append(names, e.Name); return true })
		if !slices.Contains(names, "vda1.UNREADABLE.txt") || slices.Contains(names, "vda1") {
			t.Errorf("%v: names %q", tc.err, names)
		}
		if got := content(t, tr, "volumes/vda1.UNREADABLE.txt"); !strings.Contains(got, tc.wantText) {
			t.Errorf("%v: note %q", tc.err, got)
		}
		n := opens.Load()
		_, _ = vols.Lookup(ctx, "vda1")
		if again := opens.Load() != n; again == tc.settled {
			t.Errorf("%v: tried again: %v", tc.err, again)
		}
		if forever := vols.Fresh() == 0; forever != tc.settled {
			t.Errorf("%v: cached for ever: %v", tc.err, forever)
		}
		fail.Store(false)
		if _, err := vols.Lookup(ctx, "vda1"); (err == nil) == tc.settled {
			t.Errorf("%v: after it went away: %v", tc.err, err)
		}
	}
}

// A disk that cannot be scanned is said to be so, and the others are shown.
func TestScanError(t *testing.T) {
	p := testPoint()
	lost := errors.New("block 0123abcd does not match its digest")
	bad := p.Disks[1].Image.(*mounttest.Disk)
	bad.ReadErr = func(int64, int) error { return lost }
	tr := NewPoint(p, Options{OpenFS: onlyExt})
	vols := find(t, tr, "volumes").Node
	if got := content(t, tr, "volumes/vdb.UNREADABLE.txt"); !strings.Contains(got, lost.Error()) {
		t.Errorf("note: %q", got)
	}
	if got := content(t, tr, "point.json"); !strings.Contains(got, lost.Error()) {
		t.Errorf("point.json: %s", got)
	}
	if find(t, tr, "point.json").Node.Fresh() == 0 {
		t.Error("point.json with an error may be cached for ever")
	}
	bad.ReadErr = nil
	if got := list(t, vols); !slices.Contains(got, "vdb") || !slices.Contains(got, "vda1") {
		t.Errorf("after it went away: %q", got)
	}
	if got := content(t, tr, "point.json"); strings.Contains(got, lost.Error()) || find(t, tr, "point.json").Node.Fresh() != 0 {
		t.Errorf("point.json after it went away: %s", got)
	}
}

// A partition that could not be looked into is looked for again, too.
func TestPartitionError(t *testing.T) {
	p := testPoint()
	bad := p.Disks[0].Image.(*mounttest.Disk)
	bad.ReadErr = func(off int64, n int) error {
		if off+int64(n) > 1<<20 {
			return errors.New("the server is gone")
		}
		return nil
	}
	tr := NewPoint(p, Options{OpenFS: onlyExt})
	vols := find(t, tr, "volumes").Node
	if got := list(t, vols); slices.Contains(got, "vda1") {
		t.Fatalf("volumes %q", got)
	}
	if vols.Fresh() == 0 {
		t.Error("volumes may be cached for ever")
	}
	bad.ReadErr = nil
	if got := list(t, vols); !slices.Contains(got, "vda1") {
		t.Errorf("after it went away: %q", got)
	}
	if vols.Fresh() != 0 {
		t.Error("volumes may not be cached for ever")
	}
}

func TestInodeNumbers(t *testing.T) {
	fs := testFS()
	n := fs.File("/a", "x")
	fs.Link("/etc/b", n)
	for _, big := range []uint64{1 << 43, 1<<64 - 1, 1 << 60} {
		e := fs.File(fmt.Sprintf("/big%d", big), "")
		delete(fs.Inodes, e.Ino)
		root := fs.Get("/")
		root.Entries[len(root.Entries)-1].Ino = big
		e.Ino = big
		fs.Inodes[big] = e
	}
	tr := NewPoint(testPoint(), Options{OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { return fs, nil }})
	seen := map[uint64]string{}
	err := Walk(ctx, "/", tr.Root(), func(p string, _ Node, a filesys.Attr, err error) error {
		if err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if other, ok := seen[a.Ino]; ok && !(strings.HasSuffix(p, "/a") || strings.HasSuffix(p, "/b")) {
			t.Errorf("%s and %s share inode %d", p, other, a.Ino)
		}
		seen[a.Ino] = p
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, vol := range []string{"vda1", "vdb"} {
		a, b := find(t, tr, "volumes/"+vol+"/a").Attr, find(t, tr, "volumes/"+vol+"/etc/b").Attr
		if a.Ino != b.Ino || a.Nlink != 2 {
			t.Errorf("hard links in %s: %d %d", vol, a.Ino, b.Ino)
		}
		if again := find(t, tr, "volumes/"+vol+"/a").Attr.Ino; again != a.Ino {
			t.Errorf("inode changed from %d to %d", a.Ino, again)
		}
	}
}

func TestDiskNames(t *testing.T) {
	d := disk(part{0x83, ext})
	tr := NewPoint(Point{Disks: []Disk{
		{Name: "nvme0n1", Image: d}, {Name: "sda", Image: d}, {Name: "sda", Image: d}, {Name: "../../etc", Image: d}, {Name: "", Image: d}, {Name: "gone"},
	}}, Options{OpenFS: openFake})
	want := []string{"nvme0n1p1", "sda1", "sda~2p1", ".._.._etc1", "disk1", "gone.UNREADABLE.txt"}
	if got := list(t, find(t, tr, "volumes").Node); !slices.Equal(got, want) {
		t.Errorf("volumes %q, want %q", got, want)
	}
	if got := list(t, find(t, tr, "disks").Node); len(got) != 6 || got[3] != ".._.._etc.raw" {
		t.Errorf("disks %q", got)
	}
}
