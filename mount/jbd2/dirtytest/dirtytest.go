// Package dirtytest makes ext3 and ext4 images as a backup finds them when the
// guest was not frozen: copied from under a running mount, with the newest
// changes in the log only, files open that have no name any more, and changes
// under way that no transaction has committed.
//
// It is for tests of mount/jbd2 and mount/ext4. It needs root, the kernel's ext4
// and loop devices; a test on a machine without them fails and says so. Every
// mount and loop device is gone when the test ends.
package dirtytest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Config says what image to make.
type Config struct {
	Name string
	// SizeMiB of the volume.
	SizeMiB int
	// Mkfs are arguments of mke2fs.
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
	{Name: "ext4", SizeMiB: 48, Mkfs: []string{"-t", "ext4", "-b", "4096"}, Steps: 700},
	{Name: "ext4, 1k blocks, data in the log", SizeMiB: 32, Mkfs: []string{"-t", "ext4", "-b", "1024", "-J", "size=4"}, Mount: "data=journal", Steps: 700},
	{Name: "ext4, 32-bit block numbers", SizeMiB: 32, Mkfs: []string{"-t", "ext4", "-b", "2048", "-O", "^64bit", "-J", "size=4"}, Mount: "data=writeback", Steps: 700},
	{Name: "ext4, small log that wraps", SizeMiB: 32, Mkfs: []string{"-t", "ext4", "-b", "1024", "-J", "size=1"}, Mount: "data=journal", Steps: 1500},
	{Name: "ext4, sequence wraps", SizeMiB: 24, Mkfs: []string{"-t", "ext4", "-b", "1024", "-J", "size=4"}, Steps: 600, Sequence: 1<<32 - 8},
	{Name: "ext3", SizeMiB: 32, Mkfs: []string{"-t", "ext3", "-b", "1024", "-J", "size=4"}, Steps: 700},
	{Name: "ext3, data in the log", SizeMiB: 48, Mkfs: []string{"-t", "ext3", "-b", "4096", "-J", "size=8"}, Mount: "data=journal", Steps: 700},
	{Name: "checksum v1", SizeMiB: 32, Mkfs: []string{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit", "-J", "size=4"}, Mount: "journal_checksum,data=journal", Steps: 700},
	{Name: "checksum v1, asynchronous commit", SizeMiB: 32, Mkfs: []string{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum", "-J", "size=4"}, Mount: "journal_async_commit,data=writeback", Steps: 700},
	{Name: "checksum v3, asynchronous commit", SizeMiB: 32, Mkfs: []string{"-t", "ext4", "-b", "4096", "-J", "size=8"}, Mount: "journal_async_commit,data=writeback", Steps: 700},
	{Name: "inline data, bigalloc", SizeMiB: 64, Mkfs: []string{"-t", "ext4", "-b", "1024", "-O", "inline_data,bigalloc,ea_inode", "-C", "4096", "-I", "256", "-J", "size=4"}, Steps: 700},
}

// Make returns the path of a dirty image.
func Make(t testing.TB, c Config, rng *rand.Rand) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "guest.img")
	// What was on the disk before must never show through.
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	old := rand.NewChaCha8([32]byte{byte(rng.Uint32())})
	if _, err := io.CopyN(f, old, int64(c.SizeMiB)<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"}, c.Mkfs...)
	Run(t, "e2fsprogs", "mke2fs", append(args, image)...)
	if c.Sequence != 0 {
		setSequence(t, image, c.Sequence)
	}

	// Only what asks for a commit gets one, so that the copy is of one moment.
	options := "loop,noatime,commit=3000"
	if c.Mount != "" {
		options += "," + c.Mount
	}
	dir := t.TempDir()
	Run(t, "mount", "mount", "-o", options, image, dir)
	mounted := true
	defer func() {
		if mounted {
			Run(t, "mount", "umount", dir)
		}
	}()
	w := &workload{t: t, dir: dir, rng: rng}
	defer w.close()
	w.run(c.Steps)
	if c.FastCommit {
		w.fastCommits()
	}

	copied := filepath.Join(t.TempDir(), "copy.img")
	Copy(t, image, copied)
	w.close()
	Run(t, "mount", "umount", dir)
	mounted = false
	return copied
}

// Mount has the kernel replay image, which is changed by that, and returns the
// directory where it is then mounted for reading, until the test ends.
func Mount(t testing.TB, image string) string {
	t.Helper()
	// With "-o ro,loop" the loop device is read-only too, and nothing is
	// replayed.
	device := strings.TrimSpace(Run(t, "mount", "losetup", "--find", "--show", image))
	t.Cleanup(func() { Run(t, "mount", "losetup", "--detach", device) })
	dir := t.TempDir()
	Run(t, "mount", "mount", "-o", "ro,noatime", device, dir)
	t.Cleanup(func() { Run(t, "mount", "umount", dir) })
	return dir
}

// Copy copies an image.
func Copy(t testing.TB, from, to string) {
	t.Helper()
	Run(t, "coreutils", "cp", "--sparse=always", from, to)
}

// Journal returns the path of a file with the content of image's journal.
func Journal(t testing.TB, image string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "journal")
	// -c: not to read the bitmaps, which the log may be about to correct.
	Run(t, "e2fsprogs", "debugfs", "-c", "-R", fmt.Sprintf("dump <8> %q", to), image)
	return to
}

// Run runs a program of the named Debian package and returns what it printed.
func Run(t testing.TB, pkg, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is needed: install the package %s", name, pkg)
	}
	cmd := exec.Command(path, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s\n(this test needs root, the kernel's ext4 and a free loop device)", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// setSequence sets the number that the first transaction of a fresh journal
// will have.
func setSequence(t testing.TB, image string, sequence uint32) {
	t.Helper()
	var block, size int64
	// It lists all blocks; the first is the superblock's.
	fmt.Sscan(Run(t, "e2fsprogs", "debugfs", "-R", "blocks <8>", image), &block)
	for _, line := range strings.Split(Run(t, "e2fsprogs", "dumpe2fs", "-h", image), "\n") {
		if value, ok := strings.CutPrefix(line, "Block size:"); ok {
			fmt.Sscan(value, &size)
		}
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.BigEndian.AppendUint32(nil, sequence), block*size+24); err != nil {
		t.Fatal(err)
	}
}
