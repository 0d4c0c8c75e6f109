package libvirt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"runtime"
	"strings"
	"testing"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
	"cairn/client/source/nbd"
)

// memory is a source.Backing.
type memory []byte

func (m memory) Size() int64 { return int64(len(m)) }

func (m memory) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (b *bench) backings() map[string]source.Backing {
	disks := map[string]source.Backing{}
	for target, data := range b.wanted {
		disks[target] = memory(data)
	}
	return disks
}

// instant begins an instant restore of the machine "fast".
func (b *bench) instant() (source.Restore, *fakeDomain) {
	b.t.Helper()
	b.spec.New = &source.NewMachine{Title: "fast"}
	j, err := b.r.PrepareRestore(b.t.Context(), b.spec)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := j.Instant(b.t.Context(), b.backings()); err != nil {
		b.t.Fatal(err)
	}
	return j, b.fast()
}

func (b *bench) fast() *fakeDomain {
	dom, err := b.h.LookupByName(b.t.Context(), "fast")
	if err != nil {
		return nil
	}
	return b.h.domains[dom.UUID]
}

func TestInstant(t *testing.T) {
	b := newBench(t)
	before := b.tree()
	j, d := b.instant()
	if d.state != rpc.StateRunning {
		t.Error("not started")
	}
	now, err := domxml.Parse([]byte(d.xml))
	if err != nil {
		t.Fatal(err)
	}
	socket := b.r.sockets + "/restore-r1.sock"
	if r := now.ReadsFrom(socket); len(r) != 3 {
		t.Errorf("%v reads from the server: %s", r, d.xml)
	}
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st, err)
	}
	c, err := nbd.Dial(t.Context(), "unix", socket, nbd.Options{Export: "vdb"})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(b.wanted["vdb"]))
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, b.wanted["vdb"]) {
		t.Errorf("what is served: %v", err)
	}
	c.Close()
	var last int64
	if err := j.Settle(t.Context(), func(done, total int64) { last = done }); err != nil {
		t.Fatal(err)
	}
	if last != 6<<20 || strings.Contains(d.xml, "nbd") || strings.Contains(d.xml, "error_policy") {
		t.Errorf("at the end: %d, %s", last, d.xml)
	}
	if err := j.Abort(); err != nil || b.fast() == nil {
		t.Errorf("an abort at the end: %v", err)
	}
	after := b.tree()
	for name := range after {
		if strings.Contains(name, "cairn-") || strings.HasSuffix(name, ".journal") {
			t.Errorf("left: %s", name)
		}
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is left")
	}
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%s was changed", name)
		}
	}
}

// TestInstantGoesOn: another process takes over a machine whose reads fail.
func TestInstantGoesOn(t *testing.T) {
	b := newBench(t)
	j, d := b.instant()
	if err := j.(*restoreJob).Release(); err != nil {
		t.Fatal(err)
	}
	d.state, d.reason = rpc.StatePaused, rpc.PausedIOError
	b.r = b.restorer()
	if err := b.r.cleanUpRestores(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.fast() == nil {
		t.Fatal("the machine was removed")
	}
	other := b.spec
	other.Disks = other.Disks[:2]
	if _, err := b.r.PrepareRestore(t.Context(), other); !errors.Is(err, source.ErrTargetExists) {
		t.Errorf("another point: %v", err)
	}
	b.spec.ID = "r2"
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Instant(t.Context(), b.backings()); err != nil {
		t.Fatal(err)
	}
	if d.state != rpc.StateRunning {
		t.Error("it is still paused")
	}
	if err := j.Settle(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for name := range b.tree() {
		if strings.Contains(name, "cairn-") || strings.HasSuffix(name, ".journal") {
			t.Errorf("left: %s", name)
		}
	}
}

// TestInstantFails: whatever fails, or dies, before the machine runs, nothing is
// left; and an abort removes a machine that runs.
func TestInstantFails(t *testing.T) {
	for _, i := range []int{0, 3, 5, 6, 100} {
		for _, how := range []string{"fails", "killed"} {
			b := newBench(t)
			before := b.tree()
			b.spec.New = &source.NewMachine{Title: "fast"}
			j, err := b.r.PrepareRestore(t.Context(), b.spec)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			b.r.step = func(string) error {
				if n++; n == i+1 && how == "fails" {
					return errors.New("boom")
				} else if n == i+1 && how == "killed" {
					runtime.Goexit()
				}
				return nil
			}
			done := make(chan error, 1)
			go func() {
				err := errors.New("killed")
				defer func() { done <- err }()
				err = j.Instant(context.WithoutCancel(t.Context()), b.backings())
			}()
			err = <-done
			switch {
			case err == nil && i == 100:
				if b.fast() == nil {
					t.Error("no machine")
				}
				if err := j.Abort(); err != nil {
					t.Error(err)
				}
			case err == nil:
				t.Errorf("%s at %d: %v", how, i, err)
			case how == "killed":
				if e := j.(*restoreJob).export; e != nil {
					e.cancel()
					<-e.done
				}
				j.(*restoreJob).log.f.Close()
				if err := b.restorer().cleanUpRestores(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if b.fast() != nil {
				t.Errorf("%s at %d: the machine is left", how, i)
			}
			if after := b.tree(); !maps.Equal(before, after) {
				t.Errorf("%s at %d: before %v, after %v", how, i, before, after)
			}
		}
	}
}

// TestInstantPullFails: a pull that never gets anywhere ends the restore, and
// one that fails once does not.
func TestInstantPullFails(t *testing.T) {
	b := newBench(t)
	tries := 0
	b.h.pull = func(d *fakeDomain, target string) error {
		if tries++; tries == 1 {
			return nil // and it ended with nothing done
		}
		return d.drop(target)
	}
	j, _ := b.instant()
	if err := j.Settle(t.Context(), nil); err != nil || tries != 4 {
		t.Errorf("%d tries: %v", tries, err)
	}
	b = newBench(t)
	b.h.pull = func(*fakeDomain, string) error { return nil }
	j, _ = b.instant()
	if err := j.Settle(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "vda") {
		t.Errorf("settle: %v", err)
	}
	if err := j.Abort(); err != nil || b.fast() != nil {
		t.Errorf("abort: %v", err)
	}
	b = newBench(t)
	b.h.pull = func(*fakeDomain, string) error { return libvirtError(rpc.ErrOperationFailed) }
	j, d := b.instant()
	if err := j.Settle(t.Context(), nil); !errors.Is(err, rpc.ErrOperationFailed) {
		t.Errorf("settle: %v", err)
	}
	d.state = rpc.StateShutoff
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Settle(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("settle: %v", err)
	}
	if err := j.Abort(); err != nil {
		t.Error(err)
	}
}
