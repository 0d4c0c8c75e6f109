package btrfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// patchSuper changes the superblock, or its copy at 64 MiB, and makes its
// checksum right.
func patchSuper(t *testing.T, b []byte, off int, fn func(s []byte)) {
	t.Helper()
	s := b[off:][:4096]
	fn(s)
	clear(s[:32])
	binary.LittleEndian.PutUint32(s, crc32.Checksum(s[32:], crc32.MakeTable(crc32.Castagnoli)))
}

const firstSuper, secondSuper = 64 << 10, 64 << 20

// TestOpen: what cannot be read is refused by its name.
func TestOpen(t *testing.T) {
	v := mkfs(t, 1, 130, "-L label")
	dir, unmount := v.mount(t, false, "")
	writeFile(t, filepath.Join(dir, "file"), noise)
	unmount()
	sound, err := os.ReadFile(v.images[0])
	must(t, err)
	put64 := func(off int, or uint64) func(s []byte) {
		return func(s []byte) {
			binary.LittleEndian.PutUint64(s[off:], binary.LittleEndian.Uint64(s[off:])|or)
		}
	}
	for _, c := range []struct {
		fn   func(s []byte)
		want error
		text string
	}{
		{put64(0xbc, 0x1000), filesys.ErrUnsupported, "zoned"},
		{put64(0xbc, 0x2000), filesys.ErrUnsupported, "extent-tree-v2"},
		{put64(0xbc, 0x4000), filesys.ErrUnsupported, "raid-stripe-tree"},
		{put64(0xbc, 1<<40|0x4000), filesys.ErrUnsupported, "raid-stripe-tree, incompat bit 40"},
		{put64(0x38, 1<<33), filesys.ErrUnsupported, "metadata dump"},
		{put64(0x38, 1<<35), filesys.ErrUnsupported, "UUID"},
		{func(s []byte) { s[0x92] = 9 }, filesys.ErrCorrupt, "sectors"},
		{func(s []byte) { s[0x96] = 9 }, filesys.ErrCorrupt, "nodes"},
		{func(s []byte) { s[0xc6] = 8 }, filesys.ErrCorrupt, "levels"},
		{func(s []byte) { s[0xa0], s[0xa1] = 0xFF, 0xFF }, filesys.ErrCorrupt, "system chunks"},
		{func(s []byte) { s[0xa0] = 0x10 }, filesys.ErrCorrupt, "chunk"},
		{func(s []byte) { s[0x48]++ }, filesys.ErrCorrupt, "generation"},
		{func(s []byte) { s[0x20]++ }, filesys.ErrCorrupt, "another file system"},
		{func(s []byte) { s[0x51]++ }, filesys.ErrCorrupt, "node"},
		{func(s []byte) { s[0x31]++ }, filesys.ErrCorrupt, "lies at"},
		{func(s []byte) { s[0x47]++ }, filesys.ErrWrongType, "no superblock"},
		{put64(0x60, 0x1000), filesys.ErrCorrupt, "--ignore-log"},
	} {
		b := bytes.Clone(sound)
		clear(b[secondSuper:][:4096])
		patchSuper(t, b, firstSuper, c.fn)
		if _, err := openReader(bytes.NewReader(b), int64(len(b))); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.text, err)
		}
	}
	// A checksum of unknown kind, and one that is wrong.
	b := bytes.Clone(sound)
	clear(b[secondSuper:][:4096])
	b[firstSuper+0xc4] = 9
	if _, err := openReader(bytes.NewReader(b), int64(len(b))); !errors.Is(err, filesys.ErrUnsupported) {
		t.Errorf("checksums of type 9: %v", err)
	}
	for _, n := range []int64{0, 4096, firstSuper, firstSuper + 4095} {
		if _, err := openReader(bytes.NewReader(sound[:n]), n); !errors.Is(err, filesys.ErrWrongType) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if _, err := btrfs.Open(nil, filesys.Options{}); !errors.Is(err, filesys.ErrInvalid) {
		t.Errorf("no devices: %v", err)
	}
	t.Run("copies", func(t *testing.T) { testCopies(t, sound) })
}

// testCopies: a copy of the superblock stands in for the first one where that
// is damaged, and not where it is of another file system.
func testCopies(t *testing.T, sound []byte) {
	warnings := func(b []byte) (string, error) {
		fs, err := openReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return "", err
		}
		if got := content(t, fs, "file"); !bytes.Equal(got, noise) {
			t.Error("wrong content")
		}
		return strings.Join(fs.Info().Warnings, " "), nil
	}
	if w, err := warnings(sound); err != nil || w != "" {
		t.Errorf("%q, %v", w, err)
	}
	b := bytes.Clone(sound)
	b[firstSuper+0x12b]++ // the label
	if w, err := warnings(b); err != nil || !strings.Contains(w, "copy at 67108864 is used") {
		t.Errorf("the first one is damaged: %q, %v", w, err)
	}
	b[secondSuper+0x12b]++
	if _, err := warnings(b); !errors.Is(err, filesys.ErrCorrupt) {
		t.Errorf("both are damaged: %v", err)
	}
	b = bytes.Clone(sound)
	patchSuper(t, b, firstSuper, func(s []byte) { s[0x48]-- })
	if w, err := warnings(b); err != nil || !strings.Contains(w, "newer") {
		t.Errorf("the first one is older: %q, %v", w, err)
	}
	b = bytes.Clone(sound)
	patchSuper(t, b, secondSuper, func(s []byte) { s[0x48]++; s[0x20]++ })
	if w, err := warnings(b); err != nil || w != "" {
		t.Errorf("the copy is of another file system: %q, %v", w, err)
	}
}

// TestChangedUUID: tree blocks then have another UUID than the file system.
func TestChangedUUID(t *testing.T) {
	v := mkfs(t, 1, 130, "")
	dir, unmount := v.mount(t, false, "")
	fill(t, dir, false)
	unmount()
	fstest.Run(t, "btrfstune", "-f", "-M", "01234567-89ab-cdef-0123-456789abcdef", v.images[0])
	kernel, _ := v.mount(t, true, "")
	fs := v.open(t)
	fstest.Compare(t, fs, kernel, fstest.Ignore{})
	id, err := identify(v.devices(t)[0])
	if err != nil || id.FSID != "01234567-89ab-cdef-0123-456789abcdef" || id.MetadataUUID == id.FSID || fs.Info().UUID != id.FSID {
		t.Errorf("%+v, %v", id, err)
	}
}

// away is a device that can be away.
type away struct {
	btrfs.Device
	gone  bool
	asked int // while it was
}

func (a *away) ReadAt(p []byte, off int64) (int, error) {
	if a.gone {
		a.asked++
		return 0, errors.New("the device is away")
	}
	return a.Device.ReadAt(p, off)
}

// TestUsageNotRemembered: free space that could not be counted is counted the next
// time, and a device that is away is not asked for every block group.
func TestUsageNotRemembered(t *testing.T) {
	v := mkfs(t, 1, 130, "")
	want := v.open(t).Info()
	d := &away{Device: v.devices(t)[0]}
	fs, err := btrfs.Open([]btrfs.Device{d}, filesys.Options{})
	must(t, err)
	d.gone = true
	if info := fs.Info(); info.Free != 0 || info.Available != 0 || info.Size != want.Size || d.asked > 2 {
		t.Errorf("while the device is away: %+v, asked %d times", info, d.asked)
	}
	d.gone = false
	if info := fs.Info(); info.Size != want.Size || info.Free != want.Free || info.Available != want.Available {
		t.Errorf("%+v, want %+v", info, want)
	}
}
