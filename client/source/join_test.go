package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeSource lists machines and notes what it is asked.
type fakeSource struct {
	mu       sync.Mutex
	machines []string
	err      error // of Machines, and of Watch
	asked    []string
	changed  func()
	watching chan struct{}
}

func (s *fakeSource) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, what)
}

func (s *fakeSource) Machines(context.Context) ([]Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Machine
	for _, id := range s.machines {
		out = append(out, Machine{ID: id, Title: id})
	}
	return out, s.err
}

func (s *fakeSource) Watch(ctx context.Context, changed func()) error {
	s.changed = changed
	changed()
	close(s.watching)
	if s.err != nil {
		return s.err
	}
	<-ctx.Done()
	return nil
}

func (s *fakeSource) Snapshot(_ context.Context, id string, _ SnapshotOptions) (Snapshot, error) {
	s.note("snapshot " + id)
	return nil, nil
}

// fakeLive is a source that restores and cleans up.
type fakeLive struct {
	fakeSource
	takes string // the type of definition
}

func (s *fakeLive) PrepareRestore(_ context.Context, spec RestoreSpec) (Restore, error) {
	if spec.DefinitionKind != s.takes {
		return nil, fmt.Errorf("%w: the fake takes no %s", ErrRestoreUnsupported, spec.DefinitionKind)
	}
	s.note("restore " + spec.MachineID)
	return nil, nil
}
func (s *fakeLive) StopMachine(_ context.Context, id string) (bool, error) {
	s.note("stop " + id)
	return true, nil
}
func (s *fakeLive) StartMachine(_ context.Context, id string) error {
	s.note("start " + id)
	return nil
}
func (s *fakeLive) CleanUp(ctx context.Context, committed func(context.Context, string, string) (bool, error)) error {
	s.note("clean up")
	_, err := committed(ctx, "m", "c")
	return errors.Join(err, s.err)
}

func joinFakes() (j Source, images *fakeSource, qemu, libvirt *fakeLive) {
	images = &fakeSource{machines: []string{"b", "twice"}, watching: make(chan struct{})}
	qemu = &fakeLive{fakeSource: fakeSource{machines: []string{"d", "twice"}, watching: make(chan struct{})}, takes: "qemu"}
	libvirt = &fakeLive{fakeSource: fakeSource{machines: []string{"a", "c"}, watching: make(chan struct{})}, takes: "libvirt"}
	return Join(Named{"libvirt", libvirt}, Named{"qemu", qemu}, Named{"images", images}), images, qemu, libvirt
}

func TestJoinOne(t *testing.T) {
	s := &fakeSource{}
	if got := Join(Named{"images", s}); got != Source(s) {
		t.Errorf("one source became %T", got)
	}
}

func TestJoinMachines(t *testing.T) {
	ctx := t.Context()
	j, images, qemu, libvirt := joinFakes()
	// Before anything was listed, and after.
	for range 2 {
		for id, want := range map[string]error{"a": nil, "b": nil, "twice": ErrUnusable, "none": ErrMachineNotFound} {
			if _, err := j.Snapshot(ctx, id, SnapshotOptions{}); !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("snapshot of %s: %v", id, err)
			}
		}
		ms, err := j.Machines(ctx)
		var ids []string
		for _, m := range ms {
			ids = append(ids, m.ID)
			if (m.Problem != "") != (m.ID == "twice") {
				t.Errorf("problem of %s: %q", m.ID, m.Problem)
			}
			if m.ID == "twice" && !strings.Contains(m.Problem, "from qemu and images") {
				t.Errorf("problem %q", m.Problem)
			}
		}
		if err != nil || !slices.Equal(ids, []string{"a", "b", "c", "d", "twice"}) {
			t.Errorf("machines %v, %v", ids, err)
		}
	}
	if !slices.Equal(images.asked, []string{"snapshot b", "snapshot b"}) || len(libvirt.asked) != 2 || len(qemu.asked) != 0 {
		t.Errorf("asked %q, %q, %q", images.asked, libvirt.asked, qemu.asked)
	}
	// Without one of them nothing is said to be gone, and nothing is mixed up: what
	// was not seen before may be of the one that does not answer.
	libvirt.err = ErrHypervisor
	if _, err := j.Machines(ctx); !errors.Is(err, ErrHypervisor) || !strings.Contains(err.Error(), "libvirt") {
		t.Errorf("machines: %v", err)
	}
	if _, err := j.Snapshot(ctx, "b", SnapshotOptions{}); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"new", "none"} {
		images.machines = append(images.machines, "new")
		if _, err := j.Snapshot(ctx, id, SnapshotOptions{}); !errors.Is(err, ErrHypervisor) {
			t.Errorf("snapshot of %s: %v", id, err)
		}
	}
}

func TestJoinRestores(t *testing.T) {
	ctx := t.Context()
	j, images, qemu, libvirt := joinFakes()
	r := j.(Restorer)
	for _, c := range []struct {
		spec RestoreSpec
		want error
	}{
		{RestoreSpec{DefinitionKind: "qemu", New: &NewMachine{}}, nil},
		{RestoreSpec{DefinitionKind: "libvirt", New: &NewMachine{}}, nil},
		{RestoreSpec{DefinitionKind: "other", New: &NewMachine{}}, ErrRestoreUnsupported},
		{RestoreSpec{DefinitionKind: "libvirt", MachineID: "a"}, nil},
		{RestoreSpec{DefinitionKind: "libvirt", MachineID: "gone"}, nil},
		{RestoreSpec{DefinitionKind: "libvirt", MachineID: "d"}, ErrRestoreUnsupported}, // qemu's
		{RestoreSpec{DefinitionKind: "libvirt", MachineID: "b"}, ErrRestoreUnsupported}, // an image
		{RestoreSpec{DefinitionKind: "libvirt", MachineID: "twice"}, ErrUnusable},
	} {
		if _, err := r.PrepareRestore(ctx, c.spec); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}
	// Why a definition is refused is not kept back by those who take none.
	if _, err := r.PrepareRestore(ctx, RestoreSpec{DefinitionKind: "libvirt but not so", New: new(NewMachine)}); !errors.Is(err, ErrRestoreUnsupported) ||
		strings.Count(err.Error(), "fake takes no") != 2 {
		t.Errorf("a definition that nobody takes: %v", err)
	}
	if was, err := r.StopMachine(ctx, "d"); !was || err != nil {
		t.Errorf("stop: %v, %v", was, err)
	}
	if err := r.StartMachine(ctx, "c"); err != nil {
		t.Error(err)
	}
	if _, err := r.StopMachine(ctx, "b"); !errors.Is(err, ErrRestoreUnsupported) {
		t.Errorf("stop of an image: %v", err)
	}
	if !slices.Equal(qemu.asked, []string{"restore ", "stop d"}) || !slices.Equal(libvirt.asked, []string{"restore ", "restore a", "restore gone", "start c"}) || len(images.asked) != 0 {
		t.Errorf("asked %q, %q, %q", qemu.asked, libvirt.asked, images.asked)
	}
}

func TestJoinCleansUp(t *testing.T) {
	j, _, qemu, libvirt := joinFakes()
	libvirt.err = ErrHypervisor
	calls := 0
	err := j.(Cleaner).CleanUp(t.Context(), func(context.Context, string, string) (bool, error) { calls++; return true, nil })
	if !errors.Is(err, ErrHypervisor) || calls != 2 || len(qemu.asked) != 1 {
		t.Errorf("clean-up: %v after %d calls, qemu was asked %q", err, calls, qemu.asked)
	}
}

func TestJoinWatch(t *testing.T) {
	j, images, qemu, libvirt := joinFakes()
	ctx, cancel := context.WithCancel(t.Context())
	var n, inside int // the race detector finds calls that overlap
	ended := make(chan error, 1)
	go func() { ended <- j.Watch(ctx, func() { inside++; n++; inside-- }) }()
	for _, c := range []chan struct{}{images.watching, qemu.watching, libvirt.watching} {
		<-c
	}
	var wg sync.WaitGroup
	for _, changed := range []func(){images.changed, qemu.changed, libvirt.changed} {
		wg.Go(changed)
	}
	wg.Wait()
	cancel()
	if err := <-ended; err != nil || n != 6 || inside != 0 {
		t.Errorf("watch ended with %v after %d calls", err, n)
	}
	j, images, _, _ = joinFakes()
	images.err = ErrUnusable
	if err := j.Watch(t.Context(), func() {}); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), "images") {
		t.Errorf("watch ended with %v", err)
	}
}
