// Package dirtytest makes ext3 and ext4 images as a backup finds them when the
// guest was not frozen: copied from under a running mount, with the newest
// changes in the log only, files open that have no name any more, and changes
// under way that no transaction has committed.
//
// It is for tests of mount/jbd2 and mount/ext4. It needs root, the kernel's ext4,
// loop devices and e2fsprogs; a test on a machine without them fails and says
// so. Every mount and loop device is gone when the test ends.
package dirtytest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/mount/filesys/fstest"
)

// Config says what image to make.
type Config struct {
	Name string
	Type string // "ext3" or "ext4"
	// SizeMiB of the volume.
	SizeMiB int
	// Mkfs are more arguments of mke2fs.
	Mkfs []string
	// Mount are mount options.
	Mount string
	// Steps of the workload; about one in twenty commits a transaction.
	Steps int
	// Sequence, if not zero, is the number of the first transaction.
	Sequence uint32
	// FastCommit ends the workload with changes that the kernel commits in
	// the fast-commit area.
	FastCommit bool
}

// Configs are the kinds of log that kernels write.
var Configs = []Config{
	{Name: "ext4", SizeMiB: 24, Type: "ext4", Mkfs: []string{"-b", "4096"}, Steps: 400},
	{Name: "ext4, 1k blocks, data in the log", SizeMiB: 16, Type: "ext4", Mkfs: []string{"-b", "1024", "-J", "size=4"}, Mount: "data=journal", Steps: 400},
	{Name: "ext4, 32-bit block numbers", SizeMiB: 16, Type: "ext4", Mkfs: []string{"-b", "2048", "-O", "^64bit", "-J", "size=4"}, Mount: "data=writeback", Steps: 400},
	{Name: "ext4, small log that wraps", SizeMiB: 16, Type: "ext4", Mkfs: []string{"-b", "1024", "-J", "size=1"}, Mount: "data=journal", Steps: 800},
	{Name: "ext4, sequence wraps", SizeMiB: 24, Type: "ext4", Mkfs: []string{"-b", "1024", "-J", "size=4"}, Steps: 400, Sequence: 1<<32 - 8},
	{Name: "ext3", SizeMiB: 16, Type: "ext3", Mkfs: []string{"-b", "1024", "-J", "size=4"}, Steps: 400},
	{Name: "ext3, data in the log", SizeMiB: 24, Type: "ext3", Mkfs: []string{"-b", "4096", "-J", "size=8"}, Mount: "data=journal", Steps: 400},
	{Name: "checksum v1", SizeMiB: 16, Type: "ext4", Mkfs: []string{"-b", "1024", "-O", "^metadata_csum,^64bit", "-J", "size=4"}, Mount: "journal_checksum,data=journal", Steps: 400},
	{Name: "checksum v1, asynchronous commit", SizeMiB: 16, Type: "ext4", Mkfs: []string{"-b", "1024", "-O", "^metadata_csum", "-J", "size=4"}, Mount: "journal_async_commit,data=writeback", Steps: 400},
	{Name: "checksum v3, asynchronous commit", SizeMiB: 24, Type: "ext4", Mkfs: []string{"-b", "4096", "-J", "size=4"}, Mount: "journal_async_commit,data=writeback", Steps: 400},
	{Name: "orphan file, checksum seed", SizeMiB: 16, Type: "ext4", Mkfs: []string{"-b", "1024", "-O", "orphan_file,metadata_csum_seed,large_dir", "-J", "size=4"}, Steps: 400},
	{Name: "inline data, bigalloc", SizeMiB: 24, Type: "ext4", Mkfs: []string{"-b", "1024", "-O", "inline_data,bigalloc,ea_inode", "-C", "4096", "-I", "256", "-J", "size=4"}, Steps: 400},
}

// Make returns the path of a dirty image. The guest is still when it is copied:
// what the log holds, and no more, is known to have been synced.
func Make(t testing.TB, c Config, rng *rand.Rand) string {
	t.Helper()
	image := c.image(t, rng)
	// Only what asks for a commit gets one, so that the copy is of one moment.
	dir, unmount := fstest.Mount(t, image, c.Type, false, c.options("commit=3000"))
	w := &workload{dir: dir, rng: rng}
	defer unmount()
	defer w.close()
	if err := w.run(c.Steps); err != nil {
		t.Fatal(err)
	}
	if c.FastCommit {
		if err := w.fastCommits(); err != nil {
			t.Fatal(err)
		}
	}
	return fstest.Copy(t, image)
}

// Live returns the paths of some images of a guest that goes on working: each is
// what the disk held at one moment, transactions half written and truncations
// half done, as after a power cut.
func Live(t testing.TB, c Config, copies int, rng *rand.Rand) (images []string) {
	t.Helper()
	host := fstest.NewHost(t, int64(c.SizeMiB)<<20)
	image := filepath.Join(host.Dir, "guest.img")
	fstest.Run(t, "cp", c.image(t, rng), image)
	dir, unmount := fstest.Mount(t, image, c.Type, false, c.options("commit=1"))
	defer unmount()

	due := make(chan bool)
	done := make(chan error)
	w := &workload{dir: dir, rng: rng, each: func(step int) {
		if step%(c.Steps/copies) == c.Steps/copies/2 {
			due <- true
		}
	}}
	go func() {
		err := w.run(c.Steps)
		w.close()
		done <- err
	}()
	for {
		select {
		case <-due:
			images = append(images, host.Copy(t, image))
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return images
		}
	}
}

// image makes the guest's disk.
func (c Config) image(t testing.TB, rng *rand.Rand) string {
	t.Helper()
	// What was on the disk before must never show through.
	image := fstest.Image(t, int64(c.SizeMiB)<<20, rng.Uint64())
	args := []string{"-q", "-F", "-t", c.Type, "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"}
	fstest.Run(t, "mke2fs", append(append(args, c.Mkfs...), image)...)
	if c.Sequence != 0 {
		setSequence(t, image, c.Sequence)
	}
	return image
}

func (c Config) options(more string) string {
	return strings.TrimPrefix(c.Mount+","+more, ",")
}

// Journal returns the path of a file with the content of image's journal.
func Journal(t testing.TB, image string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "journal")
	// -c: not to read the bitmaps, which the log may be about to correct.
	fstest.Run(t, "debugfs", "-c", "-R", fmt.Sprintf("dump <8> %q", to), image)
	return to
}

// setSequence sets the number that the first transaction of a fresh journal
// will have.
func setSequence(t testing.TB, image string, sequence uint32) {
	t.Helper()
	// The last word printed is the number asked for.
	last := func(out string) (n int64) {
		words := strings.Fields(out)
		if _, err := fmt.Sscan(words[len(words)-1], &n); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		return n
	}
	block := last(fstest.Run(t, "debugfs", "-R", "bmap <8> 0", image))
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sb := make([]byte, 1024)
	if _, err := f.ReadAt(sb, 1024); err != nil {
		t.Fatal(err)
	}
	size := int64(1024) << binary.LittleEndian.Uint32(sb[24:])
	if _, err := f.WriteAt(binary.BigEndian.AppendUint32(nil, sequence), block*size+24); err != nil {
		t.Fatal(err)
	}
}
