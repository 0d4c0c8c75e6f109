package fat_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestLargeVolume: a file at the end of 300 GiB, most of which is a hole.
func TestLargeVolume(t *testing.T) {
	path := filepath.Join(fstest.TempDir(t), "image")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 300<<30))
	fstest.Run(t, "mkfs.fat", "-F", "32", "-s", "128", path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 512)
	_, err = f.ReadAt(b, 0)
	must(t, err)
	const size = 128 * 512
	table, tableSize := int64(le.Uint16(b[14:]))*512, int64(le.Uint32(b[36:]))*512
	heap := table + 2*tableSize
	last := uint32((int64(le.Uint32(b[32:]))*512-heap)/size) + 1
	write := func(p []byte, off int64) {
		t.Helper()
		_, err := f.WriteAt(p, off)
		must(t, err)
	}
	// Three clusters, backwards from the end.
	want := bytes.Clone(noise[:2*size+100])
	for i := range int64(3) {
		next := last - uint32(i) - 1
		if i == 2 {
			next = 0x0FFFFFFF
		}
		for _, at := range []int64{table, table + tableSize} {
			write(le.AppendUint32(nil, next), at+4*(int64(last)-i))
		}
		write(want[i*size:min(int64(len(want)), (i+1)*size)], heap+(int64(last)-i-2)*size)
	}
	write(le.AppendUint32(nil, 1<<32-1), int64(le.Uint16(b[48:]))*512+488) // free clusters: not known
	m := &maker{TB: t}
	write(m.short("LAST    BIN", 0x20, last, len(want)), heap)

	fs := openImage(t, path)
	ino := lookup(t, fs, 1, "last.bin")
	if !bytes.Equal(content(t, fs, ino), want) {
		t.Error("wrong content")
	}
	file, err := fs.Open(ino)
	must(t, err)
	if at, n, err := file.(filesys.Stored).Stored(size + 5); err != nil || n != size-5 || at.Off != heap+int64(last-3)*size+5 {
		t.Errorf("stored at %v, %d, %v", at, n, err)
	}
	out := filepath.Join(fstest.TempDir(t), "out")
	fstest.Run(t, "mcopy", "-i", path, "::LAST.BIN", out)
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("mtools read otherwise: %v", err)
	}
	checkFree(t, fs, path)
}
