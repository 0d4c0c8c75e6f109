package guesttest

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Bus is what connects a drive to its guest.
type Bus string

const (
	VirtioBlk  Bus = "virtio" // drives vda, vdb, …
	VirtioSCSI Bus = "scsi"   // drives sda, sdb, …
)

// Drive is a disk image as a machine has it.
type Drive struct {
	Path   string
	Format string // as qemu-img names it; empty is raw
	Bus    Bus    // empty is VirtioBlk
	Target string // empty is the next free name on the bus
	Serial string // what the guest calls it; empty is Target
}

// DiskOptions are what Disk may do otherwise. The zero value makes an ext4 file
// system on zeroes.
type DiskOptions struct {
	Bus    Bus
	Blank  bool   // no file system
	Random uint64 // a seed: what is not of the file system is random bytes, not zeroes
}

// Disk makes an image with an empty ext4 file system on the whole disk, and
// returns it as a drive. size is in bytes, format one of qemu-img's.
func Disk(tb testing.TB, path, format string, size int64, opts DiskOptions) Drive {
	tb.Helper()
	raw := path
	if format != "raw" {
		raw = path + ".raw"
		defer os.Remove(raw)
	}
	f, err := os.OpenFile(raw, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		tb.Fatal(err)
	}
	if err = f.Truncate(size); err == nil && opts.Random != 0 {
		var seed [32]byte
		for i := range 8 {
			seed[i] = byte(opts.Random >> (8 * i))
		}
		_, err = io.CopyN(f, rand.NewChaCha8(seed), size)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		tb.Fatalf("make disk %s: %v", path, err)
	}
	if !opts.Blank {
		// Inode tables and journal are written now, not by the guest later: an
		// idle guest shall leave its disk alone. Nothing is discarded, which
		// would put zeroes for random bytes.
		run(tb, "mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", raw)
	}
	if raw != path {
		run(tb, "qemu-img", "convert", "-f", "raw", "-O", format, raw, path)
	}
	return Drive{Path: path, Format: format, Bus: opts.Bus}
}

// targets returns the drives with every field filled in.
func targets(drives []Drive) []Drive {
	taken := map[string]bool{}
	for _, d := range drives {
		taken[d.Target] = true
	}
	full := make([]Drive, len(drives))
	for i, d := range drives {
		if d.Format == "" {
			d.Format = "raw"
		}
		if d.Bus == "" {
			d.Bus = VirtioBlk
		}
		prefix := "vd"
		if d.Bus == VirtioSCSI {
			prefix = "sd"
		}
		for n := 0; d.Target == ""; n++ {
			if name := prefix + letters(n); !taken[name] {
				d.Target, taken[name] = name, true
			}
		}
		if d.Serial == "" {
			d.Serial = d.Target
		}
		full[i] = d
	}
	return full
}

// letters counts a, b, …, z, aa, ab, … from 0.
func letters(n int) string {
	if n < 26 {
		return string(rune('a' + n))
	}
	return letters(n/26-1) + string(rune('a'+n%26))
}

// Fsck checks that the raw image holds a whole ext4 file system whose journal
// needs no replay, as it must after a freeze.
func Fsck(tb testing.TB, raw string) {
	tb.Helper()
	run(tb, "e2fsck", "-fn", raw)
	if strings.Contains(run(tb, "dumpe2fs", "-h", raw), "needs_recovery") {
		tb.Fatalf("%s: the journal is not clean", raw)
	}
}

// Extract returns a directory with the files of the ext4 file system in a raw
// image, without mounting it: what its journal still holds is not there.
func Extract(tb testing.TB, raw string) string {
	tb.Helper()
	dir := filepath.Join(Dir(tb), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	// debugfs ends with 0 whatever happens.
	run(tb, "debugfs", "-R", "rdump / "+dir, raw)
	return dir
}
