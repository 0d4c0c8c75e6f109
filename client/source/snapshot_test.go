package source

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// imageFormats are all formats, with the options to make one of each kind.
var imageFormats = map[string][]string{
	"a.qcow2":     {"-O", "qcow2"},
	"v2.qcow2":    {"-O", "qcow2", "-o", "compat=0.10,cluster_size=4k"},
	"zip.qcow2":   {"-O", "qcow2", "-c"},
	"a.qcow":      {"-O", "qcow"},
	"a.qed":       {"-O", "qed"},
	"a.vmdk":      {"-O", "vmdk"},
	"flat.vmdk":   {"-O", "vmdk", "-o", "subformat=monolithicFlat"},
	"split.vmdk":  {"-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"},
	"stream.vmdk": {"-O", "vmdk", "-o", "subformat=streamOptimized"},
	"a.vhdx":      {"-O", "vhdx"},
	"a.vhd":       {"-O", "vpc", "-o", "force_size=on"},
	"fixed.vhd":   {"-O", "vpc", "-o", "subformat=fixed,force_size=on"},
	"a.vdi":       {"-O", "vdi"},
	"fixed.vdi":   {"-O", "vdi", "-o", "static=on"},
}

// TestFormats: an image of every format has the content of the raw one it was
// made of, and holes where that has them.
func TestFormats(t *testing.T) {
	const size = 16 << 20
	raw := filepath.Join(t.TempDir(), "a.raw")
	rnd := newRand(t)
	writeFile(t, raw, rnd, size, span{0, 2 << 20}, span{9<<20 + 4096, 8192}, span{size - 65536, 65536})
	want := readFile(t, raw)
	for name, args := range imageFormats {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			qemuImg(t, append(append([]string{"convert", "-f", "raw"}, args...), raw, filepath.Join(dir, name))...)
			s := images(t, dir)
			m, err := s.Machines(t.Context())
			if err != nil || len(m) != 1 || m[0].Problem != "" {
				t.Fatalf("machines %+v, %v", m, err)
			}
			snap := snapshot(t, s, m[0].ID)
			d := snap.Disks()[0]
			if info := d.Info(); info != m[0].Disks[0] || info.Size != size || info.Allocated <= 0 || d.Incremental() {
				t.Errorf("disk %+v, discovered as %+v", info, m[0].Disks[0])
			}
			same(t, "from extents", content(t, d), want)
			var sum int64
			for _, e := range extents(t, d) {
				sum += e.length
			}
			// vhdx has blocks of 8 MiB or more; a fixed image may be full.
			if limit := int64(size / 2); !strings.Contains(name, "fixed") && name != "a.vhdx" && sum > limit {
				t.Errorf("%d bytes in extents of an image with %d of data", sum, 2<<20+8192+65536)
			}
			all := make([]byte, size)
			if n, err := d.ReadAt(all, 0); n != size || err != nil && err != io.EOF {
				t.Fatalf("read: %d, %v", n, err)
			}
			same(t, "as a whole", all, want)
			readAnywhere(t, d, want, rnd)
			if err := snap.Check(t.Context()); err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
}

// TestCorrupt: damage to an image's structure is an error with QEMU's words,
// and never zeros.
func TestCorrupt(t *testing.T) {
	const size = 6 << 20
	raw := filepath.Join(t.TempDir(), "a.raw")
	rnd := newRand(t)
	writeFile(t, raw, rnd, size, span{0, size})
	garble := func(off, n int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			b := readFile(t, path)
			if off < 0 {
				off += int64(len(b))
			}
			rnd.Read(b[off : off+n])
			put(t, path, string(b))
		}
	}
	shorten := func(t *testing.T, path string) {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, st.Size()*6/10); err != nil {
			t.Fatal(err)
		}
	}
	type damage struct {
		image string
		do    func(*testing.T, string)
		file  string // to damage, if it is not the image
	}
	tests := map[string]damage{
		"qcow2 header":    {"a.qcow2", garble(0, 104), ""},
		"qcow2 L1":        {"a.qcow2", garble(3<<16, 64), ""}, // clusters: header, refcount table, refcount block, L1
		"qcow2 L2":        {"a.qcow2", garble(4<<16, 512), ""},
		"qcow2 refcounts": {"a.qcow2", garble(2<<16, 512), ""},
		"qcow2 table":     {"a.qcow2", garble(1<<16, 64), ""},
		"vmdk header":     {"a.vmdk", garble(0, 64), ""},
		"vhdx header":     {"a.vhdx", garble(0, 512<<10), ""},
		"vhd footer":      {"fixed.vhd", garble(-512, 512), ""},
		"vdi header":      {"a.vdi", garble(64, 200), ""},
		"qed header":      {"a.qed", garble(0, 64), ""},
		"flat shortened":  {"flat.vmdk", shorten, "flat-flat.vmdk"},
		"split shortened": {"split.vmdk", shorten, "split-s001.vmdk"},
	}
	for name := range imageFormats {
		if name != "flat.vmdk" && name != "split.vmdk" {
			tests[name+" shortened"] = damage{name, shorten, ""}
		}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, test.image)
			qemuImg(t, append(append([]string{"convert", "-f", "raw"}, imageFormats[test.image]...), raw, path)...)
			victim := path
			if test.file != "" {
				victim = filepath.Join(dir, test.file)
			}
			test.do(t, victim)
			s := images(t, dir)
			snap, err := s.Snapshot(t.Context(), stem(test.image), SnapshotOptions{})
			if err == nil {
				defer snap.Close()
				_, err = snap.Disks()[0].ReadAt(make([]byte, size), 0)
				t.Errorf("opened; read: %v", err)
			}
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want %v", err, ErrCorrupt)
			}
			t.Log(err)
			if left := children(t); len(left) > 0 {
				t.Errorf("processes left: %v", left)
			}
		})
	}
}

// TestInUse: what a QEMU writes to is not read, or only with a warning.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a.raw"), newRand(t), 1<<20)
	qemuImg(t, "create", "-q", "-f", "qcow2", filepath.Join(dir, "b.qcow2"), "1M")
	s := images(t, dir)
	for _, l := range []*layer{{path: filepath.Join(dir, "a.raw"), format: "raw"}, {path: filepath.Join(dir, "b.qcow2"), format: "qcow2"}} {
		vm, err := openExport(t.Context(), l.filename(true), 1, noContexts)
		if err != nil {
			t.Fatal(err)
		}
		defer vm.kill()
	}
	m, err := s.Machines(t.Context())
	if err != nil || len(m) != 2 || m[0].State != StateRunning || m[1].State != StateRunning || m[0].Problem+m[1].Problem != "" {
		t.Errorf("machines %+v, %v", m, err)
	}
	if w := snapshot(t, s, "a").Info().Warnings; len(w) != 1 || !strings.Contains(w[0].Text, "may mix moments") {
		t.Errorf("warnings %v", w)
	}
	if _, err := s.Snapshot(t.Context(), "b", SnapshotOptions{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "b.qcow2") {
		t.Errorf("snapshot: %v", err)
	}
	// Had the lock come after we looked, QEMU would have noticed.
	l := &layer{path: filepath.Join(dir, "b.qcow2"), format: "qcow2"}
	if err := l.check(t.Context()); !errors.Is(err, ErrInUse) {
		t.Errorf("check: %v", err)
	}
	if _, err := openQEMU(t.Context(), Disk{}, &layer{path: l.path, format: "qcow2"}); !errors.Is(err, ErrInUse) {
		t.Errorf("open: %v", err)
	}
}

// TestChanged: an image that is written to while it is read is found out, one
// that is replaced is read on as it was.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	rnd := newRand(t)
	raw, qcow2 := filepath.Join(dir, "a.raw"), filepath.Join(dir, "b.qcow2")
	writeFile(t, raw, rnd, 1<<20, span{0, 1 << 20})
	qemuImg(t, "convert", "-O", "qcow2", raw, qcow2)
	want := readFile(t, raw)
	s := images(t, dir)
	for id, path := range map[string]string{"a": raw, "b": qcow2} {
		t.Run(id, func(t *testing.T) {
			snap := snapshot(t, s, id)
			other := path + ".new"
			writeFile(t, other, rnd, 5<<20)
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
			os.Rename(other, path)
			same(t, "replaced", content(t, snap.Disks()[0]), want)
			if err := snap.Check(t.Context()); err != nil {
				t.Errorf("check after the file was replaced: %v", err)
			}
			if err := os.Rename(path+".old", path); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{0}, 900_000); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if err := snap.Check(t.Context()); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "disk vda") {
				t.Errorf("check: %v", err)
			}
		})
	}
}

// TestTruncatedUnderQEMU: QEMU reads zeros then, but Check knows.
func TestTruncatedUnderQEMU(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, ".a"), newRand(t), 1<<20, span{0, 1 << 20})
	qemuImg(t, "convert", "-O", "qcow2", filepath.Join(dir, ".a"), filepath.Join(dir, "a.qcow2"))
	snap := snapshot(t, images(t, dir), "a")
	if err := os.Truncate(filepath.Join(dir, "a.qcow2"), 500_000); err != nil {
		t.Fatal(err)
	}
	if err := snap.Check(t.Context()); !errors.Is(err, ErrTruncated) {
		t.Errorf("check: %v", err)
	}
}

// TestSnapshotOfSeveral: all disks of a machine, in order, of any format.
func TestSnapshotOfSeveral(t *testing.T) {
	dir, rnd := t.TempDir(), newRand(t)
	vm := filepath.Join(dir, "vm")
	os.Mkdir(vm, 0o700)
	want := map[string][]byte{}
	for i := range 34 { // more than many services take
		name := fmt.Sprintf("d%02d", i)
		path := filepath.Join(vm, name+".raw")
		writeFile(t, path, rnd, 1<<20, span{int64(i) << 12, 4096})
		want[name] = readFile(t, path)
		if i%8 == 0 {
			qemuImg(t, "convert", "-O", "qcow2", path, filepath.Join(vm, name+".qcow2"))
			os.Remove(path)
		}
	}
	snap := snapshot(t, images(t, dir), "vm")
	for i, d := range snap.Disks() {
		if target := d.Info().Target; target != slices.Sorted(maps.Keys(want))[i] {
			t.Errorf("disk %d is %s", i, target)
		} else {
			same(t, target, content(t, d), want[target])
		}
	}
	info := snap.Info()
	if len(snap.Disks()) != 34 || info.Consistency != CrashConsistent || info.Time.IsZero() || info.Checkpoint != "" || info.FrozenFor != 0 {
		t.Errorf("%d disks, %+v", len(snap.Disks()), info)
	}
	if err := errors.Join(snap.Check(t.Context()), snap.Keep(t.Context()), snap.Close(), snap.Close()); err != nil {
		t.Error(err)
	}
}

// TestWorst: of a snapshot with a changed and a truncated disk, the second
// counts.
func TestWorst(t *testing.T) {
	dir := t.TempDir()
	vm := filepath.Join(dir, "vm")
	os.Mkdir(vm, 0o700)
	for _, name := range []string{"a.raw", "b.raw", "c.raw"} {
		writeFile(t, filepath.Join(vm, name), newRand(t), 1<<20)
	}
	snap := snapshot(t, images(t, dir), "vm")
	put(t, filepath.Join(vm, "b.raw"), "short")
	os.Truncate(filepath.Join(vm, "a.raw"), 2<<20)
	err := snap.Check(t.Context())
	if !errors.Is(err, ErrTruncated) || errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "disk b") {
		t.Errorf("check: %v", err)
	}
}
