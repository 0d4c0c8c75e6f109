package exfat_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// TestLargeVolume: a file at the end of 12 TiB, and one of 8 TiB, most of which
// are holes.
func TestLargeVolume(t *testing.T) {
	path := filepath.Join(fstest.TempDir(t), "image")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 12<<40))
	fstest.Run(t, "mkfs.exfat", "-c", "4M", path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 512)
	_, err = f.ReadAt(b, 0)
	must(t, err)
	const size = 4 << 20
	table, heap := int64(le.Uint32(b[80:]))*512, int64(le.Uint32(b[88:]))*512
	count, root := le.Uint32(b[92:]), le.Uint32(b[96:])
	last := count + 1
	write := func(p []byte, off int64) {
		t.Helper()
		_, err := f.WriteAt(p, off)
		must(t, err)
	}
	write(le.AppendUint32(nil, last-1), table+4*int64(last))
	write(le.AppendUint32(nil, end), table+4*int64(last-1))
	write(noise[:size], heap+int64(last-2)*size)
	write(noise[:100], heap+int64(last-3)*size)
	const huge = 8 << 40
	write(noise[:1000], heap+(100-2)*size+huge-1000)
	slot := heap + int64(root-2)*size
	for p := make([]byte, 1); ; slot += 32 {
		if _, err := f.ReadAt(p, slot); err != nil || p[0] == 0 {
			break
		}
	}
	for _, s := range []spec{
		{units: utf16.Encode([]rune("last")), attr: 0x20, first: last, size: size + 100, valid: size + 100},
		{units: utf16.Encode([]rune("huge")), attr: 0x20, first: 100, size: huge, valid: huge, contiguous: true},
	} {
		for _, e := range set(s) {
			write(e, slot)
			slot += 32
		}
	}
	fs := openImage(t, path)
	if !bytes.Equal(content(t, fs, lookup(t, fs, 1, "last")), append(bytes.Clone(noise[:size]), noise[:100]...)) {
		t.Error("wrong content")
	}
	file, err := fs.Open(lookup(t, fs, 1, "huge"))
	must(t, err)
	p := make([]byte, 1000)
	if n, err := file.ReadAt(p, huge-1000); n != 1000 || err != nil || !bytes.Equal(p, noise[:1000]) {
		t.Errorf("the end of 8 TiB: %d, %v", n, err)
	}
	if at, n, err := file.(filesys.Stored).Stored(5); err != nil || n != huge-5 || at.Off != heap+(100-2)*size+5 {
		t.Errorf("stored at %v, %d, %v", at, n, err)
	}
	dir, _ := mount(t, path, ",ro")
	got, err := os.ReadFile(filepath.Join(dir, "last"))
	if err != nil || !bytes.Equal(got, content(t, fs, lookup(t, fs, 1, "last"))) {
		t.Errorf("the driver reads otherwise: %v", err)
	}
	compareStatfs(t, fs, dir)
}
