package blockstore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/sys/unix"
)

// smallDisk is a disk of which the test says how much is free.
type smallDisk struct {
	vfs.FS
	free atomic.Uint64
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free.Load(), TotalBytes: 1 << 30, UsedBytes: 1<<30 - d.free.Load()}, nil
}

func TestFullDisk(t *testing.T) {
	ctx := context.Background()
	const minFree = 64 << 20
	mem := vfs.NewMem()
	disk := &smallDisk{FS: mem}
	disk.free.Store(10 << 20)
	_, err := Create("v", testOptions(Options{FS: disk, MinFree: minFree}))
	wantErr(t, "create", err, ErrFull)

	disk.free.Store(1 << 30)
	s := testCreate(t, "v", Options{FS: disk, MinFree: minFree})
	testBackup(t, s, "p", 0, 5)
	u := startUpload(t, s, "u")
	if _, err := u.putTest(10, 12); err != nil {
		t.Fatal(err)
	}
	for begun := false; !begun; { // the table
		ls, err := mem.List("v/incoming")
		if err != nil {
			t.Fatal(err)
		}
		begun = len(ls) > 0
	}

	// Full at once: nothing more is taken.
	disk.free.Store(minFree - 1)
	_, err = u.putTest(12, 13)
	wantErr(t, "put", err, ErrFull)
	var full *FullError
	if !errors.As(err, &full) || full.Path != "v" || full.Free != minFree-1 || full.Need < minFree ||
		!strings.Contains(err.Error(), "64 MiB") {
		t.Errorf("error %v (%+v) does not say what is full and what is needed", err, full)
	}
	// What is under way may still use half of the reserve.
	if err := u.Flush(ctx); err != nil {
		t.Errorf("flush of what was taken before: %v", err)
	}
	_, err = s.backupTest("q", 5, 7)
	wantErr(t, "backup", err, ErrFull)
	if err := s.checkPoint("p", 0, 5); err != nil {
		t.Errorf("reading on a full disk: %v", err)
	}
	// Small things need a quarter of it.
	disk.free.Store(minFree / 4)
	wantErr(t, "commit", u.Commit(ctx, Point{ID: "x"}), ErrFull)
	if err := s.Apply(ctx, Mutation{Key: "k", Value: []byte("v")}); err != nil {
		t.Error(err)
	}
	disk.free.Store(minFree/4 - 1)
	wantErr(t, "apply", s.Apply(ctx, Mutation{Key: "k"}), ErrFull)

	// Space is back, and all is well, also with the old upload.
	disk.free.Store(1 << 30)
	if _, err := u.putTest(12, 14); err != nil {
		t.Fatal(err)
	}
	if err := u.Commit(ctx, Point{ID: "x"}); err != nil {
		t.Error(err)
	}
	testBackup(t, s, "q", 5, 7)
	if s.Info().Failed != nil {
		t.Error(s.Info().Failed)
	}
	testClose(t, s)

	// A vault on a disk that is full to the brim opens for reading.
	disk.free.Store(minFree/8 - 1)
	s = testOpen(t, "v", Options{FS: disk, MinFree: minFree})
	if i := s.Info(); !i.ReadOnly || !errors.Is(i.Failed, ErrFull) {
		t.Errorf("info %+v", i)
	}
	if err := errors.Join(s.checkPoint("p", 0, 5), s.checkPoint("q", 5, 7)); err != nil {
		t.Error(err)
	}
	_, err = s.StartUpload("v")
	wantErr(t, "start upload", err, ErrFull)
	wantErr(t, "start upload", err, ErrReadOnly)
	testClose(t, s)
}

// TestFullWhileBuilding lets the disk fill up under a table that is being built.
func TestFullWhileBuilding(t *testing.T) {
	ctx := context.Background()
	const minFree = 16 << 20
	mem := vfs.NewMem()
	var disk *smallDisk
	var fill atomic.Bool
	fill.Store(true)
	disk = &smallDisk{FS: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if fill.Load() && op.Kind == errorfs.OpFileWrite && strings.Contains(op.Path, incomingName) {
			disk.free.Store(minFree + spaceStep - 1) // enough for a commit, not for more blocks
		}
		return nil
	}))}
	disk.free.Store(1 << 30)
	s := testCreate(t, "v", Options{FS: disk, MinFree: minFree})
	u := startUpload(t, s, "u")
	blocks := make([]int, 600) // 9.8 MB
	for n := range blocks {
		blocks[n] = n
	}
	ack, err := u.Put(ctx, testBlocks(blocks...))
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "flush", u.Flush(ctx), ErrFull)
	<-ack.Done()
	wantErr(t, "ack", ack.Err(), ErrFull)
	if ls, err := mem.List("v/incoming"); err != nil || len(ls) > 0 {
		t.Errorf("the table left %v, %v", ls, err)
	}
	if m, err := u.FindMissing(ctx, digestsOf(testBlocks(0, 599))); err != nil || len(m) != 2 {
		t.Errorf("missing %v, %v", m, err)
	}
	u.Abort()
	fill.Store(false)
	disk.free.Store(1 << 30)
	testBackup(t, s, "p", 0, 600)
	if err := s.checkPoint("p", 0, 600); err != nil {
		t.Error(err)
	}
}

// TestFullTmpfs fills a real file system, with nobody watching its free space
// from outside: first by the store itself, then by a neighbour.
func TestFullTmpfs(t *testing.T) {
	ctx := context.Background()
	dir := mountTmpfs(t, "size=48m")
	vault := filepath.Join(dir, "vault")
	o := Options{MinFree: 16 << 20, TableSize: 1 << 20}
	s := testCreate(t, vault, o)
	defer func() { s.Close() }()
	testBackup(t, s, "p", 0, 100)
	u := startUpload(t, s, "u")
	var err error
	n := 100
	for ; err == nil && n < 10000; n++ {
		_, err = u.putTest(n, n+1)
	}
	wantErr(t, "filling the disk", err, ErrFull)
	if n < 1000 {
		t.Errorf("full after %d blocks", n)
	}
	if err := s.checkPoint("p", 0, 100); err != nil {
		t.Error(err)
	}
	// A neighbour takes the rest, too: nothing can be written at all.
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	junk := make([]byte, 64<<10)
	for err = nil; err == nil; {
		_, err = f.Write(junk)
	}
	f.Close()
	wantErr(t, "neighbour", err, unix.ENOSPC)
	wantErr(t, "apply", s.Apply(ctx, Mutation{Key: "k", Value: junk}), ErrFull)
	_ = u.Flush(ctx)
	if err := s.checkPoint("p", 0, 100); err != nil {
		t.Error(err)
	}
	if err := s.Info().Failed; err != nil {
		t.Error(err)
	}
	testClose(t, s)
	// Opened on a disk without one free byte.
	s = testOpen(t, vault, o)
	if err := s.checkPoint("p", 0, 100); err != nil || !s.Info().ReadOnly {
		t.Errorf("%v, %+v", err, s.Info())
	}
	testClose(t, s)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	// Space is back: a bigger disk.
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=96m"); err != nil {
		t.Fatal(err)
	}
	s = testOpen(t, vault, o)
	testBackup(t, s, "q", 0, 1500)
	if err := errors.Join(s.checkPoint("p", 0, 100), s.checkPoint("q", 0, 1500)); err != nil {
		t.Error(err)
	}
	testClose(t, s)
}

func TestReadOnlyFileSystem(t *testing.T) {
	dir := mountTmpfs(t, "size=32m")
	vault := filepath.Join(dir, "vault")
	s := testCreate(t, vault, Options{MinFree: 1 << 20})
	testBackup(t, s, "p", 0, 20)
	testClose(t, s)
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{}, {ReadOnly: true}} {
		s := testOpen(t, vault, o)
		checkReadOnly(t, s, "p", 0, 20)
		testClose(t, s)
	}
	_, err := Create(filepath.Join(dir, "other"), Options{})
	if err == nil {
		t.Error("created a vault on a read-only file system")
	}
}
