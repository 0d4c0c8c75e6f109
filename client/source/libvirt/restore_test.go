package libvirt

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
)

// rawOf returns what an image holds.
func rawOf(t *testing.T, path, format string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if out, err := exec.Command("qemu-img", "convert", "-U", "-f", format, "-O", "raw", path, raw).CombinedOutput(); err != nil {
		t.Fatalf("convert %s (qemu-img is of the package qemu-utils): %v: %s", path, err, out)
	}
	data, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRestoreNew(t *testing.T) {
	b := newBench(t)
	before := b.tree()
	b.spec.New = &source.NewMachine{Title: "Web two"}
	b.r.journals = b.dir + "/fresh/restores"
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.write(j); err != nil {
		t.Fatal(err)
	}
	// QEMU's user passes through the state directory to its sockets.
	if st, err := os.Stat(b.dir + "/fresh"); err != nil || st.Mode().Perm() != 0o711 {
		t.Error("state directory:", st, err)
	}
	if err := j.Commit(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := j.Abort(); err != nil {
		t.Error(err)
	}
	dom, err := b.h.LookupByName(t.Context(), "Web two")
	if err != nil || j.Machine() != "web-two" {
		t.Fatal(err, j.Machine())
	}
	now, err := domxml.Parse([]byte(b.h.domains[dom.UUID].xml))
	if err != nil {
		t.Fatal(err)
	}
	for target, format := range map[string]string{"vda": "raw", "vdb": "qcow2", "vdc": "qcow2"} {
		path := b.r.images + "/Web two-" + target + "." + format
		b.same(path, format, target)
		if d, _ := now.Disk(target); d.Path != path || d.Format != format || j.Paths()[target] != path {
			t.Errorf("%s: %+v, %s", target, d, j.Paths()[target])
		}
	}
	after := b.tree()
	if after["nvram/Web two_VARS.fd"] != "new vars" || now.Firmware().NVRAM != b.r.nvram+"/Web two_VARS.fd" {
		t.Error("NVRAM", after, now.Firmware())
	}
	if after["swtpm/"+dom.UUID.String()+"/tpm2/tpm2-00.permall"] != "new tpm" {
		t.Error("TPM", after)
	}
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%s was changed", name)
		}
	}
	if len(after) != len(before)+3+1+3 {
		t.Errorf("left: %v", after)
	}
	if b.h.domains[dom.UUID].state != rpc.StateRunning {
		t.Error("not started")
	}
}

func TestRestoreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(b *bench)
		want   error
		text   string
	}{
		"name taken":   {func(b *bench) { b.spec.New = &source.NewMachine{Title: "web"} }, source.ErrTargetExists, `"web"`},
		"id taken":     {func(b *bench) { b.spec.New = &source.NewMachine{Title: "WEB"} }, source.ErrTargetExists, `"web"`},
		"no name":      {func(b *bench) { b.spec.New = &source.NewMachine{Title: " "} }, source.ErrRestoreUnsupported, "name"},
		"a path":       {func(b *bench) { b.spec.New = &source.NewMachine{Title: "../x"} }, source.ErrRestoreUnsupported, "slash"},
		"no directory": {func(b *bench) { b.spec.New = &source.NewMachine{Title: "x", Directory: "/none"} }, source.ErrRestoreUnsupported, "/none"},
		"no images": {func(b *bench) {
			b.spec.New = &source.NewMachine{Title: "x"}
			b.spec.Disks[0].Path = "/none/web-vda"
			b.r.images += "/none"
		}, source.ErrRestoreUnsupported, "/none, where disk vda goes"},
		"file exists":    {func(b *bench) { b.spec.New = &source.NewMachine{Title: "x"}; b.put(b.r.images+"/x-vdb.qcow2", "") }, source.ErrTargetExists, "x-vdb.qcow2"},
		"vars exist":     {func(b *bench) { b.spec.New = &source.NewMachine{Title: "x"}; b.put(b.r.nvram+"/x_VARS.fd", "") }, source.ErrTargetExists, "x_VARS.fd"},
		"no space":       {func(b *bench) { b.spec.New = &source.NewMachine{Title: "x"}; b.spec.Disks[1].Data = 1 << 60 }, source.ErrNoSpace, "bytes"},
		"runs":           {func(b *bench) { b.h.domains[b.dom.UUID].state = rpc.StateRunning }, source.ErrMachineState, "web"},
		"paused":         {func(b *bench) { b.h.domains[b.dom.UUID].state = rpc.StatePaused }, source.ErrMachineState, "web"},
		"saved":          {func(b *bench) { b.h.domains[b.dom.UUID].saved = true }, source.ErrMachineState, "managedsave"},
		"no definition":  {func(b *bench) { b.spec.Definition = nil }, source.ErrRestoreUnsupported, "definition"},
		"bad definition": {func(b *bench) { b.spec.Definition = []byte("<domain>") }, source.ErrRestoreUnsupported, "definition"},
		"other kind":     {func(b *bench) { b.spec.DefinitionKind = "text/plain" }, source.ErrRestoreUnsupported, "text/plain"},
		"unknown disk":   {func(b *bench) { b.spec.Disks[0].Target = "sdz" }, source.ErrRestoreUnsupported, "sdz"},
		"other machine":  {func(b *bench) { b.spec.MachineID = "db" }, source.ErrMachineNotFound, "db"},
		"no libvirt": {func(b *bench) {
			b.r.connect = func(context.Context) (hypervisor, error) { return nil, rpc.ErrDisconnected }
		}, source.ErrHypervisor, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			test.change(b)
			before := b.tree()
			j, err := b.r.PrepareRestore(t.Context(), b.spec)
			if err == nil {
				j.Abort()
			}
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v, want %v with %q", err, test.want, test.text)
			}
			if after := b.tree(); !maps.Equal(before, after) {
				t.Errorf("left: %v", after)
			}
		})
	}
}

// checkRestored looks whether the machine is the restored one, and no trace of
// the restore is left.
func (b *bench) checkRestored() {
	b.t.Helper()
	after := b.tree()
	for target, format := range map[string]string{"vda": "raw", "vdb": "qcow2", "vdc": "qcow2"} {
		b.same(b.r.images+"/web-"+target, format, target)
		now, err := domxml.Parse([]byte(b.h.domains[b.dom.UUID].xml))
		if err != nil {
			b.t.Fatal(err)
		}
		if d, _ := now.Disk(target); d.Format != format {
			b.t.Errorf("%s is defined as %s", target, d.Format)
		}
		if st, err := os.Stat(b.r.images + "/web-" + target); err != nil || st.Mode() != 0o640 {
			b.t.Errorf("%v, %v", st.Mode(), err)
		}
	}
	if after["nvram/web_VARS.fd"] != "new vars" || after["swtpm/"+benchUUID+"/tpm2/tpm2-00.permall"] != "new tpm" {
		b.t.Errorf("state files: %v", after)
	}
	for name := range after {
		if strings.Contains(name, "cairn-") || strings.HasSuffix(name, ".journal") {
			b.t.Errorf("left: %s", name)
		}
	}
	if c := b.h.domains[b.dom.UUID].checkpoints; len(c) != 1 || c[0] != "mine" {
		b.t.Errorf("checkpoints: %v", c)
	}
}

func TestRestoreInPlace(t *testing.T) {
	b := newBench(t)
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	before := b.tree()
	if err := b.write(j); err != nil {
		t.Fatal(err)
	}
	for name, data := range before {
		if b.tree()[name] != data && !strings.Contains(name, "cairn-") {
			t.Errorf("%s was changed before the commit", name)
		}
	}
	if err := j.Commit(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	b.checkRestored()
	if b.h.domains[b.dom.UUID].state != rpc.StateRunning {
		t.Error("not started")
	}
}

// steps runs an in-place restore and returns the names of its steps.
func steps(t *testing.T) (names []string) {
	b := newBench(t)
	b.r.step = func(name string) error {
		names = append(names, strings.ReplaceAll(name, b.dir, "DIR"))
		return nil
	}
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.write(j), j.Commit(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	if len(names) != 1+2*5+2+1+5 {
		t.Fatalf("steps: %q", names)
	}
	return names
}

// TestRestoreInPlaceFails: whatever step fails, the old machine is back, or the
// restore has succeeded.
func TestRestoreInPlaceFails(t *testing.T) {
	for i, name := range steps(t) {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			before, xml := b.tree(), b.h.domains[b.dom.UUID].xml
			j, err := b.r.PrepareRestore(t.Context(), b.spec)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.write(j); err != nil {
				t.Fatal(err)
			}
			boom, n := errors.New("boom"), 0
			b.r.step = func(string) error {
				if n++; n == i+1 {
					return boom
				}
				return nil
			}
			err = j.Commit(t.Context(), true)
			if strings.HasPrefix(name, "remove ") {
				if err != nil || len(j.Warnings()) == 0 {
					t.Errorf("commit: %v", err)
				}
				if err := b.restorer().cleanUpRestores(t.Context()); err != nil {
					t.Error(err)
				}
				b.checkRestored()
				return
			}
			if !errors.Is(err, boom) {
				t.Fatalf("commit: %v", err)
			}
			if err := j.Abort(); err != nil {
				t.Error(err)
			}
			if after := b.tree(); !maps.Equal(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
			if d := b.h.domains[b.dom.UUID]; d.xml != xml || d.state != rpc.StateShutoff || len(d.checkpoints) != 2 {
				t.Errorf("the machine is %+v", d)
			}
		})
	}
}

// TestRestoreInPlaceKilled: wherever the process dies, the next one finds the
// old machine, or makes the new one complete.
func TestRestoreInPlaceKilled(t *testing.T) {
	for i, name := range append([]string{"writing"}, steps(t)...) {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			before, xml := b.tree(), b.h.domains[b.dom.UUID].xml
			j, err := b.r.PrepareRestore(t.Context(), b.spec)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.write(j); err != nil {
				t.Fatal(err)
			}
			n := 0
			b.r.step = func(string) error {
				if n++; n == i {
					runtime.Goexit() // and nothing after it is run
				}
				return nil
			}
			if i > 0 {
				done := make(chan struct{})
				go func() { defer close(done); j.Commit(t.Context(), true) }()
				<-done
			}
			// A living process is left alone.
			if err := b.restorer().cleanUpRestores(t.Context()); err != nil {
				t.Error(err)
			}
			j.(*restoreJob).log.f.Close()
			r := b.restorer()
			if err := errors.Join(r.cleanUpRestores(t.Context()), r.cleanUpRestores(t.Context())); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, "remove ") || name == "start" {
				b.checkRestored()
				return
			}
			if after := b.tree(); !maps.Equal(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
			if d := b.h.domains[b.dom.UUID]; d.xml != xml || d.state != rpc.StateShutoff {
				t.Errorf("the machine is %+v", d)
			}
		})
	}
}

// TestRestoreInPlaceGone: a machine that was removed comes back as it was.
func TestRestoreInPlaceGone(t *testing.T) {
	b := newBench(t)
	delete(b.h.domains, b.dom.UUID)
	os.Remove(b.r.images + "/web-vda")
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.write(j), j.Commit(t.Context(), false)); err != nil {
		t.Fatal(err)
	}
	b.same(b.r.images+"/web-vda", "raw", "vda")
	b.same(b.r.images+"/web-vdb", "qcow2", "vdb")
	if d := b.h.domains[b.dom.UUID]; d == nil || d.state != rpc.StateShutoff {
		t.Errorf("the machine: %+v", d)
	}
	if b.tree()["images/web-vdb.cairn-old-r1"] != "old vdb" {
		t.Error("a file that nobody knew of was removed")
	}
}

func TestRestoreAbort(t *testing.T) {
	for _, title := range []string{"", "new"} {
		b := newBench(t)
		before := b.tree()
		if title != "" {
			b.spec.New = &source.NewMachine{Title: title}
		}
		j, err := b.r.PrepareRestore(t.Context(), b.spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.r.PrepareRestore(t.Context(), b.spec); !errors.Is(err, errBusy) {
			t.Errorf("a second one: %v", err)
		}
		if err := b.write(j); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(j.Abort(), j.Abort()); err != nil {
			t.Error(err)
		}
		if after := b.tree(); !maps.Equal(before, after) {
			t.Errorf("before %v, after %v", before, after)
		}
		if err := j.Commit(t.Context(), false); err == nil {
			t.Error("a commit after the abort")
		}
	}
}

// TestRestoreStarted: a machine that is started while its disks are being
// written keeps them.
func TestRestoreStarted(t *testing.T) {
	b := newBench(t)
	before := b.tree()
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.write(j); err != nil {
		t.Fatal(err)
	}
	b.h.domains[b.dom.UUID].state = rpc.StateRunning
	if err := j.Commit(t.Context(), true); !errors.Is(err, source.ErrMachineState) {
		t.Errorf("commit: %v", err)
	}
	if err := j.Abort(); err != nil {
		t.Error(err)
	}
	if after := b.tree(); !maps.Equal(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
}

// TestRestoreStartLost: the machine was started, but libvirt's answer was lost.
func TestRestoreStartLost(t *testing.T) {
	b := newBench(t)
	b.h.fail["start"] = rpc.ErrDisconnected
	j, err := b.r.PrepareRestore(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.write(j), j.Commit(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
	b.checkRestored()
	if b.h.domains[b.dom.UUID].state != rpc.StateRunning {
		t.Error("it was taken from its machine")
	}
}

func TestStopMachine(t *testing.T) {
	for name, test := range map[string]struct {
		state rpc.State
		deaf  bool
		calls string
		was   bool
	}{
		"off":    {rpc.StateShutoff, false, "list subscribe", false},
		"runs":   {rpc.StateRunning, false, "list subscribe shutdown", true},
		"deaf":   {rpc.StateRunning, true, "list subscribe shutdown destroy", true},
		"paused": {rpc.StatePaused, false, "list subscribe destroy", true},
	} {
		b := newBench(t)
		b.r.stopFor = 10 * time.Millisecond
		if !test.deaf {
			b.r.stopFor = time.Hour
		}
		b.h.domains[b.dom.UUID].state, b.h.deaf, b.h.calls = test.state, test.deaf, nil
		was, err := b.r.StopMachine(t.Context(), "web")
		if err != nil || was != test.was || strings.Join(b.h.calls, " ") != test.calls {
			t.Errorf("%s: %v, %v, %v", name, was, err, b.h.calls)
		}
		if b.h.domains[b.dom.UUID].state != rpc.StateShutoff {
			t.Errorf("%s: still there", name)
		}
		if err := b.r.StartMachine(t.Context(), "web"); err != nil || b.h.domains[b.dom.UUID].state != rpc.StateRunning {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Called off while the guest goes down: it is waited for, so that whoever
	// starts it again does not come too early.
	b := newBench(t)
	b.h.domains[b.dom.UUID].state, b.h.deaf = rpc.StateRunning, true
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("called off")
	stopped := make(chan error)
	go func() {
		was, err := b.r.StopMachine(ctx, "web")
		if !was {
			err = errors.Join(err, errors.New("it ran"))
		}
		stopped <- err
	}()
	for {
		b.h.mu.Lock()
		asked := slices.Contains(b.h.calls, "shutdown")
		b.h.mu.Unlock()
		if asked {
			break
		}
		runtime.Gosched()
	}
	cancel(why)
	b.h.mu.Lock()
	b.h.stop(b.dom)
	b.h.mu.Unlock()
	if err := <-stopped; !errors.Is(err, why) || b.h.domains[b.dom.UUID].state != rpc.StateShutoff || len(b.notes()) != 1 {
		t.Errorf("called off: %v, notes %v", err, b.notes())
	}
	if err := b.r.StartMachine(t.Context(), "web"); err != nil || len(b.notes()) != 0 {
		t.Errorf("called off: %v, notes %v", err, b.notes())
	}
	b = newBench(t)
	if _, err := b.r.StopMachine(t.Context(), "none"); !errors.Is(err, source.ErrMachineNotFound) {
		t.Error(err)
	}
	if err := b.r.StartMachine(t.Context(), "none"); !errors.Is(err, source.ErrMachineNotFound) {
		t.Error(err)
	}
}
