package qemu

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/client/source"
)

// read reads the beginning of a snapshot's first disk.
func read(snap source.Snapshot) error {
	_, err := snap.Disks()[0].ReadAt(make([]byte, 64<<10), 0)
	return err
}

// until reads until that fails, which something in the background brings about.
func until(t *testing.T, snap source.Snapshot) error {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if err := read(snap); err != nil && err != io.EOF {
			return err
		}
	}
	t.Fatal("reading goes on")
	return nil
}

// A connection that was cut is made anew, and the snapshot is the same.
func TestConnectionCut(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	snap := b.take(v, source.SnapshotOptions{})
	want := v.want(0)
	v.write(0, 0, mib, 2)
	id := checkpoint(snap.Info().Checkpoint).scratch(0)
	v.do("block-export-del", args{"id": id, "mode": "hard"})
	if err := read(snap); !errors.Is(err, source.ErrDisconnected) {
		t.Fatalf("without the export: %v", err)
	}
	err := snap.Disks()[0].Extents(t.Context(), func(source.Extent) error { return nil })
	if !errors.Is(err, source.ErrDisconnected) {
		t.Errorf("extents without the export: %v", err)
	}
	for { // it goes in its own time
		err := v.mon.Execute(t.Context(), "block-export-add", args{"type": "nbd", "id": id, "node-name": id, "name": "vda"}, nil)
		if err == nil {
			break
		} else if !strings.Contains(err.Error(), "already in use") {
			t.Fatal(err)
		}
	}
	got, _ := apply(t, snap.Disks()[0], nil)
	same(t, "vda", got, want)
	b.clean(v, b.keep(snap), 1)
}

func TestQEMUKilledMeanwhile(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	snap := b.take(v, source.SnapshotOptions{Since: first})
	if err := read(snap); err != nil {
		t.Fatal(err)
	}
	v.kill()
	if err := read(snap); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("read: %v", err)
	}
	if err := snap.Check(t.Context()); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("check: %v", err)
	}
	if err := snap.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := b.Snapshot(t.Context(), "web", source.SnapshotOptions{}); !errors.Is(err, source.ErrMachineNotFound) {
		t.Errorf("machine that is off: %v", err)
	}
	// What could not be removed is removed before the next snapshot.
	v.start()
	b.clean(v, b.keep(b.take(v, source.SnapshotOptions{Since: first})), 1)
}

// QEMU ends in good order in the middle of a snapshot: the new bitmap is in the
// file then, and goes with the next snapshot.
func TestQEMUEndsMeanwhile(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	base := v.want(0)
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	v.write(0, 2*mib, mib, 1)
	snap := b.take(v, source.SnapshotOptions{Since: first})
	v.quit()
	if err := read(snap); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("read: %v", err)
	}
	if err := snap.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := b.CleanUp(t.Context(), nil); err != nil {
		t.Errorf("clean-up while the machine is off: %v", err)
	}
	v.start()
	snap = b.take(v, source.SnapshotOptions{Since: first})
	incremental(t, v, snap, 0, base, mib)
	b.clean(v, b.keep(snap), 1)
}

// Somebody ends our job: from then on the export mixes moments.
func TestJobCancelled(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	snap := b.take(v, source.SnapshotOptions{})
	v.do("job-cancel", args{"id": checkpoint(snap.Info().Checkpoint).scratch(0)})
	if err := until(t, snap); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("read: %v", err)
	}
	if err := snap.Check(t.Context()); !errors.Is(err, source.ErrSnapshotLost) {
		t.Errorf("check: %v", err)
	}
	b.drop(snap)
	b.clean(v, "", 0)
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	ctx, cancel := context.WithCancelCause(t.Context())
	snap, err := b.Snapshot(ctx, "web", source.SnapshotOptions{})
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	cancel(enough)
	if err := read(snap); !errors.Is(err, enough) {
		t.Errorf("read: %v", err)
	}
	b.drop(snap)
	b.clean(v, "", 0)
	for _, phase := range phases {
		ctx, cancel := context.WithCancelCause(t.Context())
		b.reached = func(p string) {
			if p == phase {
				cancel(enough)
			}
		}
		if _, err := b.Snapshot(ctx, "web", source.SnapshotOptions{}); !errors.Is(err, enough) {
			t.Errorf("cancelled at %s: %v", phase, err)
		}
		b.clean(v, "", 0)
	}
}

// The reserve of scratch space is touched: the snapshot ends, the guest doesn't
// notice.
func TestSpace(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	b.o.Reserve = 1 << 60
	snap, err := b.Snapshot(t.Context(), "web", source.SnapshotOptions{})
	if err == nil { // it was quicker
		err = until(t, snap)
		if e := snap.Check(t.Context()); !errors.Is(e, source.ErrSnapshotSpace) {
			t.Errorf("check: %v", e)
		}
		b.drop(snap)
	}
	if !errors.Is(err, source.ErrSnapshotSpace) {
		t.Errorf("%v", err)
	}
	b.clean(v, "", 0)
	v.write(0, 0, mib, 1)
	b.o.Reserve = 1
	snap = b.take(v, source.SnapshotOptions{})
	full(t, v, snap, 0)
}

// A process has one NBD server: somebody else's is left alone.
func TestForeignServer(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	v.do("nbd-server-start", args{"addr": args{"type": "unix", "data": args{"path": filepath.Join(v.dir, "theirs")}}})
	_, err := b.Snapshot(t.Context(), "web", source.SnapshotOptions{})
	if !errors.Is(err, source.ErrMachineState) || !strings.Contains(err.Error(), "nbd-server-stop") {
		t.Errorf("%v", err)
	}
	v.do("nbd-server-stop", nil) // fails if it does not run any more
	b.clean(v, "", 0)
}

// Another block job is in the way of a snapshot.
func TestForeignJob(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "qcow2")
	b := newSource(t, v)
	v.do("drive-mirror", args{"device": "drive-vdb", "target": filepath.Join(v.dir, "m.qcow2"), "format": "qcow2", "sync": "full", "job-id": "theirs"})
	_, err := b.Snapshot(t.Context(), "web", source.SnapshotOptions{})
	if err != nil && !errors.Is(err, source.ErrMachineState) {
		t.Errorf("%v", err)
	}
	t.Log(err)
	v.do("block-job-cancel", args{"device": "theirs"})
	things, _ := v.ours()
	if err != nil && len(things) > 0 {
		t.Errorf("left: %v", things)
	}
}

func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	snap := b.take(v, source.SnapshotOptions{})
	if _, err := b.Snapshot(t.Context(), "web", source.SnapshotOptions{}); !errors.Is(err, source.ErrMachineState) {
		t.Errorf("%v", err)
	}
	b.drop(snap)
	b.drop(b.take(v, source.SnapshotOptions{}))
	if err := read(snap); !errors.Is(err, os.ErrClosed) && err == nil {
		t.Errorf("read after close: %v", err)
	}
}

// A state directory that cannot be written: nothing happens to the machine.
func TestNoStateDirectory(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	b.state = filepath.Join(v.images[0].path, "x")
	if _, err := b.Snapshot(t.Context(), "web", source.SnapshotOptions{}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("%v", err)
	}
	b.state = filepath.Join(v.dir, "s")
	b.clean(v, "", 0)
}
