package agent

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
	"cairn/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testHost  = "subscriptions/default/hosts/h"
	testVault = "subscriptions/default/vaults/v1"
	testItem  = testVault + "/protectedItems/m"
)

// world is a server, and an agent with a fake for a source.
type world struct {
	t      *testing.T
	f      *fake
	src    source.Source // what the agent serves: f, unless a test hides some of it
	c      *client.Client
	dir    string
	socket string
	s      *server.Server
	g      *grpc.Server
	served chan error
	log    *slog.Logger

	stopAgent func()
}

// testLog shows what was logged when the test fails.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p[:len(p)-1])
	return len(p), nil
}

// newWorld starts a server with a vault and an agent that serves f, whose machine
// is protected.
func newWorld(t *testing.T, f *fake) *world {
	t.Helper()
	tmp, err := os.MkdirTemp("", "cairn-") // sockets need short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	w := &world{t: t, f: f, src: f, dir: t.TempDir(), socket: filepath.Join(tmp, "s"), log: slog.New(slog.NewTextHandler(testLog{t}, nil))}
	w.startServer()
	if w.c, err = client.Dial("unix:" + w.socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.c.Close()
		w.stopServer()
	})
	ctx := t.Context()
	must(w.c.Vaults.CreateVault(ctx, &cairnv1.CreateVaultRequest{Parent: "subscriptions/default", VaultId: "v1", Vault: &cairnv1.Vault{BlockSize: block.MinSize}}))(t)
	must(w.c.Policies.CreatePolicy(ctx, &cairnv1.CreatePolicyRequest{Parent: testVault, PolicyId: "p"}))(t)
	w.startAgent()
	must(w.c.Items.ProtectMachine(ctx, &cairnv1.ProtectMachineRequest{Parent: testVault, ProtectedItem: &cairnv1.ProtectedItem{
		Machine: testHost + "/machines/m", Policy: testVault + "/policies/p"}}))(t)
	return w
}

func must[R any](r R, err error) func(*testing.T) R {
	return func(t *testing.T) R {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

func (w *world) startServer() {
	w.t.Helper()
	var err error
	if w.s, err = server.Open(server.Options{Dir: w.dir, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.g, _ = w.s.NewGRPC()
	w.served = make(chan error, 1)
	go func() { w.served <- w.g.Serve(l) }()
}

func (w *world) stopServer() {
	if w.s == nil {
		return
	}
	w.g.Stop()
	if err := <-w.served; err != nil {
		w.t.Error(err)
	}
	if err := w.s.Close(); err != nil {
		w.t.Error(err)
	}
	w.s = nil
}

// startAgent returns when the agent is connected.
func (w *world) startAgent() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{Server: "unix:" + w.socket, Host: "h", Source: w.src, SourceKind: "fake", Log: w.log, Ready: func() { close(ready) }})
	}()
	w.stopAgent = func() {
		w.stopAgent = func() {}
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(func() { w.stopAgent() })
	select {
	case <-ready:
	case err := <-done:
		done <- err
		w.t.Fatalf("agent: %v", err)
	}
}

// end waits for the end of a job, calling each, if given, with every state seen.
func (w *world) end(name string) *cairnv1.Job {
	w.t.Helper()
	return w.until(name, func(j *cairnv1.Job) bool { return j.GetEndTime() != nil })
}

func (w *world) until(name string, ok func(*cairnv1.Job) bool) *cairnv1.Job {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	stream, err := w.c.Jobs.WatchJobs(ctx, &cairnv1.WatchJobsRequest{Parent: testVault})
	for err == nil {
		var m *cairnv1.WatchJobsResponse
		if m, err = stream.Recv(); err == nil && m.GetJob().GetName() == name && ok(m.GetJob()) {
			return m.GetJob()
		}
	}
	w.t.Fatalf("job %s: %v", name, err)
	return nil
}

func (w *world) backup() string {
	w.t.Helper()
	return must(w.c.Items.BackUp(w.t.Context(), &cairnv1.BackUpRequest{Name: testItem}))(w.t).GetJob().GetName()
}

// backedUp runs a backup that has to end in one of the two good ways, and gives
// its job and its point, which must hold what the disks hold.
func (w *world) backedUp() (*cairnv1.Job, *cairnv1.RecoveryPoint) {
	w.t.Helper()
	j := w.end(w.backup())
	if j.GetError() != nil || j.GetState() == cairnv1.JobState_JOB_STATE_CANCELLED {
		w.t.Fatalf("backup: %v, %v", j.GetState(), j.GetError())
	}
	p := w.newest()
	if p.GetJob() != j.GetName() {
		w.t.Fatalf("the newest point is of job %s, not %s", p.GetJob(), j.GetName())
	}
	w.f.mu.Lock()
	want := cloneDisks(w.f.disks)
	w.f.mu.Unlock()
	w.holds(p, want)
	if n := w.f.open.Load(); n != 0 {
		w.t.Errorf("%d snapshots are left", n)
	}
	return j, p
}

func (w *world) points() []*cairnv1.RecoveryPoint {
	w.t.Helper()
	return must(w.c.Points.ListRecoveryPoints(w.t.Context(), &cairnv1.ListRecoveryPointsRequest{Parent: testItem}))(w.t).GetRecoveryPoints()
}

func (w *world) newest() *cairnv1.RecoveryPoint {
	w.t.Helper()
	ps := w.points()
	if len(ps) == 0 {
		w.t.Fatal("there is no point")
	}
	return ps[0]
}

// holds compares all disks of a point.
func (w *world) holds(p *cairnv1.RecoveryPoint, want map[string][]byte) {
	w.t.Helper()
	if len(p.GetDisks()) != len(want) {
		w.t.Errorf("%d disks, want %d", len(p.GetDisks()), len(want))
	}
	for _, d := range p.GetDisks() {
		if !bytes.Equal(w.contents(p, d), want[d.GetTarget()]) {
			w.t.Errorf("disk %s of point %s is not what it was", d.GetTarget(), p.GetName())
		}
	}
}

func (w *world) contents(p *cairnv1.RecoveryPoint, d *cairnv1.RecoveryPointDisk) []byte {
	w.t.Helper()
	m := must(client.Map(d))(w.t)
	b := make([]byte, m.Size)
	if _, err := diskmap.NewImage(w.c.Reader(p.GetName()), m, diskmap.ImageOptions{}).ReadAt(b, 0); err != nil && err != io.EOF {
		w.t.Fatal(err)
	}
	return b
}

func warned(j *cairnv1.Job, r cairnv1.ErrorReason) []*cairnv1.Warning {
	return slices.DeleteFunc(slices.Clone(j.GetWarnings()), func(w *cairnv1.Warning) bool { return w.GetReason() != r })
}

// randomBytes are n bytes that are never the same.
func randomBytes(t *testing.T, n int) []byte {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}
