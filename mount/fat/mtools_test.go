package fat_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/mount/fat"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// ignore is what FAT does not keep, or mtools do not.
var ignore = fstest.Ignore{Inodes: true, Links: true, DirSize: true, Blocks: true, Owners: true, Atime: true, CtimeBtime: true, Xattrs: true}

// configs are kinds of FAT, by arguments of mkfs.fat.
var configs = []struct {
	args string
	mib  int64
	kind string
}{
	{"-F 12 -s 1", 1, "fat12"},
	{"-F 12 -s 8 -n LABEL", 8, "fat12"},
	{"-F 12 -s 128", 16, "fat12"},
	{"-F 12 -S 4096 -s 1", 8, "fat12"},
	{"-F 16 -s 1", 16, "fat16"},
	{"-F 16 -s 4 -f 1", 20, "fat16"},
	{"-F 16 -S 1024 -s 2 -r 2048", 20, "fat16"},
	{"-F 16 -S 2048 -s 1 -f 4", 20, "fat16"},
	{"-F 16 -s 64", 150, "fat16"},
	{"-F 32 -s 1 -n SMALL", 40, "fat32"},
	{"-F 32 -s 8", 290, "fat32"},
	{"-F 32 -S 4096 -s 1 -R 8 -f 1", 290, "fat32"},
}

// setTimes gives a tree times that FAT can keep, and modes as they are shown.
func setTimes(t testing.TB, dir string) {
	t.Helper()
	at := time.Date(2019, 5, 17, 3, 4, 6, 0, time.UTC)
	var paths []string
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		paths = append(paths, path)
		mode := os.FileMode(0o644)
		if e.IsDir() {
			mode = 0o755
		}
		must(t, os.Chmod(path, mode))
		return err
	}))
	for i := len(paths) - 1; i >= 0; i-- {
		at = at.Add(74 * time.Hour)
		must(t, os.Chtimes(paths[i], at, at))
	}
}

// fill makes the files that go into an image with clusters of the given size.
func fill(t testing.TB, dir string, cluster int64, small bool) {
	t.Helper()
	p := &fstest.Tree{TB: t, Root: dir, Block: cluster, Rand: rand.NewChaCha8([32]byte{3})}
	p.Dir("names")
	for _, name := range []string{"UPPER.TXT", "lower.txt", "Mixed.Txt", "lower2.TXT", "UPPER2.txt", "no extension at all", "two.dots.in it",
		"+,;=[]", "한국어 이름.txt", "Привет", "ünücödé", "façade.ext", "日本語のとても長い名前のファイル.文書", strings.Repeat("x", 255), strings.Repeat("ü", 100),
		"exactly13char", "exactly 26 characters here", "a", ".hidden", "x.y", "~tilde~1", "longname of its own.txt"} {
		p.File("names/"+name, int64(len(name)))
	}
	for _, n := range []int64{0, 1, 511, 512, 513, cluster - 1, cluster, cluster + 1, 3*cluster + 7} {
		p.File(p.Dir("sizes")+fmt.Sprintf("/%d", n), n)
	}
	p.Dir("empty")
	p.File(p.Dir("deep/"+strings.Repeat("d/", 20))+"/bottom", 100)
	n := 60
	if small {
		n = 20
	}
	for i := range n {
		p.File(p.Dir("many")+fmt.Sprintf("/a rather long name of entry number %d", i), int64(i))
	}
}

// TestMtools fills file systems of many kinds by mtools and compares.
func TestMtools(t *testing.T) {
	for _, c := range configs {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			image := mkfs(t, c.mib<<20, strings.Fields(c.args)...)
			fs := openImage(t, image)
			if got := fs.Info().Type; got != c.kind {
				t.Errorf("type is %s, want %s", got, c.kind)
			}
			cluster := int64(fs.Info().BlockSize)
			dir := fstest.TempDir(t)
			small := c.mib < 16 || cluster > 32<<10
			if !small || c.mib > 1 {
				fill(t, dir, cluster, small)
			} else {
				p := &fstest.Tree{TB: t, Root: dir, Block: cluster, Rand: rand.NewChaCha8([32]byte{3})}
				p.File("a file", 3000)
				p.File(p.Dir("a/directory")+"/a long name.txt", 100)
			}
			// Holes for what is written last.
			p := &fstest.Tree{TB: t, Root: dir, Block: cluster, Rand: rand.NewChaCha8([32]byte{4})}
			for i := range 40 {
				p.File(p.Dir("x")+fmt.Sprintf("/%d", i), cluster/2+1)
			}
			p.File("z", 45*cluster-100)
			setTimes(t, dir)
			entries, err := os.ReadDir(dir)
			must(t, err)
			for _, e := range entries {
				if e.Name() != "z" {
					fstest.Run(t, "mcopy", "-i", image, "-s", "-m", "-Q", filepath.Join(dir, e.Name()), "::")
				}
			}
			for i := range 20 {
				name := fmt.Sprintf("x/%d", 2*i)
				fstest.Run(t, "mdel", "-i", image, "::"+name)
				must(t, os.Remove(filepath.Join(dir, name)))
			}
			fstest.Run(t, "mcopy", "-i", image, "-m", "-Q", filepath.Join(dir, "z"), "::")
			if !strings.Contains(c.args, "-f 4") {
				fstest.Run(t, "fsck.fat", "-n", image) // it knows two tables at most
			}
			setDirTimes(t, dir)

			fs = openImage(t, image)
			fstest.Compare(t, dirTimes{fs}, dir, ignore)
			fstest.Exercise(t, fs, 1<<20)
			if w := fs.Info().Warnings; len(w) > 0 {
				t.Errorf("warnings: %q", w)
			}
			checkFree(t, fs, image)
		})
	}
}

// setDirTimes and dirTimes leave the times of directories out of the
// comparison: mtools do not keep them.
func setDirTimes(t testing.TB, dir string) {
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if e.IsDir() {
			must(t, os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0)))
		}
		return err
	}))
}

type dirTimes struct{ filesys.FS }

func (d dirTimes) Attr(ino uint64) (filesys.Attr, error) {
	a, err := d.FS.Attr(ino)
	if a.Mode&filesys.TypeMask == filesys.TypeDir {
		a.Mtime = time.Unix(0, 0)
	}
	return a, err
}

// checkFree compares free space with what mdir says.
func checkFree(t testing.TB, fs filesys.FS, image string) {
	t.Helper()
	out := fstest.Run(t, "mdir", "-i", image, "::")
	i := strings.LastIndex(out, "bytes free")
	if i < 0 {
		t.Fatalf("mdir says %s", out)
	}
	line := out[strings.LastIndexByte(out[:i], '\n')+1 : i]
	var free int64
	if _, err := fmt.Sscan(strings.ReplaceAll(strings.TrimSpace(line), " ", ""), &free); err != nil || free != fs.Info().Free {
		t.Errorf("free is %d, mdir says %q", fs.Info().Free, line)
	}
}

func openImage(t testing.TB, image string) *fat.FS {
	t.Helper()
	f, err := os.Open(image)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	must(t, err)
	fs, err := fat.Open(f, st.Size(), filesys.Options{})
	must(t, err)
	return fs
}
