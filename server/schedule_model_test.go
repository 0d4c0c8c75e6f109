package server

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
	"cairn/server/policy"
)

// scheduleModel does to a server what may happen to its schedules, and checks what
// must hold whatever happened.
type scheduleModel struct {
	*scheduleWorld
	rnd   *rand.Rand
	power *powerCut
	items []string
	agent *agent
	held  map[string]*pb.JobAssignment // what the agent has, by item
	lives int                          // of the agent
	plan  *pb.Schedule
	trail []string
}

func (m *scheduleModel) did(format string, args ...any) {
	m.trail = append(m.trail, m.clock.Now().Format("01-02 15:04:05 ")+fmt.Sprintf(format, args...))
}

// connect starts the agent, as a process that knows of no job.
func (m *scheduleModel) connect() {
	m.lives++
	m.agent, m.held = m.claim(fmt.Sprint("life ", m.lives)), map[string]*pb.JobAssignment{}
}

func (m *scheduleModel) disconnect() {
	if m.agent != nil {
		m.agent.cancel()
		for m.s != nil && m.s.jobs.Connected(host1) {
			runtime.Gosched()
		}
		m.agent = nil
	}
}

// take gives the agent what waits for it.
func (m *scheduleModel) take() {
	if m.agent == nil {
		return
	}
	for _, item := range m.items {
		for _, j := range m.backups(item) {
			if !job.Ended(j.State) && (m.held[item] == nil || m.held[item].Job.Name != j.Name) {
				as := m.agent.assignment()
				m.held[as.Job.ProtectedItem] = as
				if m.rnd.IntN(2) == 0 { // otherwise it says nothing before its end
					must[*pb.ReportJobResponse](m.t)(m.reportJob(as, pb.JobState_JOB_STATE_IN_PROGRESS))
				}
			}
		}
	}
}

// powerCut is a disk that goes away at a write to come, and then is what it was.
type powerCut struct {
	mu    sync.Mutex
	disk  *vfs.MemFS
	in    int // so many writes from now; 0 for never
	rnd   *rand.Rand
	after *vfs.MemFS
}

func (c *powerCut) fs() vfs.FS {
	return errorfs.Wrap(c.disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.in > 0 && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			if c.in--; c.in == 0 {
				c.cut()
			}
		}
		return nil
	}))
}

func (c *powerCut) cut() {
	c.after = c.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.rnd.IntN(101), RNG: c.rnd})
}

// crash stops the server in the middle of what it does at a time, and starts it on
// what was on disk by then.
func (m *scheduleModel) crash(to time.Time) {
	m.disconnect()
	m.power.mu.Lock()
	m.power.in = 1 + m.rnd.IntN(12)
	m.power.mu.Unlock()
	m.at(to)
	m.power.mu.Lock()
	if m.power.in > 0 { // there was less to do
		m.power.in = 0
		m.power.cut()
	}
	after := m.power.after
	m.power.mu.Unlock()
	m.stop()
	m.power = &powerCut{disk: after, rnd: m.power.rnd}
	m.opts.FS = m.power.fs()
	m.start()
	m.held = nil
}

func (m *scheduleModel) step() {
	now := m.clock.Now()
	soon := now.Add(time.Duration(m.rnd.IntN(8*60)) * time.Minute)
	switch k := m.rnd.IntN(20); {
	case k < 8:
		if k == 0 {
			soon = now.AddDate(0, 0, m.rnd.IntN(4))
		}
		m.at(soon)
		m.did("time goes on")
	case k < 9:
		m.disconnect()
		m.restart()
		m.at(soon)
		m.did("restart")
	case k < 11:
		m.crash(soon)
		m.did("crash")
	case k < 13:
		if m.agent == nil {
			m.connect()
			m.did("agent comes")
		} else {
			m.disconnect()
			m.did("agent goes")
		}
	case k < 18:
		for item, as := range m.held {
			if m.agent == nil || m.rnd.IntN(3) == 0 {
				continue
			}
			delete(m.held, item)
			if m.rnd.IntN(2) == 0 {
				up := must[*pb.CreateUploadResponse](m.t)(m.blocks.CreateUpload(m.ctx, &pb.CreateUploadRequest{
					Parent: item, Job: as.Job.Name, LeaseToken: as.LeaseToken, Disks: []*pb.UploadDisk{{Target: "vda", Size: 1 << 20}},
				}))
				must[*pb.RecoveryPoint](m.t)(m.commit(up.UploadToken))
				must[*pb.ReportJobResponse](m.t)(m.reportJob(as, completed))
				m.did("success of %s", as.Job.Name)
				continue
			}
			reason := []pb.ErrorReason{passing, guests, pb.ErrorReason_ERROR_REASON_DISK_LOCKED}[m.rnd.IntN(3)]
			m.fail(as, reason)
			m.did("failure of %s: %v", as.Job.Name, reason)
		}
	case k < 19:
		m.plan = []*pb.Schedule{
			dailyAt(int32(m.rnd.IntN(24)), int32(m.rnd.IntN(60)), "Australia/Lord_Howe"),
			{Kind: &pb.Schedule_Hourly{Hourly: &pb.HourlySchedule{IntervalHours: 4, WindowStart: &pb.TimeOfDay{Hours: int32(m.rnd.IntN(24))}, WindowHours: 12}}},
			{Kind: &pb.Schedule_Weekly{Weekly: &pb.WeeklySchedule{Days: []pb.DayOfWeek{pb.DayOfWeek(1 + m.rnd.IntN(7))}, Time: &pb.TimeOfDay{Hours: 3}}}},
		}[m.rnd.IntN(3)]
		m.schedule(m.plan)
		m.did("another schedule")
	default:
		if r, err := m.world.items.BackUp(m.ctx, &pb.BackUpRequest{Name: m.items[0]}); err == nil {
			m.did("on demand: %s", r.Job.Name)
		}
	}
	m.s.Tend(m.ctx)
	m.take()
	m.check()
}

// check checks what must hold after a look at what is due.
func (m *scheduleModel) check() {
	m.t.Helper()
	now := m.clock.Now()
	p := must[*pb.GetPolicyResponse](m.t)(m.policies.GetPolicy(m.ctx, &pb.GetPolicyRequest{Name: daily})).Policy
	for _, item := range m.items {
		since := later(m.item(item).CreateTime.AsTime(), p.ScheduleUpdateTime.AsTime())
		js := m.backups(item)
		active, first := 0, map[time.Time]int{}
		for _, j := range js {
			slot := j.ScheduleTime.AsTime()
			if !job.Ended(j.State) {
				active++
			}
			switch {
			case !j.Scheduled:
			case slot.After(j.CreateTime.AsTime()):
				m.t.Errorf("a job of a run to come: %v", j)
			case j.Attempt == 1:
				first[slot]++
			default:
				i := slices.IndexFunc(js, func(old *pb.Job) bool { return old.Name == j.RetryOf })
				if i < 0 || js[i].State != failed || js[i].Attempt != j.Attempt-1 || !js[i].ScheduleTime.AsTime().Equal(slot) || js[i].NextAttemptTime.AsTime().After(j.CreateTime.AsTime()) {
					m.t.Errorf("a retry of nothing: %v", j)
				}
			}
		}
		if active > 1 {
			m.t.Errorf("%d backups of %s at a time", active, item)
		}
		for slot, n := range first {
			if n != 1 {
				m.t.Errorf("%d backups of %s for the run of %v", n, item, slot)
			}
		}
		if slot, ok := policy.Latest(p.Schedule, now); ok && slot.After(since) && first[slot] == 0 {
			m.t.Errorf("no backup of %s for the run of %v", item, slot)
		}
		if next := m.item(item).NextBackupTime; next == nil || !next.AsTime().After(now) {
			m.t.Errorf("next backup of %s at %v", item, next)
		}
	}
	if m.t.Failed() {
		m.t.Fatalf("at %v, after:\n%s", now, strings.Join(m.trail, "\n"))
	}
}

// Whatever happens to server, agent and jobs: each run of a schedule has its one
// job, and an item one backup at a time.
func TestSchedulesWhateverHappens(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(3) {
		power := &powerCut{disk: vfs.NewCrashableMem(), rnd: rand.New(rand.NewPCG(seed, round+100))}
		m := &scheduleModel{
			scheduleWorld: newScheduleWorld(t, func(o *Options) { o.FS = power.fs() }),
			rnd:           rand.New(rand.NewPCG(seed, round)),
			power:         power,
		}
		m.items = []string{m.protectAs("web1", daily), m.protectAs("db1", daily)}
		for range 80 {
			m.step()
		}
		m.disconnect()
		m.stop()
	}
}
