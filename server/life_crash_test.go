package server

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"google.golang.org/protobuf/proto"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
)

// Whenever the power goes in the life of an item, it is afterwards in the state of
// the last call that was answered, or of the one under way; its jobs tell of
// exactly the steps that were made; and the call under way can be repeated.
func TestLifePowerCuts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	steps := []struct {
		job  string
		call func(w *lifeWorld, id string) (*pb.Job, error)
		then string
	}{
		{"DISABLE_BACKUP", stopAs(retain), "PROTECTION_STOPPED"},
		{"CONFIGURE_BACKUP", func(w *lifeWorld, id string) (*pb.Job, error) {
			r, err := w.items.ResumeProtection(w.ctx, &pb.ResumeProtectionRequest{Name: item1, RequestId: id})
			return r.GetJob(), err
		}, "PROTECTED"},
		{"DELETE_BACKUP_DATA", stopAs(remove), "deleted"},
		{"UNDELETE", func(w *lifeWorld, id string) (*pb.Job, error) {
			r, err := w.items.UndeleteProtectedItem(w.ctx, &pb.UndeleteProtectedItemRequest{Name: item1, RequestId: id})
			return r.GetJob(), err
		}, "PROTECTION_STOPPED"},
		{"DELETE_BACKUP_DATA", stopAs(remove), "nothing"}, // soft delete is switched off before
	}
	states, jobs := []string{"PROTECTED"}, []string{"CONFIGURE_BACKUP"}
	for _, s := range steps {
		states, jobs = append(states, s.then), append(jobs, s.job)
	}
	for round := range 15 {
		fs := vfs.NewCrashableMem()
		var mu sync.Mutex
		var after *vfs.MemFS
		var left int64 // syncs until the power goes
		disk := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
			switch op.Kind {
			case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
				mu.Lock()
				defer mu.Unlock()
				if left--; left == 0 {
					after = fs.CrashClone(vfs.CrashCloneCfg{})
				}
			}
			return nil
		}))
		w := newLife(t, func(o *Options) { o.FS = disk })
		w.point(1)
		cut, answered := round%len(steps), 0
		for i, s := range steps[:cut+1] {
			if s.then == "nothing" {
				w.setSoftDelete(&pb.SoftDelete{Disabled: true})
			}
			if i == cut {
				mu.Lock()
				left = 1 + rnd.Int64N(6)
				mu.Unlock()
			}
			must[*pb.Job](t)(s.call(w, fmt.Sprint("step", i)))
			answered++
		}
		mu.Lock()
		if left = 0; after != nil {
			answered-- // it went before the answer
		} else {
			after = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
		}
		mu.Unlock()
		now := w.clock.Now()
		w.stop()

		w = &lifeWorld{newWorld(t, Options{FS: after, Dir: "data", Now: w.clock.Now, Unattended: true, Regions: w.opts.Regions}), w.clock}
		at := slices.Index(states[answered:], w.stateOf()) + answered
		if at < answered || at > answered+1 || at > cut+1 {
			t.Fatalf("after %d answers the item is %s", answered, w.stateOf())
		}
		if got := w.operations(); !slices.Equal(got, jobs[:at+1]) {
			t.Errorf("after %d answers and %d steps the jobs are %v", answered, at, got)
		}
		w.clock.mu.Lock()
		w.clock.now = now.Add(time.Second) // ids of jobs sort by time
		w.clock.mu.Unlock()
		for i := answered; i < len(steps); i++ {
			if steps[i].then == "nothing" {
				w.setSoftDelete(&pb.SoftDelete{Disabled: true})
			}
			first := must[*pb.Job](t)(steps[i].call(w, fmt.Sprint("step", i)))
			if again := must[*pb.Job](t)(steps[i].call(w, fmt.Sprint("step", i))); !proto.Equal(first, again) || first.CreateTime.AsTime().Before(now.Add(-time.Hour)) {
				t.Errorf("again %v, first %v", again, first)
			}
		}
		if got := w.operations(); !slices.Equal(got, jobs) || w.stateOf() != "nothing" || w.vaultPoints() != 0 {
			t.Errorf("in the end the item is %s, with the jobs %v", w.stateOf(), got)
		}
		w.stop()
	}
}

func stopAs(mode pb.StopProtectionMode) func(*lifeWorld, string) (*pb.Job, error) {
	return func(w *lifeWorld, id string) (*pb.Job, error) {
		r, err := w.items.StopProtection(w.ctx, &pb.StopProtectionRequest{Name: item1, Mode: mode, RequestId: id})
		return r.GetJob(), err
	}
}

// A server that stopped between its two databases lists the job when it is back,
// and so does one whose vault was away meanwhile.
func TestJobBetweenDatabases(t *testing.T) {
	w := newLife(t)
	v := must[*Vault](t)(w.s.vaults.find(VaultName{"default", "v1"}))
	// What turn does before it comes to the catalog.
	leave := func(id string) *pb.StopProtectionResponse {
		resp := new(pb.StopProtectionResponse)
		k := keep{w.s, "default", id, must[[]byte](t)(fingerprint(pb.ProtectedItemService_StopProtection_FullMethodName,
			&pb.StopProtectionRequest{Name: item1, Mode: retain, RequestId: id}))}
		var d deed
		must[*pb.ProtectedItem](t)(v.changeItem(w.ctx, newItemName(t, item1), func(it *pb.ProtectedItem) (err error) {
			it.ProtectionState = stopped
			d, err = w.s.newDeed(v, it, pb.JobOperation_JOB_OPERATION_DISABLE_BACKUP, k, func(j *pb.Job) proto.Message { resp.Job = j; return resp })
			return err
		}, func(m blockstore.Mutation) error { return v.Store.Apply(w.ctx, append(d.muts, m)...) }))
		return resp
	}
	listed := func(n int) {
		t.Helper()
		if got := w.operations(); len(got) != n {
			t.Errorf("jobs %v, want %d", got, n)
		}
	}
	left := leave("one")
	listed(1)
	w.restart()
	listed(2)
	w.restart() // which does it once
	listed(2)
	again := must[*pb.Job](t)(stopAs(retain)(w, "one"))
	if again.Name != left.Job.Name || again.Revision == 0 || !proto.Equal(again, w.getJob(again.Name)) {
		t.Errorf("again %v, first %v", again, left.Job)
	}

	v = must[*Vault](t)(w.s.vaults.find(VaultName{"default", "v1"}))
	left = leave("two")
	if again := must[*pb.Job](t)(stopAs(retain)(w, "two")); again.Name != left.Job.Name || again.Revision == 0 {
		t.Errorf("again %v, first %v", again, left.Job)
	}
	listed(3)
	leave("three")
	w.s.Tend(w.ctx)
	listed(4)
}
