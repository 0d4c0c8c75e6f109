package source

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// put writes a small file.
func put(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func TestMachines(t *testing.T) {
	dir, rnd := t.TempDir(), newRand(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, at("Web 1.raw"), rnd, 1<<20, span{0, 4096})
	writeFile(t, at("odd.RAW"), rnd, 12345, span{0, 12345})
	qemuImg(t, "create", "-q", "-f", "qcow2", at("mail.qcow2"), "8M")
	qemuImg(t, "create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", at("flat.vmdk"), "1M")
	must(os.MkdirAll(at("db/deeper"), 0o700))
	writeFile(t, at("db/system.img"), rnd, 2<<20)
	writeFile(t, at("db/1.raw"), rnd, 3<<20)
	writeFile(t, at("db/deeper/x.raw"), rnd, 3<<20)
	writeFile(t, at("db/notes.txt"), rnd, 10)
	must(os.Symlink(at("odd.RAW"), at("link.raw")))
	must(os.Mkdir(at("lost+found"), 0o700))
	for _, name := range []string{".hidden.raw", "x.tmp", "x.part", "x.raw.part", "README", "boot.iso", "vars.fd"} {
		put(t, at(name), "x")
	}
	// What cannot be backed up, and why.
	put(t, at("empty.raw"), "")
	put(t, at("bad.qcow2"), "this is no image")
	put(t, at("short.qcow2"), "QFI\xfb\x00\x00\x00\x03")
	must(os.Mkdir(at("directory.raw"), 0o700))
	must(syscall.Mkfifo(at("fifo.raw"), 0o600))
	must(os.Symlink("loop.raw", at("loop.raw")))
	must(os.Symlink("nowhere.raw", at("dangling.qcow2")))
	must(os.Symlink("/dev/null", at("device.raw")))
	put(t, at("Clash.raw"), "x")
	put(t, at("clash.img"), "x")
	put(t, at("cloud.img"), "QFI\xfb\x00\x00\x00\x03")
	put(t, at("b\xff.qcow2"), "x")
	must(os.Mkdir(at("two"), 0o700))
	put(t, at("two/a.raw"), "x")
	put(t, at("two/A.img"), "x")

	machines, err := images(t, dir).Machines(t.Context())
	must(err)
	type disk struct {
		target, format string
		size           int64
	}
	want := map[string]struct {
		title   string
		problem string
		disks   []disk
	}{
		"web-1":      {"Web 1", "", []disk{{"vda", "raw", 1 << 20}}},
		"odd":        {"odd", "", []disk{{"vda", "raw", 12345}}},
		"link":       {"link", "", []disk{{"vda", "raw", 12345}}},
		"mail":       {"mail", "", []disk{{"vda", "qcow2", 8 << 20}}},
		"flat":       {"flat", "", []disk{{"vda", "vmdk", 1 << 20}}},
		"db":         {"db", "", []disk{{"disk-1", "raw", 3 << 20}, {"system", "raw", 2 << 20}}},
		"empty":      {"empty", "is empty (0 bytes)", []disk{{"vda", "raw", 0}}},
		"bad":        {"bad", "Image is not in qcow2 format", []disk{{"vda", "qcow2", 0}}},
		"short":      {"short", "qemu-img: Could not open", []disk{{"vda", "qcow2", 0}}},
		"directory":  {"directory", "a directory, not an image", []disk{{"vda", "raw", 0}}},
		"fifo":       {"fifo", "a FIFO, not an image", []disk{{"vda", "raw", 0}}},
		"loop":       {"loop", "too many levels of symbolic links", []disk{{"vda", "raw", 0}}},
		"dangling":   {"dangling", "no such file", []disk{{"vda", "qcow2", 0}}},
		"device":     {"device", "a device, not an image", []disk{{"vda", "raw", 0}}},
		"clash":      {"Clash.raw", "Clash.raw and clash.img would both be machine clash", nil},
		"cloud":      {"cloud", "begins like a qcow2 image: rename it to .qcow2", []disk{{"vda", "raw", 0}}},
		"b-7d1016b8": {"b\uFFFD", "not valid UTF-8", []disk{{"vda", "qcow2", 0}}},
		"two":        {"two", "would both be disk a", []disk{{"a-1a3a0b1b", "raw", 0}, {"a", "raw", 0}}},
	}
	for i, m := range machines {
		if i > 0 && machines[i-1].ID >= m.ID {
			t.Errorf("%s after %s", m.ID, machines[i-1].ID)
		}
		w, ok := want[m.ID]
		delete(want, m.ID)
		if !ok {
			t.Errorf("unexpected machine %+v", m)
			continue
		}
		if m.Title != w.title || m.State != StateUnknown || (m.Problem == "") != (w.problem == "") || !strings.Contains(m.Problem, w.problem) {
			t.Errorf("machine %+v, want title %q and problem %q", m, w.title, w.problem)
		}
		if len(m.Disks) != len(w.disks) {
			t.Errorf("machine %s: disks %+v", m.ID, m.Disks)
			continue
		}
		seen := map[string]bool{}
		for k, d := range m.Disks {
			if !validID.MatchString(d.Target) || seen[d.Target] || m.ID != "two" && d.Target != w.disks[k].target ||
				d.Format != w.disks[k].format || d.Size != w.disks[k].size || (d.Problem == "") != (w.problem == "") {
				t.Errorf("machine %s: disk %+v, want %+v", m.ID, d, w.disks[k])
			}
			seen[d.Target] = true
			if d.Problem == "" && d.Size == 12345 && d.Allocated < 4096 {
				t.Errorf("machine %s: %d bytes allocated", m.ID, d.Allocated)
			}
		}
	}
	for id := range want {
		t.Errorf("no machine %s", id)
	}
}

func TestNewImages(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	put(t, file, "x")
	for _, dir := range []string{file, file + "/x", filepath.Join(t.TempDir(), "none")} {
		if _, err := NewImages(dir); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("NewImages(%s): %v", dir, err)
		}
	}
	dir := t.TempDir()
	s := images(t, dir)
	if m, err := s.Machines(t.Context()); err != nil || len(m) != 0 {
		t.Errorf("empty directory: %v, %v", m, err)
	}
	os.Remove(dir)
	if _, err := s.Machines(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory that has gone: %v", err)
	}
}

func TestSnapshotErrors(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "empty.raw"), "")
	put(t, filepath.Join(dir, "bad.qcow2"), "x")
	put(t, filepath.Join(dir, "c.raw"), "x")
	put(t, filepath.Join(dir, "c.img"), "x")
	os.Mkdir(filepath.Join(dir, "db"), 0o700)
	put(t, filepath.Join(dir, "db/bad.qcow2"), "x")
	put(t, filepath.Join(dir, "db/good.raw"), "good")
	s := images(t, dir)
	for id, want := range map[string]error{
		"none": ErrMachineNotFound, "": ErrMachineNotFound, "../x": ErrMachineNotFound,
		"empty": ErrUnusable, "bad": ErrCorrupt, "c": ErrUnusable, "db": ErrCorrupt,
	} {
		snap, err := s.Snapshot(t.Context(), id, SnapshotOptions{})
		if snap != nil || !errors.Is(err, want) || !strings.Contains(err.Error(), id) {
			t.Errorf("snapshot of %q: %v, want %v", id, err, want)
		}
	}
	// Without its bad disk the machine is fine.
	snap := snapshot(t, s, "db", "bad", "no-such-disk")
	if d := snap.Disks(); len(d) != 1 || d[0].Info().Target != "good" || len(snap.Info().Machine.Disks) != 2 {
		t.Errorf("disks %+v of %+v", d, snap.Info())
	}
	if _, err := s.Snapshot(t.Context(), "db", SnapshotOptions{Exclude: []string{"bad", "good"}}); !errors.Is(err, ErrUnusable) {
		t.Errorf("everything excluded: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Snapshot(ctx, "bad", SnapshotOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := s.Machines(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled discovery: %v", err)
	}
}

// TestToolMissing: without QEMU's programs raw images work, and the others say
// what to install.
func TestToolMissing(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, "create", "-q", "-f", "qcow2", filepath.Join(dir, "a.qcow2"), "1M")
	writeFile(t, filepath.Join(dir, "b.raw"), newRand(t), 4096)
	s := images(t, dir)
	t.Setenv("PATH", "/nonexistent")
	m, err := s.Machines(t.Context())
	if err != nil || len(m) != 2 || !strings.Contains(m[0].Problem, "install the package qemu-utils") || m[1].Problem != "" {
		t.Errorf("machines %+v, %v", m, err)
	}
	if _, err := s.Snapshot(t.Context(), "a", SnapshotOptions{}); !errors.Is(err, ErrToolMissing) {
		t.Errorf("snapshot: %v", err)
	}
	snapshot(t, s, "b")
	if _, err := CreateQCOW2(t.Context(), filepath.Join(dir, "new.qcow2"), 1<<20, 0); !errors.Is(err, ErrToolMissing) {
		t.Errorf("create: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestInfoIsRemembered: qemu-img is asked again only when the file changed.
func TestInfoIsRemembered(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qcow2")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "1M")
	s := images(t, dir)
	size := func() int64 {
		m, err := s.Machines(t.Context())
		if err != nil || len(m) != 1 {
			t.Fatalf("machines %+v, %v", m, err)
		}
		return m[0].Disks[0].Size
	}
	if got := size(); got != 1<<20 {
		t.Errorf("size %d", got)
	}
	old := os.Getenv("PATH")
	t.Setenv("PATH", "/nonexistent")
	if got := size(); got != 1<<20 {
		t.Errorf("size %d without asking", got)
	}
	t.Setenv("PATH", old)
	qemuImg(t, "resize", "-q", path, "2M")
	if got := size(); got != 2<<20 {
		t.Errorf("size %d after a change", got)
	}
}
