package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"

	"cairn/mount/mounttest"
	"cairn/mount/tree"
)

// Extended attributes keep to the protocol of two calls, one for the size: with
// room too small by one byte the answer is ERANGE, also for lists of 60 KB.
func TestXattrSizes(t *testing.T) {
	fs := testFS()
	n := fs.File("/attrs", "")
	n.Xattrs = map[string][]byte{"user.v": []byte(strings.Repeat("v", 60_000)), "user.empty": {}}
	var want int
	for i := range 250 {
		name := fmt.Sprintf("user.%s%03d", strings.Repeat("n", 230), i)
		n.Xattrs[name] = []byte{byte(i)}
		want += len(name) + 1
	}
	want += len("user.v\x00user.empty\x00")
	p := guest(t, fs) + "/attrs"
	for _, c := range []struct {
		what string
		size int
		call func(room []byte) (int, error)
	}{
		{"list", want, func(b []byte) (int, error) { return unix.Listxattr(p, b) }},
		{"value", 60_000, func(b []byte) (int, error) { return unix.Getxattr(p, "user.v", b) }},
		{"empty value", 0, func(b []byte) (int, error) { return unix.Getxattr(p, "user.empty", b) }},
	} {
		if k, err := c.call(nil); k != c.size || err != nil {
			t.Errorf("%s: size %d, %v; want %d", c.what, k, err, c.size)
		}
		for _, room := range []int{c.size, c.size + 1, 65536} {
			if room == 0 {
				continue
			}
			if k, err := c.call(make([]byte, room)); k != c.size || err != nil {
				t.Errorf("%s with room for %d: %d, %v", c.what, room, k, err)
			}
		}
		if c.size > 1 {
			if _, err := c.call(make([]byte, c.size-1)); err != unix.ERANGE {
				t.Errorf("%s with too little room: %v", c.what, err)
			}
		}
	}
	if _, err := unix.Getxattr(p, "user.no", make([]byte, 10)); err != unix.ENODATA {
		t.Errorf("an attribute that is not there: %v", err)
	}
}

// A directory of 20,000 entries comes whole through buffers of any size, from
// any place that was given as one to go on from, also without the cache.
func TestHugeDirectory(t *testing.T) {
	fs := mounttest.NewFS()
	const n = 20_000
	for i := range n {
		fs.File(fmt.Sprintf("/entry-%05d", i), "")
	}
	g := guest(t, fs)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for _, size := range []int{1 << 20, 700} {
		fd, err := unix.Open(g, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		buf := make([]byte, size)
		seen := make(map[string]bool, n)
		type mark struct {
			off  int64
			next string
		}
		var marks []mark
		for {
			off, err := unix.Seek(fd, 0, io.SeekCurrent)
			if err != nil {
				t.Fatal(err)
			}
			k, err := unix.Getdents(fd, buf)
			if err != nil {
				t.Fatal(err)
			}
			if k == 0 {
				break
			}
			_, _, names := unix.ParseDirent(buf[:k], -1, nil)
			for _, name := range names {
				if seen[name] {
					t.Fatalf("%s comes twice", name)
				}
				seen[name] = true
			}
			if len(names) > 0 {
				marks = append(marks, mark{off, names[0]})
			}
		}
		if len(seen) != n {
			t.Errorf("%d names through buffers of %d bytes", len(seen), size)
		}
		for range min(200, len(marks)) {
			m := marks[r.IntN(len(marks))]
			if _, err := unix.Seek(fd, m.off, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			k, err := unix.Getdents(fd, buf)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, names := unix.ParseDirent(buf[:k], 1, nil); len(names) == 0 || names[0] != m.next {
				t.Fatalf("at %d: %q, was %q", m.off, names, m.next)
			}
		}
	}
}

// A hundred points under one mount are opened when somebody enters them, and
// what a mount holds for each is little.
func TestHundredPoints(t *testing.T) {
	const points = 100
	var opened, closed atomic.Int32
	var refs []tree.Ref
	for i := range points {
		refs = append(refs, tree.Ref{ID: fmt.Sprint("p", i), Time: mounttest.Epoch.AddDate(0, 0, i)})
	}
	one := testPoint(nil) // they share a disk, which is not theirs
	tr := tree.NewItem(tree.Item{
		Name: "web1",
		List: func(context.Context) ([]tree.Ref, error) { return refs, nil },
		Open: func(context.Context, string) (tree.Point, error) {
			opened.Add(1)
			p := one
			p.Close = func() error { closed.Add(1); return nil }
			return p, nil
		},
	}, tree.Options{OpenFS: openAs(testFS())})
	s, dir := mountTree(t, tr, Options{})
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != points+1 {
		t.Fatalf("%d names, %v", len(names), err)
	}
	sh(t, `ls -l "$1"; stat "$1"/*`, dir)
	if n := opened.Load(); n != 0 {
		t.Errorf("%d points were opened by looking at the list", n)
	}
	var before, after runtime.MemStats
	settle := func(m *runtime.MemStats) {
		for range 3 { // buffers that are kept for the next request outlive one collection
			runtime.GC()
		}
		runtime.ReadMemStats(m)
	}
	settle(&before)
	var wg sync.WaitGroup
	for i := range 2 * points { // two at a time want each
		wg.Go(func() {
			p := fmt.Sprintf("%s/%s/volumes/vda/etc/hostname", dir, names[i/2].Name())
			fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			b := make([]byte, 10)
			if k, err := unix.Pread(fd, b, 0); err != nil || string(b[:k]) != "web1\n" {
				t.Errorf("%s: %q, %v", p, b[:k], err)
			}
		})
	}
	wg.Wait()
	settle(&after)
	// What waits for requests holds up to 16 buffers of 1 MiB, however many points there are.
	if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); grew > 16<<20+points<<16 {
		t.Errorf("%d points hold %d KiB", points, grew>>10)
	} else {
		t.Logf("%d points hold %d KiB", points, grew>>10)
	}
	if n := opened.Load(); n != points {
		t.Errorf("%d points were opened %d times", points, n)
	}
	if err := s.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
	if err := tr.Close(); err != nil || closed.Load() != points {
		t.Errorf("%d points were closed, %v", closed.Load(), err)
	}
}

// Without fusermount3, or without /dev/fuse, it is said what to do.
func TestWithoutFUSE(t *testing.T) {
	tr := tree.NewPoint(testPoint(nil), tree.Options{OpenFS: openAs(testFS())})
	t.Setenv("PATH", t.TempDir())
	_, err := Mount(t.TempDir(), tr.Root(), Options{helper: true})
	if !errors.Is(err, ErrNoFUSE) || !strings.Contains(err.Error(), "package fuse3") {
		t.Errorf("without fusermount3: %v", err)
	}
	was := fuseDevice
	defer func() { fuseDevice = was }()
	fuseDevice = t.TempDir() + "/fuse"
	_, err = Mount(t.TempDir(), tr.Root(), Options{})
	if !errors.Is(err, ErrNoFUSE) || !strings.Contains(err.Error(), "modprobe fuse") {
		t.Errorf("without the device: %v", err)
	}
}

// What the kernel remembers of files, and with it this process, is bounded; who
// has a file open, or works in a directory, does not notice.
func TestManyNamesAreForgotten(t *testing.T) {
	fs := mounttest.NewFS()
	const dirs, files = 20, 200
	for d := range dirs {
		fs.Dir(fmt.Sprintf("/d%02d", d))
		for i := range files {
			fs.File(fmt.Sprintf("/d%02d/file%03d", d, i), mounttest.Pattern(100+i))
		}
	}
	s, dir := mountPoint(t, testPoint(nil), fs, Options{maxNodes: 500})
	g := dir + "/volumes/vda"
	f, err := os.Open(g + "/d00/file007")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cwd, err := os.Open(g + "/d01")
	if err != nil {
		t.Fatal(err)
	}
	defer cwd.Close()
	for range 3 { // parallel walks, while names go
		if got := sh(t, `for i in 1 2 3; do find "$1" -type f -size -2 -links 1 | wc -l & done; wait`, g); got != "4000\n4000\n4000\n" {
			t.Errorf("files found: %q", got)
		}
	}
	// One more walk lets go of what was met while names were being forgotten.
	for deadline := time.Now().Add(10 * time.Second); ; {
		sh(t, `find "$1" -type f -size +9 >/dev/null`, g)
		n := countNodes(s.root.EmbeddedInode())
		if n < dirs*files/2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d nodes of %d are kept", n, dirs*files)
		}
	}
	b := make([]byte, 200)
	if k, err := f.ReadAt(b, 0); k != 107 || err != io.EOF || string(b[:k]) != mounttest.Pattern(107) {
		t.Errorf("the open file: %d, %v", k, err)
	}
	if names, err := cwd.Readdirnames(-1); err != nil || len(names) != files {
		t.Errorf("the open directory: %d names, %v", len(names), err)
	}
	if got := sh(t, `cd "$1/d02"; find "$1" -type f >/dev/null; pwd -P; cat file001 | wc -c`, g); got != g+"/d02\n101\n" {
		t.Errorf("in a directory: %q", got)
	}
}

func countNodes(n *gofs.Inode) int {
	sum := 1
	for _, c := range n.Children() {
		sum += countNodes(c)
	}
	return sum
}
