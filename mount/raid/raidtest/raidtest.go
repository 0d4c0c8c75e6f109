// Package raidtest has disks on which a real kernel laid out arrays and volumes,
// for the tests of mount/raid, mount/lvm2 and mount/mdraid.
//
// A fixture is made by testdata/vm/make.sh: a small virtual machine runs mdadm,
// lvm and device-mapper over fresh disks, fills each volume with blocks that say
// which they are, and prints the SHA-256 of what the kernel reads from it. The
// machine is then switched off without tidying up, as a disk that is backed up
// would look. testdata/NAME.zst has the disks, NAME.txt what was printed.
//
// It is used by tests only.
package raidtest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"cairn/mount/blockdev"
)

// Fixture is a set of disks and what the kernel read from them.
type Fixture struct {
	Disks   []*Disk
	Volumes []Volume
}

// Volume is what the kernel made of the disks.
type Volume struct {
	Name   string // "vg/lv", or the name of an array
	Size   int64
	SHA256 string
}

// Disk is a disk in memory, which tests may change before they read it.
type Disk struct {
	Data []byte
	// Fail, if set, is asked before each read: an error is the medium's.
	Fail  func(off, n int64) error
	Index int
}

// Load reads a fixture.
func Load(t testing.TB, name string) *Fixture {
	t.Helper()
	_, self, _, _ := runtime.Caller(0)
	base := filepath.Join(filepath.Dir(self), "testdata", name)
	list, err := os.ReadFile(base + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.Open(base + ".zst")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<28))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	f := &Fixture{}
	lines := bufio.NewScanner(bytes.NewReader(list))
	for lines.Scan() {
		var v Volume
		if n, err := fmt.Sscanf(lines.Text(), "disk %d", &v.Size); n == 1 && err == nil {
			d := &Disk{Data: make([]byte, v.Size), Index: len(f.Disks)}
			if _, err := io.ReadFull(z, d.Data); err != nil {
				t.Fatal(err)
			}
			f.Disks = append(f.Disks, d)
			continue
		}
		if _, err := fmt.Sscan(lines.Text(), &v.Name, &v.Size, &v.SHA256); err != nil {
			t.Fatalf("%s.txt: %q: %v", name, lines.Text(), err)
		}
		f.Volumes = append(f.Volumes, v)
	}
	return f
}

// Volume gives a volume of the fixture by its name.
func (f *Fixture) Volume(t testing.TB, name string) Volume {
	t.Helper()
	i := slices.IndexFunc(f.Volumes, func(v Volume) bool { return v.Name == name })
	if i < 0 {
		t.Fatalf("the fixture has no volume %s", name)
	}
	return f.Volumes[i]
}

// Device gives a disk as the bottom of a stack.
func (d *Disk) Device() blockdev.Device {
	return blockdev.Disk(d.Index, d, int64(len(d.Data)))
}

func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if d.Fail != nil {
		if err := d.Fail(off, int64(len(p))); err != nil {
			return 0, err
		}
	}
	return bytes.NewReader(d.Data).ReadAt(p, off)
}

// ErrMedium is what a Disk's Fail may give.
var ErrMedium = errors.New("medium error")

// Digest reads all of a device in pieces of odd sizes and gives the SHA-256.
func Digest(d blockdev.Device) (string, error) {
	h := sha256.New()
	buf := make([]byte, 300000)
	for off := int64(0); off < d.Size(); {
		n := min(int64(len(buf))-off%4097, d.Size()-off)
		if got, err := d.ReadAt(buf[:n], off); int64(got) < n {
			return "", fmt.Errorf("read %d bytes at %d, got %d: %w", n, off, got, err)
		}
		h.Write(buf[:n])
		off += n
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Check compares a device with what the kernel read, byte for byte by the digest,
// and its places with its bytes.
func Check(t testing.TB, f *Fixture, v Volume, d blockdev.Device) {
	t.Helper()
	if d.Size() != v.Size {
		t.Errorf("%s: %d bytes, the kernel has %d", v.Name, d.Size(), v.Size)
		return
	}
	got, err := Digest(d)
	if err != nil {
		t.Errorf("%s: %v", v.Name, err)
		return
	}
	if got != v.SHA256 {
		t.Errorf("%s: SHA-256 %s, the kernel read %s", v.Name, got, v.SHA256)
	}
	CheckPlaces(t, f, v.Name, d)
}

// CheckPlaces holds the places of a device's bytes against its bytes. Bytes that
// are computed from parity have no place and are passed over.
func CheckPlaces(t testing.TB, f *Fixture, name string, d blockdev.Device) {
	t.Helper()
	var want []byte
	for off := int64(0); off < d.Size(); {
		p, n, err := d.Place(off)
		if err != nil && strings.Contains(err.Error(), "parity") {
			off += 512
			continue
		}
		if err != nil || n < 1 || n > d.Size()-off {
			t.Errorf("%s: place of %d: %v, %d bytes, %v", name, off, p, n, err)
			return
		}
		n = min(n, 1<<20)
		got := make([]byte, n)
		if m, err := d.ReadAt(got, off); int64(m) < n {
			t.Errorf("%s: read %d: %v", name, off, err)
			return
		}
		want = append(want[:0], make([]byte, n)...)
		if p.Disk != blockdev.Nowhere {
			if p.Disk < 0 || p.Disk >= len(f.Disks) || p.Off < 0 || p.Off+n > int64(len(f.Disks[p.Disk].Data)) {
				t.Errorf("%s: place of %d is %v, %d bytes: outside of the disks", name, off, p, n)
				return
			}
			copy(want, f.Disks[p.Disk].Data[p.Off:])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the bytes at %d are not those at %v (%d bytes)", name, off, p, n)
			return
		}
		off += n
	}
}
