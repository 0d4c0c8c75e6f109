package server

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	pb "cairn/proto/cairn/v1"
)

// lifeWorld is a world whose time goes on only when it is told to, and where
// what the server does of itself is done when it is told to.
type lifeWorld struct {
	*world
	clock *lifeClock
}

type lifeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *lifeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// newLife makes vault v1 with policy daily, and protects web1 there.
func newLife(t *testing.T, change ...func(*Options)) *lifeWorld {
	t.Helper()
	c := &lifeClock{now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}
	o := Options{FS: vfs.NewMem(), Dir: "data", Regions: []string{"west", "east"}, Now: c.Now, Unattended: true}
	for _, f := range change {
		f(&o)
	}
	w := &lifeWorld{newWorld(t, o), c}
	w.setUp()
	w.protect()
	return w
}

// pass lets time go on, and the server do what is due then.
func (w *lifeWorld) pass(d time.Duration) {
	w.t.Helper()
	w.clock.mu.Lock()
	w.clock.now = w.clock.now.Add(d)
	w.clock.mu.Unlock()
	w.s.Tend(w.ctx)
}

// point makes a point of web1 with one block of content that depends on seed.
func (w *lifeWorld) point(seed uint64) *pb.RecoveryPoint {
	w.t.Helper()
	w.clock.mu.Lock()
	w.clock.now = w.clock.now.Add(time.Second)
	w.clock.mu.Unlock()
	return w.backUp("", w.clock.Now(), []*testDisk{newTestDisk("vda", blockSize).fill(seed, 0)}, nil)
}

func (w *lifeWorld) stopProtection(mode pb.StopProtectionMode) error {
	_, err := w.items.StopProtection(w.ctx, &pb.StopProtectionRequest{Name: item1, Mode: mode})
	return err
}

const (
	retain = pb.StopProtectionMode_STOP_PROTECTION_MODE_RETAIN_DATA
	remove = pb.StopProtectionMode_STOP_PROTECTION_MODE_DELETE_DATA
)

func (w *lifeWorld) resume() error {
	_, err := w.items.ResumeProtection(w.ctx, &pb.ResumeProtectionRequest{Name: item1})
	return err
}

func (w *lifeWorld) undelete() error {
	_, err := w.items.UndeleteProtectedItem(w.ctx, &pb.UndeleteProtectedItemRequest{Name: item1})
	return err
}

// ok fails the test unless err is nil.
func (w *lifeWorld) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// stateOf names the state of web1 as the diagram in protection.go does.
func (w *lifeWorld) stateOf() string {
	w.t.Helper()
	it, err := w.items.GetProtectedItem(w.ctx, &pb.GetProtectedItemRequest{Name: item1})
	if err != nil {
		_, reason, _ := reasonOf(w.t, err)
		if reason == pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND {
			return "nothing"
		}
		w.t.Fatal(err)
	}
	if (it.ProtectedItem.DeleteTime != nil) != (it.ProtectedItem.PurgeTime != nil) {
		w.t.Errorf("delete and purge times of %v", it)
	}
	if it.ProtectedItem.DeleteTime != nil {
		return "deleted"
	}
	return it.ProtectedItem.ProtectionState.String()[len("PROTECTION_STATE_"):]
}

// operations lists the operations of all jobs of the vault that are not backups,
// oldest first.
func (w *lifeWorld) operations() (out []string) {
	w.t.Helper()
	l := must[*pb.ListJobsResponse](w.t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: vault, PageSize: 1000}))
	for _, j := range l.Jobs {
		if j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP {
			if j.State != completed || j.EndTime == nil || j.ProtectedItem != item1 || j.Machine != web1 {
				w.t.Errorf("job %v", j)
			}
			out = append(out, strings.TrimPrefix(j.Operation.String(), "JOB_OPERATION_"))
		}
	}
	slices.Reverse(out)
	return out
}
