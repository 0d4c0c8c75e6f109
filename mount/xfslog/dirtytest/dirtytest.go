// Package dirtytest makes XFS images as a backup finds them when the guest was
// not frozen: copied from under a running mount, with the newest changes in the
// log only, files open that have no name any more, and changes under way that no
// transaction has committed.
//
// It is for tests of mount/xfslog and mount/xfs. It needs root, the kernel's
// XFS, loop devices and xfsprogs; a test on a machine without them fails and says
// so. Every mount and loop device is gone when the test ends.
package dirtytest

import (
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
	// SizeMiB of the volume.
	SizeMiB int
	// Mkfs are more arguments of mkfs.xfs.
	Mkfs string
	// Mount are mount options.
	Mount string
	// Steps of the workload; about one in twenty forces the log.
	Steps int
}

// Configs are the kinds of log that kernels write.
var Configs = []Config{
	{Name: "defaults", SizeMiB: 96, Steps: 400},
	{Name: "1k blocks, small log that wraps", SizeMiB: 64, Mkfs: "-b size=1024 -l size=3m -m rmapbt=0,reflink=0", Steps: 1600},
	{Name: "everything on", SizeMiB: 96, Mkfs: "-m reflink=1,rmapbt=1,bigtime=1,inobtcount=1,finobt=1 -i nrext64=1,sparse=1", Mount: "logbsize=256k", Steps: 400},
	{Name: "everything off", SizeMiB: 96, Mkfs: "-m reflink=0,rmapbt=0,bigtime=0,inobtcount=0,finobt=0 -i nrext64=0,sparse=0", Mount: "logbsize=64k", Steps: 400},
	{Name: "sectors and log sectors of 4k", SizeMiB: 96, Mkfs: "-s size=4096", Steps: 300},
	{Name: "log stripe unit", SizeMiB: 96, Mkfs: "-l su=32k", Mount: "logbsize=128k", Steps: 300},
	{Name: "log stripe unit of 256k", SizeMiB: 96, Mkfs: "-l su=256k,size=20m", Steps: 300},
	{Name: "many groups, 1k", SizeMiB: 96, Mkfs: "-b size=1024 -d agcount=5 -i size=512", Mount: "logbsize=32k", Steps: 300},
	{Name: "inodes of 2k, directory blocks of 16k", SizeMiB: 96, Mkfs: "-i size=2048 -n size=16384", Steps: 300},
	{Name: "another UUID", SizeMiB: 64, Steps: 400},
	{Name: "16k blocks", SizeMiB: 160, Mkfs: "-b size=16384", Steps: 400},
}

// Volumes of less than 300 MiB are made for tests only, which say so.
func init() {
	for _, name := range []string{"TEST_DIR", "TEST_DEV", "QA_CHECK_FS"} {
		os.Setenv(name, "1")
	}
}

// guest is a mounted image on a host that can be frozen.
type guest struct {
	t     testing.TB
	host  *fstest.Host
	image string
	w     *workload
}

func start(t testing.TB, c Config, rng *rand.Rand) (g *guest, stop func()) {
	t.Helper()
	// What was on the disk before must never show through.
	image := fstest.Image(t, int64(c.SizeMiB)<<20, rng.Uint64())
	fstest.Run(t, "mkfs.xfs", append(strings.Fields("-q -f -K "+c.Mkfs), image)...)
	if c.Name == "another UUID" {
		fstest.Run(t, "xfs_admin", "-U", "01234567-89ab-cdef-0123-456789abcdef", image)
	}
	host := fstest.NewHost(t, int64(c.SizeMiB)<<20)
	on := filepath.Join(host.Dir, "guest.img")
	fstest.Run(t, "cp", image, on)
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	dir, unmount := fstest.Mount(t, on, "xfs", false, c.Mount)
	w := &workload{dir: dir, rng: rng}
	return &guest{t, host, on, w}, func() {
		w.close()
		unmount()
	}
}

// Make returns the path of a dirty image. The guest is still when it is copied:
// what the log holds, and no more, is known to have been synced.
func Make(t testing.TB, c Config, rng *rand.Rand) string {
	t.Helper()
	g, stop := start(t, c, rng)
	defer stop()
	if err := g.w.run(c.Steps); err != nil {
		t.Fatal(err)
	}
	return g.host.Copy(t, g.image)
}

// Live returns the paths of some images of a guest that goes on working: each is what the disk held at one moment, transactions half written and
// truncations half done, as after a power cut.
func Live(t testing.TB, c Config, copies int, rng *rand.Rand) (images []string) {
	t.Helper()
	g, stop := start(t, c, rng)
	defer stop()
	due, done := make(chan bool), make(chan error)
	g.w.each = func(step int) {
		if step%(c.Steps/copies) == c.Steps/copies/2 {
			due <- true
		}
	}
	go func() { done <- g.w.run(c.Steps) }()
	for {
		select {
		case <-due:
			images = append(images, g.host.Copy(t, g.image))
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return images
		}
	}
}
