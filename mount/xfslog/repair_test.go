package xfslog_test

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"cairn/mount/filesys/fstest"
	"cairn/mount/xfslog"
)

// expected is what xfs_repair may say about a volume on which the log has been
// replayed: what it is doing, and what the kernel does only after the replay
// (blocks set aside for copies on write, inodes without a name, the superblock's
// counters).
var expected = regexp.MustCompile(`^(\s+- .*|Phase \d.*|ALERT: The filesystem has valuable.*|ignored because.*|which may be resolved.*|` +
	`Cannot get host.*|Repair may fail.*|the image and the host.*|No modify flag.*|` +
	`leftover CoW extent .*|agi unlinked bucket .*|sb_(icount|ifree|fdblocks) .*|` +
	`disconnected (dir )?inode \d+, would move.*|)$`)

// nameless inodes are on the list of unlinked ones, as links to the next.
var (
	nameless = regexp.MustCompile(`would have reset inode (\d+) nlinks from 0 to [12]`)
	linked   = regexp.MustCompile(`Would clear next_unlinked in inode (\d+)`)
)

// checkRepair: xfs_repair finds all metadata of the replayed volume sound and in
// agreement: trees of free space, inodes, owners and reference counts, mappings,
// directories, checksums.
func checkRepair(t *testing.T, image string) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := loadFile(t, image)
	replayed := fstest.Copy(t, image)
	w, err := os.OpenFile(replayed, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range l.Ranges() {
		if _, err := io.Copy(io.NewOffsetWriter(w, r.Off), io.NewSectionReader(l.Overlay(f), r.Off, r.Len)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("xfs_repair")
	if err != nil {
		path = "/sbin/xfs_repair"
	}
	out, err := exec.Command(path, "-n", replayed).CombinedOutput()
	if len(out) == 0 {
		t.Fatalf("this test needs xfs_repair: install the package xfsprogs (%v)", err)
	}
	if !strings.Contains(string(out), "Phase 7") {
		t.Errorf("xfs_repair did not come to its end: %v", err)
	}
	n := 0
	list := map[string]bool{}
	for _, m := range nameless.FindAllStringSubmatch(string(out), -1) {
		list[m[1]] = true
	}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if m := linked.FindStringSubmatch(line); m != nil && list[m[1]] || nameless.MatchString(line) {
			continue
		}
		if !expected.MatchString(line) {
			if n++; n < 20 {
				t.Errorf("xfs_repair: %s", line)
			}
		}
	}
}

// loadFile reads the log of an image.
func loadFile(t *testing.T, image string) *xfslog.Log {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	super := make([]byte, 512)
	if _, err := f.ReadAt(super, 0); err != nil {
		t.Fatal(err)
	}
	g, err := xfslog.ParseGeometry(super)
	if err != nil {
		t.Fatal(err)
	}
	l, err := xfslog.Load(f, g)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
