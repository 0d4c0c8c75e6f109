package ntfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/ntfs"
)

// These are the mistakes that were found in other readers, one test each, and
// what ntfs-3g cannot tell. What is expected is written down here.

var noise = func() []byte {
	b := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}()

// blockOf is the content of 1024 bytes at an offset.
func blockOf(at int64) []byte { return noise[at/1024*7%(1<<20-1024):][:1024] }

// made makes a volume with what fill puts into it, and opens it.
func made(t testing.TB, mib int64, args string, fill func(dir string)) (*ntfs.FS, string) {
	t.Helper()
	image := mkntfs(t, mib<<20, strings.Fields(args)...)
	dir, unmount := mount(t, image, "compression")
	fill(dir)
	unmount()
	return openImage(t, image), image
}

// walk finds a file by its path.
func walk(t testing.TB, fs filesys.FS, path string) uint64 {
	t.Helper()
	ino := fs.Root()
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if ino, err = fs.Lookup(ino, name); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return ino
}

// content reads a file whole.
func content(t testing.TB, fs filesys.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(walk(t, fs, path))
	must(t, err)
	b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size()))
	must(t, err)
	return b
}

// list gives the names in a directory.
func list(t testing.TB, fs filesys.FS, dir uint64) (names []string) {
	t.Helper()
	must(t, fs.ReadDir(dir, 0, func(e filesys.DirEntry) bool {
		names = append(names, e.Name)
		return true
	}))
	slices.Sort(names)
	return names
}

// TestTrapGhosts: of 20,000 entries most are removed; none comes back.
func TestTrapGhosts(t *testing.T) {
	want := []string{}
	fs, _ := made(t, 64, "-c 4096", func(dir string) {
		must(t, os.Mkdir(dir+"/d", 0o755))
		for i := range 20000 {
			must(t, os.WriteFile(fmt.Sprintf("%s/d/entry %d", dir, i), nil, 0o644))
		}
		for i := range 20000 {
			name := fmt.Sprintf("entry %d", i)
			if i > 12000 && i%7 == 0 || i%1000 == 0 {
				want = append(want, name)
			} else {
				must(t, os.Remove(dir+"/d/"+name))
			}
		}
	})
	d := walk(t, fs, "d")
	slices.Sort(want)
	if got := list(t, fs, d); !slices.Equal(got, want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	for _, name := range want {
		if _, err := fs.Lookup(d, name); err != nil {
			t.Error(err)
		}
	}
	if _, err := fs.Lookup(d, "entry 1"); !errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("a removed entry: %v", err)
	}
}

// TestTrapFragments: a file of several thousand pieces, on clusters that others
// left between those that stayed, and two of many holes.
func TestTrapFragments(t *testing.T) {
	const n = 3000
	image := mkntfs(t, 24<<20, "-c", "1024")
	dir, unmount := mount(t, image, "")
	write := func(name string, order func(i int64) int64) {
		f, err := os.Create(dir + "/" + name)
		must(t, err)
		defer f.Close()
		for i := range int64(n - 300) {
			at := order(i)
			_, err := f.WriteAt(blockOf(at), at)
			must(t, err)
		}
	}
	write("holes", func(i int64) int64 { return i * 2048 })
	write("backwards", func(i int64) int64 { return (n - i) * 2048 })
	must(t, os.Mkdir(dir+"/d", 0o755))
	for i := range 2 * n {
		must(t, os.WriteFile(fmt.Sprintf("%s/d/%d", dir, i), noise[:1024], 0o644))
	}
	rest, err := os.Create(dir + "/rest")
	must(t, err)
	for _, size := range []int{1 << 20, 1024} {
		for err == nil {
			_, err = rest.Write(noise[:size])
		}
		err = nil
	}
	must(t, rest.Close())
	for i := 1; i < 2*n; i += 2 {
		must(t, os.Remove(fmt.Sprintf("%s/d/%d", dir, i)))
	}
	write("pieces", func(i int64) int64 { return i * 1024 })
	unmount()
	fs := openImage(t, image)
	for _, name := range []string{"pieces", "holes", "backwards"} {
		ino := walk(t, fs, name)
		f, err := fs.Open(ino)
		must(t, err)
		pieces := 0
		for off := int64(0); off < f.Size(); pieces++ {
			_, n, err := f.(filesys.Stored).Stored(off)
			must(t, err)
			off += n
		}
		if pieces < 1000 {
			t.Errorf("%s: only %d pieces", name, pieces)
		}
		checkStored(t, fs, image, ino)
	}
	if got := content(t, fs, "pieces"); len(got) != (n-300)*1024 {
		t.Errorf("%d bytes", len(got))
	} else {
		for i := range n - 300 {
			if !bytes.Equal(got[i*1024:][:1024], blockOf(int64(i)*1024)) {
				t.Fatalf("block %d is wrong", i)
			}
		}
	}
	compare(t, image)
}

// checkStored holds Stored against the image: plain data stands where it says.
func checkStored(t testing.TB, fs filesys.FS, image string, ino uint64) {
	t.Helper()
	f, err := fs.Open(ino)
	must(t, err)
	img, err := os.Open(image)
	must(t, err)
	defer img.Close()
	s := f.(filesys.Stored)
	for off := int64(0); off < f.Size(); {
		at, n, err := s.Stored(off)
		must(t, err)
		if n < 1 || n > f.Size()-off {
			t.Fatalf("stored at %d: %d", off, n)
		}
		got := make([]byte, n)
		if m, err := f.ReadAt(got, off); int64(m) != n {
			t.Fatal(err)
		}
		want := make([]byte, n)
		switch {
		case at.Len == 0:
			if !bytes.Equal(got, want) {
				t.Fatalf("inode %d at %d is no hole", ino, off)
			}
		case at.Len == n && at.Off >= 0:
			_, err = img.ReadAt(want, at.Off)
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Fatalf("inode %d at %d is not stored at %d", ino, off, at.Off)
			}
		}
		off += n
	}
}

// TestTrapCompressed: files of every size and density in compressed directories.
func TestTrapCompressed(t *testing.T) {
	for _, c := range []string{"512", "1024", "4096"} {
		t.Run(c, func(t *testing.T) {
			files := map[string][]byte{}
			text := []byte(strings.Repeat("It was the best of times, it was the worst of times. ", 20000))
			mixed := slices.Concat(text[:70000], noise[:70000], make([]byte, 70000), text[:3333], noise[:100], make([]byte, 200000), text[:65536])
			for name, b := range map[string][]byte{"text": text, "noise": noise, "mixed": mixed, "zeros": make([]byte, 500000)} {
				for _, n := range []int{0, 1, 700, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 100000, 262144, len(b)} {
					if n <= len(b) {
						files[fmt.Sprintf("%s %d", name, n)] = b[:n]
					}
				}
			}
			fs, image := made(t, 64, "-c "+c, func(dir string) {
				must(t, os.Mkdir(dir+"/c", 0o755))
				must(t, unix.Setxattr(dir+"/c", "system.ntfs_attrib", le.AppendUint32(nil, 0x800), 0))
				for name, b := range files {
					must(t, os.WriteFile(dir+"/c/"+name, b, 0o644))
				}
				f, err := os.Create(dir + "/c/sparse")
				must(t, err)
				_, err = f.WriteAt(text[:5000], 300000)
				must(t, err)
				_, err = f.WriteAt(text[:5000], 30000)
				must(t, err)
				must(t, f.Truncate(500000))
				must(t, f.Close())
				must(t, os.WriteFile(dir+"/c/appended", text[:1000], 0o644))
				for i := range 300 {
					f, err := os.OpenFile(dir+"/c/appended", os.O_APPEND|os.O_WRONLY, 0)
					must(t, err)
					_, err = f.Write(mixed[i*1000:][:1000])
					must(t, err)
					must(t, f.Close())
				}
			})
			packed := 0
			for name, want := range files {
				if got := content(t, fs, "c/"+name); !bytes.Equal(got, want) {
					t.Errorf("%s is wrong", name)
				}
				a, err := fs.Attr(walk(t, fs, "c/"+name))
				must(t, err)
				if a.Blocks*512 < a.Size/2 {
					packed++
				}
				checkStored(t, fs, image, walk(t, fs, "c/"+name))
			}
			if packed < 10 {
				t.Errorf("only %d files are compressed", packed)
			}
			compare(t, image)
		})
	}
}

// TestShortLastUnit: a compressed file whose last unit is not compressed may end
// with its clusters, without a hole.
func TestShortLastUnit(t *testing.T) {
	image := mkntfs(t, 16<<20, "-c", "4096")
	dir, unmount := mount(t, image, "")
	must(t, os.WriteFile(dir+"/f", noise[:19*4096-5], 0o644))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	at := bytes.Index(b, le.AppendUint64(le.AppendUint64(nil, 19*4096), 19*4096-5)) - 40
	if at < 0 {
		t.Fatal("the attribute is not found")
	}
	b[at+12], b[at+34] = 1, 4 // compressed, in units of 16 clusters
	fs, _, err := openBytes(b)
	must(t, err)
	if got := content(t, fs, "f"); !bytes.Equal(got, noise[:19*4096-5]) {
		t.Error("the content is wrong")
	}
	f, err := fs.Open(walk(t, fs, "f"))
	must(t, err)
	extents(t, f)
}

// TestInitialized: bytes behind the initialized size were never written, whatever
// lies in their clusters.
func TestInitialized(t *testing.T) {
	image := mkntfs(t, 16<<20, "-c", "4096")
	dir, unmount := mount(t, image, "")
	must(t, os.WriteFile(dir+"/f", noise[:100000], 0o644))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	// The three sizes of its data stand together: 100000 twice.
	sizes := le.AppendUint64(le.AppendUint64(le.AppendUint64(nil, 102400), 100000), 100000)
	at := bytes.Index(b, sizes)
	if at < 0 {
		t.Fatal("the attribute is not found")
	}
	le.PutUint64(b[at+16:], 5000)
	fs, err := ntfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
	must(t, err)
	want := slices.Concat(noise[:5000], make([]byte, 95000))
	if got := content(t, fs, "f"); !bytes.Equal(got, want) {
		t.Error("what was never written is not zeros")
	}
	f, err := fs.Open(walk(t, fs, "f"))
	must(t, err)
	if data, n, err := f.Extent(4999); err != nil || !data || n != 1 {
		t.Errorf("extent of the last initialized byte: %v, %d, %v", data, n, err)
	}
	if data, n, err := f.Extent(5000); err != nil || data || n != 95000 {
		t.Errorf("extent of the rest: %v, %d, %v", data, n, err)
	}
}

// TestHugeSparse: holes cost nothing, however large they are.
func TestHugeSparse(t *testing.T) {
	image := mkntfs(t, 32<<20, "-c", "4096")
	dir, unmount := mount(t, image, "")
	f, err := os.Create(dir + "/f")
	must(t, err)
	for _, off := range []int64{0, 1 << 31, 1<<33 + 7, 1 << 40} {
		_, err = f.WriteAt([]byte("data"), off)
		must(t, err)
	}
	must(t, f.Close())
	must(t, os.WriteFile(dir+"/g", nil, 0o644))
	must(t, os.Truncate(dir+"/g", 1<<40+1))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	fs, _, err := openBytes(b)
	must(t, err)
	file, err := fs.Open(walk(t, fs, "f"))
	must(t, err)
	p := make([]byte, 10)
	for _, off := range []int64{1 << 31, 1<<33 + 7} {
		if _, err := file.ReadAt(p, off-3); err != nil || string(p) != "\x00\x00\x00data\x00\x00\x00" {
			t.Errorf("at %d: %q, %v", off, p, err)
		}
	}
	if n := extents(t, file); n > 20 {
		t.Errorf("%d extents", n)
	}

	// The largest size there is, all of it a hole: the last cluster, the sizes,
	// and the length of the run are put in by hand.
	rec := recordAt(b, int64(walk(t, fs, "g")))
	i := bytes.Index(rec, le.AppendUint64(nil, 1<<40+1)) - 48
	// The run has more clusters than the sizes can tell, and so many that their
	// bytes overflow to none.
	const size, clusters = 1<<63 - 4096, 1 << 52
	le.PutUint64(rec[i+24:], clusters-1)
	for _, off := range []int{40, 48, 56} {
		le.PutUint64(rec[i+off:], size)
	}
	pairs := rec[i+int(le.Uint16(rec[i+32:])):]
	copy(pairs, le.AppendUint64([]byte{0x07}, clusters)[:8])
	fs, _, err = openBytes(b)
	must(t, err)
	file, err = fs.Open(walk(t, fs, "g"))
	must(t, err)
	for _, off := range []int64{0, 1 << 50, 1<<62 - 5, size - 10} {
		if _, err := file.ReadAt(p, off); err != nil || !bytes.Equal(p, make([]byte, 10)) {
			t.Errorf("at %d: %x, %v", off, p, err)
		}
	}
	if n := extents(t, file); n > 20 {
		t.Errorf("%d extents", n)
	}
}

// extents counts what Extent tells.
func extents(t testing.TB, f filesys.File) (calls int) {
	t.Helper()
	for off := int64(0); off < f.Size(); calls++ {
		_, n, err := f.Extent(off)
		must(t, err)
		if n < 1 || n > f.Size()-off {
			t.Fatalf("extent at %d of %d has %d bytes", off, f.Size(), n)
		}
		off += n
	}
	return calls
}

// TestLookupWithoutTable: a volume whose $UpCase is damaged is read all the same.
func TestLookupWithoutTable(t *testing.T) {
	image := mkntfs(t, 16<<20)
	dir, unmount := mount(t, image, "")
	for i := range 300 {
		must(t, os.WriteFile(fmt.Sprintf("%s/file number %d", dir, i), nil, 0o644))
	}
	must(t, os.WriteFile(dir+"/Caf\u00e8", nil, 0o644))
	for name, target := range map[string]string{"same": "caF\u00e8", "other": "caf\u00e9"} {
		must(t, os.WriteFile(dir+"/"+name, nil, 0o644))
		setReparse(t, dir+"/"+name, 0xA000000C, symlinkData(target, 1))
	}
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	record := recordAt(b, 10)
	copy(record, "BAAD")
	fs, err := ntfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
	must(t, err)
	for i := range 300 {
		walk(t, fs, fmt.Sprintf("file number %d", i))
	}
	for name, want := range map[string]string{"same": "Caf\u00e8", "other": "caf\u00e9"} {
		if got, err := fs.Readlink(walk(t, fs, name)); err != nil || got != want {
			t.Errorf("%s leads to %q, %v, want %q", name, got, err, want)
		}
	}
}

// recordAt is record num of an image whose MFT is in one piece.
func recordAt(b []byte, num int64) []byte {
	cluster := int64(le.Uint16(b[0x0B:])) * int64(b[0x0D])
	return b[int64(le.Uint64(b[0x30:]))*cluster+num*1024:][:1024]
}
