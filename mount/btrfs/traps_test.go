package btrfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestDirectoryOf20000 also counts what a look-up costs, cold.
func TestDirectoryOf20000(t *testing.T) {
	v := mkfs(t, 1, 130, "")
	dir, unmount := v.mount(t, false, "")
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	for i := range 20000 {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("d/file %d", i)), nil, 0o644))
	}
	unmount()
	d := v.devices(t)[0]
	rec := fstest.NewRecorder(d)
	fs, err := btrfs.Open([]btrfs.Device{disk{rec, d.Size()}}, filesys.Options{})
	must(t, err)
	ino := walk(t, fs, "d")
	before := rec.Bytes()
	if _, err := fs.Lookup(ino, "file 19999"); err != nil {
		t.Fatal(err)
	}
	if n := rec.Bytes() - before; n > 64<<10 {
		t.Errorf("a look-up reads %d bytes", n)
	}
	count := 0
	must(t, fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool {
		if e.Name != fmt.Sprintf("file %d", count) {
			t.Errorf("entry %d is %q", count, e.Name)
		}
		count++
		return true
	}))
	if count != 20000 {
		t.Errorf("%d entries", count)
	}
}

// TestHashCollisions: names and attributes of one hash share an item.
func TestHashCollisions(t *testing.T) {
	v := mkfs(t, 1, 130, "")
	dir, unmount := v.mount(t, false, "")
	var names []string
	for i := 0; len(names) < 7; i++ {
		if name := collide(fmt.Sprintf("a name that is number %03d, ", i)); !strings.ContainsAny(name, "/\x00") {
			names = append(names, name)
		}
	}
	for _, name := range names {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644))
		must(t, unix.Setxattr(filepath.Join(dir, names[0]), "trusted."+name, []byte(name), 0))
	}
	must(t, os.Remove(filepath.Join(dir, names[3])))
	unmount()
	fs := v.open(t)
	kernel, _ := v.mount(t, true, "")
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
	if _, err := fs.Lookup(fs.Root(), names[3]); !errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("a removed name: %v", err)
	}
}

// collide appends four bytes to a name that make its CRC-32C what it is for all
// others of the length, whatever stands before it.
func collide(name string) string {
	table := crc32.MakeTable(crc32.Castagnoli)
	state := ^uint32(1)
	for _, c := range []byte(name) {
		state = table[byte(state)^c] ^ state>>8
	}
	want := uint32(0x12345678)
	for range 4 { // back over the four bytes
		for i, entry := range table {
			if entry>>24 == want>>24 {
				want = (want^entry)<<8 | uint32(i)
				break
			}
		}
	}
	return string(binary.LittleEndian.AppendUint32([]byte(name), want^state))
}

// TestConcurrentReads: nothing is shared that should not be.
func TestConcurrentReads(t *testing.T) {
	v := mkfs(t, 1, 130, "")
	dir, unmount := v.mount(t, false, "compress=zstd")
	long := bytes.Repeat(text(100000), 30)
	writeFile(t, filepath.Join(dir, "compressed"), long)
	writeFile(t, filepath.Join(dir, "noise"), noise)
	unmount()
	fs := v.open(t)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 0))
			p := make([]byte, 200000)
			for range 100 {
				name, want := "noise", noise
				if r.IntN(2) == 0 {
					name, want = "compressed", long
				}
				f, err := fs.Open(walk(t, fs, name))
				if err != nil {
					t.Error(err)
					return
				}
				off := r.Int64N(int64(len(want)))
				n, err := f.ReadAt(p[:1+r.IntN(len(p)-1)], off)
				if err != nil && err != io.EOF || !bytes.Equal(p[:n], want[off:off+int64(n)]) {
					t.Errorf("%s: read at %d: %d, %v", name, off, n, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestRewrittenExtents: a database's file, rewritten at random, with a snapshot
// that keeps the old extents.
func TestRewrittenExtents(t *testing.T) {
	v := mkfs(t, 1, 130, "-n 4096")
	dir, unmount := v.mount(t, false, "compress=lzo")
	subvolume(t, "create", filepath.Join(dir, "sub"))
	r := rand.New(rand.NewPCG(1, 1))
	path := filepath.Join(dir, "sub/database")
	writeFile(t, path, append(bytes.Clone(noise), text(1<<20)...))
	for i := range 3 {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		for range 300 {
			_, err := f.WriteAt(text(1+r.IntN(9000)), r.Int64N(2<<20))
			must(t, err)
		}
		must(t, f.Sync())
		must(t, f.Close())
		subvolume(t, "snapshot", "-r", filepath.Join(dir, "sub"), filepath.Join(dir, strings.Repeat("s", i+1)))
	}
	unmount()
	fs := v.open(t)
	kernel, _ := v.mount(t, true, "")
	fstest.Compare(t, fs, kernel, fstest.Ignore{Inodes: true})
}
