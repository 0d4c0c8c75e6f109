package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cairn/client/source"
)

// grain is how finely the fake tracks changes.
const grain = 16 << 10

// fake is a Source of one machine, m, whose disks are in memory. It tracks
// changes, can lie about them, and fails when a test wants it to.
type fake struct {
	mu       sync.Mutex
	disks    map[string][]byte
	state    source.State
	gone     bool
	points   map[string]map[string][]byte // disks as they were, by checkpoint kept
	lie      map[string]int64             // target → offset of a change that is not told
	files    []source.StateFile
	warnings []source.Warning
	track    bool // give checkpoints

	changed func()
	taken   []source.SnapshotOptions
	open    atomic.Int64 // snapshots not closed
	take    func(ctx context.Context, n int) error
	read    func(n int, target string, off int64) error
	readAll atomic.Int64 // bytes

	// Of restores.
	machines map[string]*fakeMachine // by title
	stopped  int
	started  int
	aborted  int
	fail     func(step string) error // of a restore
	settling func(ctx context.Context) error
	specs    []source.RestoreSpec

	clean []func(ctx context.Context, committed func(context.Context, string, string) (bool, error)) error
}

type fakeMachine struct {
	disks   map[string][]byte
	running bool
	waiting bool // an instant one whose restore was broken off
	files   []source.StateFile
}

func newFake() *fake {
	return &fake{disks: map[string][]byte{}, points: map[string]map[string][]byte{}, lie: map[string]int64{}, machines: map[string]*fakeMachine{},
		state: source.StateRunning, track: true}
}

func cloneDisks(d map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for k, v := range d {
		out[k] = bytes.Clone(v)
	}
	return out
}

func (f *fake) machine() source.Machine {
	m := source.Machine{ID: "m", Title: "M", HypervisorID: "0-1", State: f.state, Agent: source.AgentConnected}
	for _, t := range slices.Sorted(maps.Keys(f.disks)) {
		m.Disks = append(m.Disks, source.Disk{Target: t, Path: "/images/" + t, Format: "qcow2", Size: int64(len(f.disks[t]))})
	}
	return m
}

func (f *fake) Machines(context.Context) ([]source.Machine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return nil, nil
	}
	return []source.Machine{f.machine()}, nil
}

func (f *fake) Watch(ctx context.Context, changed func()) error {
	f.mu.Lock()
	f.changed = changed
	f.mu.Unlock()
	changed()
	<-ctx.Done()
	return nil
}

func (f *fake) write(target string, off int64, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	copy(f.disks[target][off:], b)
}

func (f *fake) Snapshot(ctx context.Context, id string, o source.SnapshotOptions) (source.Snapshot, error) {
	f.mu.Lock()
	f.taken = append(f.taken, o)
	n, take := len(f.taken), f.take
	f.mu.Unlock()
	if take != nil {
		if err := take(ctx, n); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if id != "m" || f.gone {
		return nil, fmt.Errorf("machine %s: %w", id, source.ErrMachineNotFound)
	}
	s := &fakeSnapshot{f: f, n: n, ctx: ctx, all: cloneDisks(f.disks)}
	s.info = source.SnapshotInfo{Machine: f.machine(), Time: time.Now(), Consistency: source.FileSystemConsistent, FrozenFor: 7 * time.Millisecond,
		Warnings: slices.Clone(f.warnings), Definition: []byte("<domain/>"), DefinitionKind: "text/xml", StateFiles: f.files}
	if f.state == source.StateStopped {
		s.info.Consistency = source.CrashConsistent
	}
	if f.track {
		s.info.Checkpoint = fmt.Sprintf("cp%d", n)
	}
	since := f.points[o.Since]
	if o.Continues && since == nil {
		s.info.Warnings = append(s.info.Warnings, source.Warning{Kind: source.WarnTracking, Text: "there is no checkpoint"})
	}
	for _, d := range s.info.Machine.Disks {
		if !slices.Contains(o.Exclude, d.Target) {
			s.disks = append(s.disks, &fakeDisk{s: s, disk: d, b: s.all[d.Target], since: since[d.Target], hide: -1})
			if off, ok := f.lie[d.Target]; ok {
				s.disks[len(s.disks)-1].(*fakeDisk).hide = off
			}
		}
	}
	f.open.Add(1)
	return s, nil
}

type fakeSnapshot struct {
	f     *fake
	n     int
	ctx   context.Context
	all   map[string][]byte
	info  source.SnapshotInfo
	disks []source.SnapshotDisk
	once  sync.Once
}

func (s *fakeSnapshot) Info() source.SnapshotInfo       { return s.info }
func (s *fakeSnapshot) Disks() []source.SnapshotDisk    { return s.disks }
func (s *fakeSnapshot) Check(ctx context.Context) error { return context.Cause(ctx) }
func (s *fakeSnapshot) Close() error                    { s.once.Do(func() { s.f.open.Add(-1) }); return nil }

func (s *fakeSnapshot) Keep(ctx context.Context) error {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.info.Checkpoint != "" {
		s.f.points = map[string]map[string][]byte{s.info.Checkpoint: s.all}
	}
	return context.Cause(ctx)
}

type fakeDisk struct {
	s     *fakeSnapshot
	disk  source.Disk
	b     []byte
	since []byte // nil when full
	hide  int64  // this change is not told
}

func (d *fakeDisk) Info() source.Disk { return d.disk }
func (d *fakeDisk) Incremental() bool { return d.since != nil }
func (d *fakeDisk) Distrust()         { d.since = nil }
func (d *fakeDisk) Close() error      { return nil }

func (d *fakeDisk) ReadAt(p []byte, off int64) (int, error) {
	if err := context.Cause(d.s.ctx); err != nil {
		return 0, err
	}
	d.s.f.mu.Lock()
	read := d.s.f.read
	d.s.f.mu.Unlock()
	if read != nil {
		if err := read(d.s.n, d.disk.Target, off); err != nil {
			return 0, err
		}
	}
	d.s.f.readAll.Add(int64(len(p)))
	return bytes.NewReader(d.b).ReadAt(p, off)
}

func (d *fakeDisk) Extents(ctx context.Context, fn func(source.Extent) error) error {
	zeros := make([]byte, grain)
	for off := int64(0); off < d.disk.Size; off += grain {
		b := d.b[off:min(off+grain, d.disk.Size)]
		zero := bytes.Equal(b, zeros[:len(b)])
		e := source.Extent{Offset: off, Length: int64(len(b))}
		if d.since != nil {
			if off == d.hide || off+e.Length <= int64(len(d.since)) && bytes.Equal(b, d.since[off:off+e.Length]) {
				continue
			}
			e.Zero = zero
		} else if zero {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// CleanUp implements source.Cleaner: each call is answered by the next of clean.
func (f *fake) CleanUp(ctx context.Context, committed func(context.Context, string, string) (bool, error)) error {
	f.mu.Lock()
	if len(f.clean) == 0 {
		f.mu.Unlock()
		return nil
	}
	do := f.clean[0]
	f.clean = f.clean[1:]
	f.mu.Unlock()
	return do(ctx, committed)
}

func (f *fake) step(name string) error {
	f.mu.Lock()
	fail := f.fail
	f.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail(name)
}

func (f *fake) StopMachine(context.Context, string) (bool, error) {
	if err := f.step("stop"); err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.state == source.StateRunning
	f.state, f.stopped = source.StateStopped, f.stopped+1
	return was, nil
}

func (f *fake) StartMachine(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.started = source.StateRunning, f.started+1
	return nil
}

func (f *fake) PrepareRestore(ctx context.Context, spec source.RestoreSpec) (source.Restore, error) {
	if err := f.step("prepare"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs = append(f.specs, spec)
	switch {
	case spec.New != nil && f.machines[spec.New.Title] != nil && f.machines[spec.New.Title].waiting:
		return &fakeRestore{f: f, spec: spec, m: f.machines[spec.New.Title]}, nil
	case spec.New != nil && f.machines[spec.New.Title] != nil:
		return nil, fmt.Errorf("machine %s: %w", spec.New.Title, source.ErrTargetExists)
	case spec.New == nil && f.state != source.StateStopped && !f.gone:
		return nil, source.ErrMachineState
	}
	return &fakeRestore{f: f, spec: spec, m: &fakeMachine{disks: map[string][]byte{}, files: spec.StateFiles}}, nil
}

type fakeRestore struct {
	f    *fake
	spec source.RestoreSpec
	m    *fakeMachine
	over bool
	back map[string]source.Backing
}

func (r *fakeRestore) Machine() string            { return "m" }
func (r *fakeRestore) Paths() map[string]string   { return nil }
func (r *fakeRestore) Warnings() []source.Warning { return nil }

func (r *fakeRestore) Disk(_ context.Context, target string) (source.DiskWriter, error) {
	if err := r.f.step("disk " + target); err != nil {
		return nil, err
	}
	for _, d := range r.spec.Disks {
		if d.Target == target {
			return &fakeWriter{r: r, target: target, b: make([]byte, d.Size)}, nil
		}
	}
	return nil, errors.New("no such disk")
}

type fakeWriter struct {
	r      *fakeRestore
	target string
	mu     sync.Mutex
	b      []byte
}

func (w *fakeWriter) WriteAt(p []byte, off int64) (int, error) {
	if err := w.r.f.step("write " + w.target); err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return copy(w.b[off:], p), nil
}
func (w *fakeWriter) Commit(context.Context) error { w.r.m.disks[w.target] = w.b; return nil }
func (w *fakeWriter) Abort() error                 { return nil }

func (r *fakeRestore) Commit(_ context.Context, start bool) error {
	if err := r.f.step("commit"); err != nil {
		return err
	}
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.over = true
	r.m.running = start
	if r.spec.New != nil {
		r.f.machines[r.spec.New.Title] = r.m
		return nil
	}
	r.f.gone = false
	r.f.disks = r.m.disks
	r.f.state = source.StateStopped
	if start {
		r.f.state = source.StateRunning
	}
	return nil
}

func (r *fakeRestore) Instant(_ context.Context, disks map[string]source.Backing) error {
	if err := r.f.step("instant"); err != nil {
		return err
	}
	r.back = disks
	for t, b := range disks { // a guest boots
		if _, err := b.ReadAt(make([]byte, 512), 0); err != nil && err != io.EOF {
			return fmt.Errorf("%s: %w", t, err)
		}
	}
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.m.running = true
	r.f.machines[r.spec.New.Title] = r.m
	return nil
}

func (r *fakeRestore) Settle(ctx context.Context, progress func(done, total int64)) error {
	if err := r.f.step("settle"); err != nil {
		return err
	}
	if r.f.settling != nil {
		if err := r.f.settling(ctx); err != nil {
			return err
		}
	}
	var done int64
	for t, b := range r.back {
		got := make([]byte, b.Size())
		if _, err := b.ReadAt(got, 0); err != nil && err != io.EOF {
			return fmt.Errorf("%s: %w", t, err)
		}
		r.m.disks[t] = got
		done += b.Size()
		progress(done, done)
	}
	r.over = true
	return nil
}

// Release keeps an instant machine.
func (r *fakeRestore) Release() error {
	r.f.mu.Lock()
	instant := r.back != nil
	r.m.waiting = instant
	r.f.mu.Unlock()
	if instant {
		return nil
	}
	return r.Abort()
}

func (r *fakeRestore) Abort() error {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	if !r.over {
		r.f.aborted++
		if r.spec.New != nil {
			delete(r.f.machines, r.spec.New.Title)
		}
	}
	return nil
}
