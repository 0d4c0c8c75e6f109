package libvirt

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
)

// die releases the locks that a restorer holds, as the end of its process does.
func (r *restorer) die() {
	for _, f := range r.noted {
		f.Close()
	}
}

// notes are the machines that are owed a start.
func (b *bench) notes() []string {
	b.t.Helper()
	names, err := filepath.Glob(b.r.journals + "/*" + noteSuffix)
	if err != nil {
		b.t.Fatal(err)
	}
	return names
}

func (b *bench) state() rpc.State { return b.h.domains[b.dom.UUID].state }

// restore stops the machine, restores it in place and has it started.
func (b *bench) restore(prepared func(source.Restore)) error {
	if _, err := b.r.StopMachine(b.t.Context(), "web"); err != nil {
		return err
	}
	if err := b.r.step("stopped"); err != nil {
		return err
	}
	j, err := b.r.PrepareRestore(b.t.Context(), b.spec)
	if err != nil {
		return err
	}
	prepared(j)
	if err := b.write(j); err != nil {
		return err
	}
	return j.Commit(b.t.Context(), true)
}

// TestStoppedKilled: wherever the process dies between the stop of a machine and
// the end of its restore, the machine runs after the next one has cleaned up.
func TestStoppedKilled(t *testing.T) {
	var names []string
	b := newBench(t)
	b.h.domains[b.dom.UUID].state = rpc.StateRunning
	b.r.step = func(name string) error {
		names = append(names, strings.ReplaceAll(name, b.dir, "DIR"))
		return nil
	}
	if err := b.restore(func(source.Restore) {}); err != nil {
		t.Fatal(err)
	}
	if n := b.notes(); len(n) != 0 || b.state() != rpc.StateRunning {
		t.Fatalf("after a restore: %v, %v", n, b.state())
	}
	all := strings.Join(names, ",")
	if !strings.HasPrefix(all, "stop,stopped,begin,") || !strings.Contains(all, ",start,forget,remove ") {
		t.Fatalf("steps: %q", names)
	}
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.h.domains[b.dom.UUID].state = rpc.StateRunning
			n := 0
			b.r.step = func(string) error {
				if n++; n == i+1 {
					runtime.Goexit() // and nothing after it is run
				}
				return nil
			}
			var j *restoreJob
			done := make(chan struct{})
			go func() {
				defer close(done)
				b.restore(func(r source.Restore) { j = r.(*restoreJob) })
			}()
			<-done
			// What a living process has stopped is its own to start.
			was := b.state()
			if err := b.restorer().cleanUpRestores(t.Context()); err != nil || b.state() != was {
				t.Errorf("a living process: %v, %v", err, b.state())
			}
			b.r.die()
			if j != nil {
				j.log.f.Close()
			}
			r := b.restorer()
			if err := errors.Join(r.cleanUpRestores(t.Context()), r.cleanUpRestores(t.Context())); err != nil {
				t.Fatal(err)
			}
			if n := b.notes(); len(n) != 0 || b.state() != rpc.StateRunning {
				t.Errorf("left: %v; the machine is %v", n, b.state())
			}
		})
	}
}

// TestStoppedNote: who removes a note, and who leaves it.
func TestStoppedNote(t *testing.T) {
	for name, test := range map[string]struct {
		// between the stop and the death of the process
		live func(b *bench) error
		// and before the next one cleans up
		then  func(b *bench)
		state rpc.State
		fails error
		notes int
		logs  bool
	}{
		"nothing": {state: rpc.StateRunning, logs: true},
		"started after a failure": {live: func(b *bench) error { return b.r.StartMachine(b.t.Context(), "web") },
			then: func(b *bench) { b.h.stop(b.dom) }, state: rpc.StateShutoff},
		"by somebody else": {then: func(b *bench) { b.h.domains[b.dom.UUID].state = rpc.StateRunning }, state: rpc.StateRunning},
		"by somebody else, before the restore": {live: func(b *bench) error {
			b.h.domains[b.dom.UUID].state = rpc.StateRunning
			if _, err := b.r.PrepareRestore(b.t.Context(), b.spec); !errors.Is(err, source.ErrMachineState) {
				return errors.Join(errors.New("prepared"), err)
			}
			b.h.stop(b.dom)
			return nil
		}, state: rpc.StateShutoff},
		"not to be started": {live: func(b *bench) error {
			j, err := b.r.PrepareRestore(b.t.Context(), b.spec)
			if err != nil {
				return err
			}
			return errors.Join(b.write(j), j.Commit(b.t.Context(), false))
		}, state: rpc.StateShutoff},
		"start fails": {then: func(b *bench) { b.h.fail["start"] = libvirtError(rpc.ErrOperationInvalid) },
			state: rpc.StateShutoff, fails: libvirtError(rpc.ErrOperationInvalid), notes: 1},
		"a restore that lives": {then: func(b *bench) {
			j, err := b.restorer().PrepareRestore(b.t.Context(), b.spec)
			if err != nil {
				b.t.Fatal(err)
			}
			b.t.Cleanup(func() { j.Abort() })
		}, state: rpc.StateShutoff, fails: source.ErrMachineState, notes: 1},
		"a restore that cannot be undone": {then: func(b *bench) {
			b.put(b.r.journals+"/r0.journal", `{"id":"r0","phase":"write","domain":"web","uuid":"`+benchUUID+`","staging":["/none/of/ours"]}`+"\n")
		}, state: rpc.StateShutoff, fails: source.ErrMachineState, notes: 1},
		"a restore of another machine": {then: func(b *bench) {
			b.put(b.r.journals+"/r0.journal", `{"id":"r0","phase":"write","domain":"db","uuid":"`+benchUUID[:35]+`2","staging":["/none/of/ours"]}`+"\n")
		}, state: rpc.StateRunning, fails: errors.ErrUnsupported, logs: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.h.domains[b.dom.UUID].state = rpc.StateRunning
			if was, err := b.r.StopMachine(t.Context(), "web"); !was || err != nil || len(b.notes()) != 1 {
				t.Fatal(was, err, b.notes())
			}
			if test.live != nil {
				if err := test.live(b); err != nil || len(b.notes()) != 0 {
					t.Fatal(err, b.notes())
				}
			}
			b.r.die()
			if test.then != nil {
				test.then(b)
			}
			r, log := b.restorer(), bytes.Buffer{}
			r.log = slog.New(slog.NewTextHandler(&log, nil))
			err := r.cleanUpRestores(t.Context())
			var e *rpc.Error
			switch {
			case test.fails == errors.ErrUnsupported: // of its own kind
				if err == nil {
					t.Error("the other restore was ended")
				}
			case errors.As(test.fails, &e):
				if !errors.As(err, &e) {
					t.Error(err)
				}
			case !errors.Is(err, test.fails):
				t.Error(err)
			}
			if n := b.notes(); len(n) != test.notes || b.state() != test.state || strings.Contains(log.String(), "domain=web") != test.logs {
				t.Errorf("notes %v, the machine is %v, log %q", n, b.state(), log.String())
			}
			if test.notes == 0 {
				return
			}
			// What hindered it goes away.
			delete(b.h.fail, "start")
			os.Remove(b.r.journals + "/r0.journal")
			if name != "a restore that lives" {
				if err := r.cleanUpRestores(t.Context()); err != nil || len(b.notes()) != 0 || b.state() != rpc.StateRunning {
					t.Errorf("later: %v, %v, %v", err, b.notes(), b.state())
				}
			}
		})
	}
}

// TestStoppedGone: the machine is undefined meanwhile.
func TestStoppedGone(t *testing.T) {
	b := newBench(t)
	b.h.domains[b.dom.UUID].state = rpc.StateRunning
	if _, err := b.r.StopMachine(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	b.r.die()
	delete(b.h.domains, b.dom.UUID)
	if err := b.restorer().cleanUpRestores(t.Context()); err != nil || len(b.notes()) != 0 {
		t.Error(err, b.notes())
	}
}

// TestStoppedNot: a stop that fails leaves no note of a machine that runs, and
// one that cannot be noted does not happen.
func TestStoppedNot(t *testing.T) {
	b := newBench(t)
	b.h.domains[b.dom.UUID].state = rpc.StatePaused
	b.h.fail["destroy"] = libvirtError(rpc.ErrOperationInvalid)
	if was, err := b.r.StopMachine(t.Context(), "web"); !was || err == nil || len(b.notes()) != 0 {
		t.Error(was, err, b.notes())
	}
	delete(b.h.fail, "destroy")
	b.put(b.dir+"/file", "")
	b.r.journals = b.dir + "/file/restores"
	if _, err := b.r.StopMachine(t.Context(), "web"); err == nil || b.state() != rpc.StatePaused {
		t.Error(err, b.state())
	}
}
