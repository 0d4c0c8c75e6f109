//go:build e2e

package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cairn/mount/ext4"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/jbd2/dirtytest"
	"cairn/mount/mounttest"
)

// Disks copied from under running mounts, with no freeze: a mount of the point
// shows what the kernel shows once it has replayed its own copy.
func TestDirtyDisk(t *testing.T) {
	w := newWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	type disk struct {
		machine, image string
		c              dirtytest.Config
	}
	var disks []disk
	for _, c := range dirtytest.Configs {
		var images []string
		switch c.Name {
		case "ext4":
			images = append(dirtytest.Live(t, c, 2, rng), dirtytest.Make(t, c, rng))
		case "ext4, small log that wraps", "orphan file, checksum seed", "ext3":
			images = []string{dirtytest.Make(t, c, rng)}
		}
		for _, image := range images {
			d := disk{"dirty" + string(rune('a'+len(disks))), image, c}
			w.copyFile(image, filepath.Join(w.images, d.machine+".raw"))
			disks = append(disks, d)
		}
	}
	if len(disks) < 6 {
		t.Fatalf("only %d disks", len(disks))
	}
	w.startServer()
	w.startAgent()
	w.setUp()
	for _, d := range disks {
		w.protect(d.machine)
		w.backUp(d.machine)
		m := w.mount(d.machine + "@latest")
		kernel, unmount := fstest.Mount(t, fstest.Copy(t, d.image), d.c.Type, true, "")
		volumes, err := os.ReadDir(m.dir + "/volumes")
		w.must(err)
		if len(volumes) == 0 {
			t.Fatalf("%s: no volume", d.c.Name)
		}
		warnings := w.notes(d.image)
		if !strings.Contains(warnings, "was not unmounted") {
			t.Errorf("%s: the disk is not dirty: %q", d.c.Name, warnings)
		}
		// Where the kernel finishes a truncation it sets the file's times.
		finished := strings.Contains(warnings, "being truncated") && !strings.Contains(warnings, " 0 were being truncated")
		r, err := mounttest.Diff(kernel, m.dir+"/volumes/"+volumes[0].Name(), mounttest.DiffOptions{Ctime: finished})
		w.must(err)
		for _, diff := range r.Differences {
			if !finished || !strings.Contains(diff, ": mtime is ") {
				t.Errorf("%s: %s", d.c.Name, diff)
			}
		}
		proved(t, "%s, copied from under a running mount: %d names, %d KiB as after the kernel's own replay", d.c.Name, r.Entries, r.Bytes>>10)
		unmount()
		m.end()
	}
}

// notes is what the reader has to say about a file system.
func (w *world) notes(image string) string {
	w.Helper()
	f, err := os.Open(image)
	w.must(err)
	defer f.Close()
	st, err := f.Stat()
	w.must(err)
	fsys, err := ext4.Open(f, st.Size(), filesys.Options{})
	w.must(err)
	return strings.Join(fsys.Info().Warnings, "\n")
}
