package raidtest

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
)

// Metadata lists where the disks have something else than the contents of volumes
// and unused space: blocks of 4096 bytes that are not all text.
func (f *Fixture) Metadata() []blockdev.Place {
	var list []blockdev.Place
	for i, d := range f.Disks {
		for off := 0; off+4096 <= len(d.Data); off += 4096 {
			b := d.Data[off:][:4096]
			if bytes.HasPrefix(b, []byte("stale")) && bytes.HasSuffix(b, []byte("... ")) || bytes.Equal(b[:16], b[16:32]) && bytes.Equal(b[:2048], b[2048:]) {
				continue
			}
			list = append(list, blockdev.Place{Disk: i, Off: int64(off)})
		}
	}
	return list
}

// Damage changes bytes of the metadata: each five bytes of patches are which block
// (two), where in it (two), and the new byte. It gives a function that takes all
// of it back.
func (f *Fixture) Damage(blocks []blockdev.Place, patches []byte) (undo func()) {
	saved := map[blockdev.Place][]byte{}
	for ; len(patches) >= 5 && len(saved) < 64; patches = patches[5:] {
		p := blocks[(int(patches[0])|int(patches[1])<<8)%len(blocks)]
		b := f.Disks[p.Disk].Data[p.Off:][:4096]
		if saved[p] == nil {
			saved[p] = bytes.Clone(b)
		}
		b[(int(patches[2])|int(patches[3])<<8)%4096] = patches[4]
	}
	return func() {
		for p, b := range saved {
			copy(f.Disks[p.Disk].Data[p.Off:], b)
		}
	}
}

// Exercise reads a device here and there, and fails t where an answer breaks a
// rule of package blockdev or an error is of no known kind.
func Exercise(t testing.TB, f *Fixture, d blockdev.Device) {
	t.Helper()
	size := d.Size()
	if size < 0 {
		t.Fatalf("a device of %d bytes", size)
	}
	buf := make([]byte, 9000)
	for _, off := range []int64{0, 4096, 70000, size / 3, size / 2, size - 5000, size - 1, size} {
		if off < 0 || off > size {
			continue
		}
		n, err := d.ReadAt(buf, off)
		known(t, err)
		if n < len(buf) && err == nil || err == io.EOF && int64(n) != max(min(size-off, int64(len(buf))), 0) {
			t.Fatalf("read of %d bytes at %d of %d: %d, %v", len(buf), off, size, n, err)
		}
		if off == size {
			continue
		}
		for range 3 {
			p, n, err := d.Place(off)
			known(t, err)
			if err == nil && (n < 1 || n > size-off) {
				t.Fatalf("place of %d of %d: %d bytes", off, size, n)
			}
			if err == nil && p.Disk != blockdev.Nowhere && (p.Disk < 0 || p.Disk >= len(f.Disks) || p.Off < 0 || p.Off+n > int64(len(f.Disks[p.Disk].Data))) {
				t.Fatalf("place of %d: %d bytes at %v", off, n, p)
			}
			if off += max(n, 1); err != nil || off >= size {
				break
			}
		}
	}
	if _, _, err := d.Place(size); !errors.Is(err, blockdev.ErrRange) {
		t.Fatalf("place behind the end: %v", err)
	}
	if n, err := d.ReadAt(buf[:1], size); n != 0 || err != io.EOF {
		t.Fatalf("read behind the end: %d, %v", n, err)
	}
}

func known(t testing.TB, err error) {
	t.Helper()
	for _, sentinel := range []error{nil, io.EOF, filesys.ErrCorrupt, filesys.ErrUnsupported, ErrMedium} {
		if errors.Is(err, sentinel) {
			return
		}
	}
	t.Fatalf("an error of no known kind: %v", err)
}
