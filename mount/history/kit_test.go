package history

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/tree"
)

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vault keeps the blocks of points in memory.
type vault struct {
	t       testing.TB
	mu      sync.Mutex
	blocks  map[block.Digest][]byte
	points  int
	cache   *Cache
	base    map[string]diskmap.Map // newest map of each disk
	damaged block.Digest           // cannot be read
	openFS  func(r io.ReaderAt, size int64) (filesys.FS, error)
	fail    func(point string) bool // reads of the point's disks fail
	reads   int                     // of files' and trees' bytes, through the cache
}

func newVault(t testing.TB) *vault {
	return &vault{t: t, blocks: map[block.Digest][]byte{}, cache: NewCache(DefaultCache), base: map[string]diskmap.Map{}}
}

func (v *vault) WritePage(_ context.Context, plain []byte) (block.Digest, error) {
	return v.put(plain), nil
}

func (v *vault) put(plain []byte) block.Digest {
	if block.IsZero(plain) {
		return block.Zero
	}
	d := block.Sum(plain)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.blocks[d] == nil {
		v.blocks[d] = append([]byte(nil), plain...)
	}
	return d
}

func (v *vault) ReadBlocks(_ context.Context, ds []block.Digest) ([][]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out [][]byte
	for _, d := range ds {
		b := v.blocks[d]
		if d == v.damaged {
			return nil, fmt.Errorf("block %s: %w", d, block.ErrCorrupt)
		}
		if b == nil {
			return nil, fmt.Errorf("no block %s", d)
		}
		out = append(out, b)
		v.reads++
	}
	return out, nil
}

// saved is a point: its disks, by name.
type saved struct {
	id    string
	time  time.Time
	disks []Disk
}

// backUp makes a point of images, given as "vda=FILE".
func (v *vault) backUp(images ...string) saved {
	v.t.Helper()
	s := saved{id: fmt.Sprintf("p%d", v.points), time: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, v.points)}
	v.points++
	for _, im := range images {
		name, file, _ := strings.Cut(im, "=")
		f, err := os.Open(file)
		must(v.t, err)
		st, err := f.Stat()
		must(v.t, err)
		b, err := diskmap.NewBuilder(st.Size(), block.DefaultSize, nil, nil, v)
		must(v.t, err)
		buf := make([]byte, block.DefaultSize)
		for i := int64(0); i*block.DefaultSize < st.Size(); i++ {
			clear(buf)
			_, err := f.ReadAt(buf[:min(block.DefaultSize, st.Size()-i*block.DefaultSize)], i*block.DefaultSize)
			must(v.t, err)
			must(v.t, b.Set(ctx, uint64(i), v.put(buf)))
		}
		m, err := b.Finish(ctx)
		must(v.t, err)
		must(v.t, f.Close())
		s.disks = append(s.disks, Disk{name, m})
	}
	return s
}

func (v *vault) open(s saved) *Point {
	r := v.cache.Reader(v)
	p := &Point{ID: s.id, Time: s.time, Disks: s.disks, Blocks: r}
	tp := tree.Point{ID: s.id, Name: s.id, Time: s.time}
	for _, d := range s.disks {
		var im tree.Image = diskmap.NewImage(r, d.Map, diskmap.ImageOptions{PageCache: -1, BlockCache: -1})
		if v.fail != nil && v.fail(s.id) {
			im = unread{im}
		}
		tp.Disks = append(tp.Disks, tree.Disk{Name: d.Name, Size: d.Map.Size, Image: im})
	}
	p.Tree = tree.NewPoint(tp, tree.Options{OpenFS: v.openFS})
	return p
}

func (v *vault) item(points ...saved) Item {
	it := Item{Open: func(_ context.Context, i int) (*Point, error) { return v.open(points[i]), nil }}
	for _, s := range points {
		it.Refs = append(it.Refs, Ref{s.id, s.time})
	}
	return it
}

// cold forgets all that was read, and starts to count.
func (v *vault) cold() {
	v.cache = NewCache(DefaultCache)
	v.reads = 0
}

// mke2fs makes a file system on an image of random bytes.
func mke2fs(t testing.TB, size int64, args ...string) string {
	t.Helper()
	image := fstest.Image(t, size, uint64(len(strings.Join(args, ""))))
	fstest.Run(t, "mke2fs", append(append([]string{"-q", "-F", "-E", "nodiscard"}, args...), image)...)
	return image
}

// change mounts an image for fn.
func change(t testing.TB, image string, fn func(dir string)) {
	t.Helper()
	dir, unmount := fstest.Mount(t, image, "ext4", false, "")
	fn(dir)
	unmount()
}

// described is all that Diff compares of a file, in words.
type described struct {
	typ, perm, owner, mtime, target, xattrs, content string
	rdev                                             uint64
}

// describe walks a volume and describes everything in it.
func describe(t testing.TB, p *Point, vol string) map[string]described {
	t.Helper()
	vols, err := p.volumes(ctx, vol)
	must(t, err)
	if len(vols) != 1 || vols[0].fs == nil {
		t.Fatalf("volume %s cannot be read: %v", vol, vols)
	}
	fs := vols[0].fs
	all := map[string]described{}
	var visit func(ino uint64, p string)
	visit = func(ino uint64, p string) {
		a, err := fs.Attr(ino)
		must(t, err)
		d := described{typ: fmt.Sprintf("%o", kind(a)), perm: fmt.Sprintf("%o", a.Mode&0o7777), owner: fmt.Sprint(a.UID, a.GID), rdev: a.Rdev}
		if !isDir(a) {
			d.mtime = a.Mtime.String()
		}
		names, err := fs.Xattrs(ino)
		must(t, err)
		slices.Sort(names)
		for _, n := range names {
			x, err := fs.Xattr(ino, n)
			must(t, err)
			d.xattrs += fmt.Sprintf("%s=%x ", n, x)
		}
		switch kind(a) {
		case filesys.TypeSymlink:
			d.target, err = fs.Readlink(ino)
			must(t, err)
		case filesys.TypeRegular:
			f, err := fs.Open(ino)
			must(t, err)
			s, err := sum(ctx, f)
			must(t, err)
			d.content = s
		}
		all[p] = d
		if isDir(a) {
			must(t, fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
				visit(e.Ino, p+"/"+e.Name)
				return true
			}))
		}
	}
	visit(fs.Root(), vols[0].path())
	return all
}

// differs is the What of two descriptions.
func differs(x, y described) (w What) {
	for _, c := range []struct {
		w  What
		ne bool
	}{{Content, x.content != y.content}, {Target, x.target != y.target}, {Device, x.rdev != y.rdev}, {Mode, x.perm != y.perm},
		{Owner, x.owner != y.owner}, {Mtime, x.mtime != y.mtime}, {Xattrs, x.xattrs != y.xattrs}, {Type, x.typ != y.typ}} {
		if c.ne {
			w |= c.w
		}
	}
	return w
}

// checkDiff holds a list of changes against two whole descriptions: applied to
// the old one it must give the new one, and each change must be one.
func checkDiff(t *testing.T, old, now map[string]described, list []Change) {
	t.Helper()
	gone, moved := map[string]bool{}, map[string]string{}
	for _, c := range list {
		switch c.Kind {
		case Removed:
			gone[c.Path] = true
			if _, ok := old[c.Path]; !ok {
				t.Errorf("D %s, which was not there", c.Path)
			}
		case Renamed:
			moved[c.From] = c.Path
		}
	}
	is := map[string]described{}
	for p, d := range old {
		if gone[p] {
			continue
		}
		to := p
		for up := p; strings.Contains(up, "/"); up = up[:strings.LastIndexByte(up, '/')] {
			if m, ok := moved[up]; ok {
				to = m + p[len(up):]
				break
			}
		}
		is[to] = d
	}
	for _, c := range list {
		d, ok := now[c.Path]
		if !ok && c.Kind != Removed {
			t.Errorf("%s %s, which is not there", c.Kind, c.Path)
			continue
		}
		switch c.Kind {
		case Added:
			if _, ok := is[c.Path]; ok {
				t.Errorf("A %s, which was there", c.Path)
			}
			is[c.Path] = d
		case Changed, Renamed:
			if w := differs(is[c.Path], d); w != c.What || c.Kind == Changed && w == 0 {
				t.Errorf("%s %s: %v, must be %v", c.Kind, c.Path, c.What, w)
			}
			is[c.Path] = d
		}
	}
	for p, d := range now {
		if x, ok := is[p]; !ok || x != d {
			t.Errorf("%s is not in the list: %t %v", p, ok, differs(x, d))
		}
	}
	for p := range is {
		if _, ok := now[p]; !ok {
			t.Errorf("%s is gone, and not in the list", p)
		}
	}
	if t.Failed() {
		t.Fatalf("%s", strings.Join(lines(list), "\n"))
	}
}

// diff gives what Diff says, which must not have a problem.
func diff(t testing.TB, a, b *Point, walkOnly bool) (list []Change) {
	t.Helper()
	d := &diffing{ctx: ctx, a: a, b: b, delta: newDelta(a, b), o: Options{Walk: walkOnly, Problem: func(point, p string, err error) {
		t.Errorf("problem in %s: %s: %v", point, p, err)
	}}}
	if err := d.run("", func(c Change) error { list = append(list, c); return nil }); err != nil && !errors.Is(err, ErrIncomplete) {
		t.Fatal(err)
	}
	return list
}

func lines(list []Change) (out []string) {
	for _, c := range list {
		s := string(c.Kind) + " " + c.Path
		if c.From != "" {
			s += " from " + c.From
		}
		if c.What != 0 {
			s += ": " + c.What.String()
		}
		out = append(out, s)
	}
	return out
}

func digestOf(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// broken copies an image of 8 MiB in blocks of 1 KiB, which has one superblock,
// whose checksum does not fit any more.
func broken(t testing.TB, image string) string {
	t.Helper()
	b, err := os.ReadFile(image)
	must(t, err)
	copy(b[1024+0x78:], "no name at all")
	name := filepath.Join(t.TempDir(), "broken")
	must(t, os.WriteFile(name, b, 0o600))
	return name
}

// checkVersions holds the versions of some files against whole descriptions of
// all points.
func checkVersions(t *testing.T, v *vault, rng *rand.Rand, points []saved, states []map[string]described) {
	t.Helper()
	var paths []string
	for _, st := range states {
		for p := range st {
			if p != "/volumes/vda" && !slices.Contains(paths, p) {
				paths = append(paths, p)
			}
		}
	}
	slices.Sort(paths)
	rng.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	for _, p := range paths[:min(len(paths), 40)] {
		var want, got []string
		for i, st := range states {
			d, ok := st[p]
			if i > 0 {
				was, before := states[i-1][p]
				if ok == before && (!ok || differs(was, d) == 0) {
					continue
				}
			}
			want = append(want, fmt.Sprint(points[i].id, ok))
		}
		must(t, Versions(ctx, v.item(points...), p, VersionOptions{SHA256: true}, func(v Version) error {
			got = append(got, fmt.Sprint(v.First.ID, v.Present()))
			if i := slices.IndexFunc(points, func(s saved) bool { return s.id == v.First.ID }); v.SHA256 != "" && v.SHA256 != states[i][p].content {
				t.Errorf("%s in %s: other content", p, v.First.ID)
			}
			return nil
		}))
		if !slices.Equal(got, want) {
			t.Errorf("versions of %s: %q, must be %q", p, got, want)
		}
	}
}

// unread is a disk on the way to which something is broken.
type unread struct{ tree.Image }

func (unread) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the server is gone") }
