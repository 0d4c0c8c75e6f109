package server

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
)

var (
	killsFlag = flag.Int("kills", 10, "how often TestKilled kills its server")
	seedFlag  = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of TestKilled")
)

// TestKilled is a short one of these lives; TestKilledOften, with the build tag
// e2e, is a long one.
func TestKilled(t *testing.T) { testKilled(t, *killsFlag, *seedFlag) }

// testKilled leads a life in which the server is killed at random moments: within
// calls, within what it does of itself, and while it starts.
func testKilled(t *testing.T, kills int, seed uint64) {
	l := newKilledLife(t, seed)
	l.start(nil)
	l.begin()
	const between = 20 // kills from one comparison to the next
	for i := 0; i < kills; i++ {
		l.live()
		l.kill()
		for l.random(6) == 0 && !l.start(time.After(time.Duration(l.random(100))*time.Millisecond)) {
			i++
		}
		if l.dead() {
			l.start(nil)
		}
		if i%between == between-1 {
			l.compare()
		}
	}
	l.verified()
	t.Log(l.story(kills))
	l.end()
	l.work.Wait()
	l.kill()
	verifyVaults(t, filepath.Join(l.dir, vaultsName))
}

// live waits for a random moment: until some calls were answered, however long the
// machine takes for them, and then into the midst of others.
func (l *killedLife) live() {
	until := l.answered() + l.random(60)
	for end := time.Now().Add(2 * time.Second); l.answered() < until && time.Now().Before(end) && l.ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Duration(l.random(5000)) * time.Microsecond)
	l.check()
}

func (l *killedLife) answered() int {
	l.notes.mu.Lock()
	defer l.notes.mu.Unlock()
	return l.notes.calls
}

func (l *killedLife) dead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proc == nil
}

// begin makes what the life is about, and lets it begin.
func (l *killedLife) begin() {
	l.t.Helper()
	must[*pb.CreateVaultResponse](l.t)(l.w.vaults.CreateVault(l.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v1"}))
	for id, s := range map[string]*pb.Schedule{
		"nightly": {TimeZone: "Europe/Berlin", Kind: &pb.Schedule_Daily{Daily: &pb.DailySchedule{Time: &pb.TimeOfDay{Hours: 2, Minutes: 30}}}},
		"often":   {Kind: &pb.Schedule_Hourly{Hourly: &pb.HourlySchedule{IntervalHours: 4, WindowStart: &pb.TimeOfDay{}, WindowHours: 24}}},
	} {
		p := must[*pb.CreatePolicyResponse](l.t)(l.w.policies.CreatePolicy(l.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: id, Policy: &pb.Policy{
			Schedule: s, Retention: &pb.Retention{Daily: &pb.DailyRetention{Days: 3}},
		}})).Policy
		l.policies = append(l.policies, &killedPolicy{l: l, name: p.Name, schedule: p.Schedule, now: p})
	}
	for host, machines := range killedHosts {
		if !l.register(host, machines) {
			l.check()
		}
		for _, m := range machines {
			l.items = append(l.items, &killedItem{l: l, name: vault + "/protectedItems/" + m, machine: sub + "/hosts/" + host + "/machines/" + m})
		}
		l.work.Go(func() { l.agent(host, machines) })
	}
	for _, it := range l.items {
		l.run(it.act)
	}
	for _, p := range l.policies {
		l.run(p.act)
	}
	l.run(l.vaultKeeper())
	l.run(l.passTime)
}

// killedLeap is the longest that the clock leaps. It is less than the time between
// two runs of any schedule, so that none is left out for a later one.
const killedLeap = 3 * time.Hour

// passTime lets the clock leap, mostly when nothing goes on: a lease does not
// outlive a leap.
func (l *killedLife) passTime() {
	idle := l.random(4) > 0
	for tries := 0; idle && tries < 5; tries++ {
		r, err := callKilled(l, l.w.jobs.ListJobs, &pb.ListJobsRequest{Parent: vault, PageSize: 1, Filter: &pb.JobFilter{
			States: []pb.JobState{pb.JobState_JOB_STATE_QUEUED, pb.JobState_JOB_STATE_IN_PROGRESS, pb.JobState_JOB_STATE_CANCELLING},
		}})
		idle = err == nil && len(r.Jobs) > 0
	}
	l.advance(time.Duration(1+l.random(int(killedLeap.Minutes()))) * time.Minute)
}

// verifyVaults opens the stores of vaults and verifies all that they hold.
func verifyVaults(t *testing.T, dir string) {
	t.Helper()
	vaults, err := os.ReadDir(dir)
	if err != nil || len(vaults) == 0 {
		t.Fatalf("vaults %v, %v", vaults, err)
	}
	for _, v := range vaults {
		st, err := blockstore.Open(filepath.Join(dir, v.Name()), blockstore.Options{FS: vfs.Default})
		if err != nil {
			t.Fatal(err)
		}
		r, err := st.Verify(t.Context(), nil)
		if err != nil || r.BadCount > 0 {
			t.Errorf("verification of %s: %v, %v", v.Name(), r, err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}
