package source

import (
	"errors"
	"path/filepath"
	"testing"
)

// The disk of a machine that is off is read from anywhere, backing chain and all,
// and never keeps QEMU from opening it.
func TestOpenImage(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	rnd := newRand(t)
	base, top, raw := filepath.Join(elsewhere, "base"), filepath.Join(dir, "top"), filepath.Join(dir, "disk")
	writeFile(t, raw, rnd, 4<<20, span{0, 100_000}, span{1 << 20, 70_000})
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, base)
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
	want := readFile(t, raw)
	for path, format := range map[string]string{raw: "raw", base: "qcow2", top: "qcow2"} {
		d, err := OpenImage(t.Context(), Disk{Target: "vda", Path: path, Format: format})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		same(t, path, content(t, d), want)
		if err := d.Check(); err != nil {
			t.Error(err)
		}
		// A QEMU may open it for writing meanwhile.
		tool(t, "qemu-utils", "qemu-io", "-f", format, "-c", "write -P 7 2M 64k", path)
		if err := d.Check(); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: check: %v", path, err)
		}
		if path != top {
			tool(t, "qemu-utils", "qemu-io", "-f", format, "-c", "write -z 2M 64k", path)
		}
	}
	for _, c := range []struct {
		path, format string
		want         error
	}{
		{filepath.Join(dir, "none"), "raw", ErrUnusable},
		{top, "host_device", ErrUnusable},
		{"/dev/null", "raw", ErrUnusable},
		{raw, "qcow2", ErrCorrupt},
	} {
		if d, err := OpenImage(t.Context(), Disk{Path: c.path, Format: c.format}); !errors.Is(err, c.want) {
			t.Errorf("%s as %s: %v, %v", c.path, c.format, d, err)
		}
	}
}
