package server

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

var updateWeek = flag.Bool("update-week", false, "write testdata/week.txt as TestWeek finds things, to be read before it is kept")

// TestWeek lives through testdata/week.txt: an item's week, and what comes after it
// until its data is gone, step by step through the API. A step is its time and
// title, the things that are done, a line "----", and all that can be seen then:
// jobs that are new or have changed, the item, its points, what is billed, and what
// was put on record.
func TestWeek(t *testing.T) {
	const file = "testdata/week.txt"
	script, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, steps, _ := strings.Cut(string(script), "\n== ")
	w := newWeek(t)
	out := bytes.NewBufferString(head)
	for _, step := range strings.Split(steps, "\n== ") {
		done, want, _ := strings.Cut(step, "\n----\n")
		title, commands, _ := strings.Cut(done, "\n")
		got := w.step(title, strings.FieldsFunc(commands, func(r rune) bool { return r == '\n' }))
		if want = strings.TrimSpace(want); got != want && !*updateWeek {
			t.Errorf("%s: there is\n%s\nand there should be\n%s", title, got, want)
		}
		fmt.Fprintf(out, "\n== %s\n----\n%s\n", done, got)
	}
	if *updateWeek {
		if err := os.WriteFile(file, out.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// week is the world of TestWeek.
type week struct {
	*world
	clock *clock
	agent *agent
	fails string              // with what backups fail; "" if they do not
	hangs bool                // backups go on and on
	held  []*pb.JobAssignment // those
	shown map[string]string   // jobs, as they were shown
	seen  map[string]bool     // audit records that were shown
}

func newWeek(t *testing.T) *week {
	w := &week{clock: newClock(time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)), shown: map[string]string{}, seen: map[string]bool{}}
	opts := inMemory()
	opts.Now, opts.Unattended, opts.Spread = w.clock.Now, true, -1
	opts.Jobs = job.Options{Lease: 40 * time.Hour} // longer than any backup that hangs
	w.world = newWorld(t, opts)
	w.setUp()
	w.agent = w.claim("one")
	return w
}

const weekTime = "2006-01-02 15:04"

// step lets time pass until a step's, does what it says, and tells what is to be
// seen.
func (w *week) step(title string, commands []string) string {
	w.t.Helper()
	at, err := time.Parse(weekTime, title[:len(weekTime)])
	if err != nil || at.Before(w.clock.Now()) {
		w.t.Fatalf("step %q: %v", title, err)
	}
	var out strings.Builder
	w.clock.Set(at)
	for _, c := range commands {
		if strings.HasPrefix(c, "agent ") { // before it gets what is due
			w.behave(strings.Fields(c)[1:])
		}
	}
	w.s.Tend(w.ctx)
	w.work()
	for _, c := range commands {
		if err := w.command(strings.Fields(c)); err != nil {
			_, reason, _ := reasonOf(w.t, err)
			fmt.Fprintf(&out, "refused  %s: %s\n", c, reasonName(reason))
		}
		w.work()
	}
	w.s.Tend(w.ctx)
	w.work()
	w.show(&out)
	return strings.TrimSpace(out.String())
}

func (w *week) behave(how []string) {
	w.fails, w.hangs = "", false
	switch how[0] {
	case "fails":
		w.fails = how[1]
	case "hangs":
		w.hangs = true
	case "works":
		for _, as := range w.held {
			w.finish(as)
		}
		w.held = nil
	default:
		w.t.Fatalf("agent %v", how)
	}
}

func (w *week) command(c []string) (err error) {
	switch strings.Join(c[:min(2, len(c))], " ") {
	case "protect":
		_, err = w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily}})
	case "stop retain":
		_, err = w.items.StopProtection(w.ctx, &pb.StopProtectionRequest{Name: item1, Mode: retain})
	case "stop delete":
		_, err = w.items.StopProtection(w.ctx, &pb.StopProtectionRequest{Name: item1, Mode: remove})
	case "resume":
		_, err = w.items.ResumeProtection(w.ctx, &pb.ResumeProtectionRequest{Name: item1})
	case "undelete":
		_, err = w.items.UndeleteProtectedItem(w.ctx, &pb.UndeleteProtectedItemRequest{Name: item1})
	case "backup":
		_, err = w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1})
	case "reclaim":
		_, err = w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: vault})
	case "reclaim dry":
		_, err = w.vaults.ReclaimVault(w.ctx, &pb.ReclaimVaultRequest{Name: vault, DryRun: true})
	default:
		switch c[0] {
		case "agent":
		case "backup": // backup until TIME
			until, e := time.Parse(time.DateOnly, c[2])
			if e != nil {
				w.t.Fatal(e)
			}
			_, err = w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1, RetainUntil: timestamppb.New(until)})
		case "keep": // keep DAYS [sundays WEEKS]
			_, err = w.policies.UpdatePolicy(w.ctx, &pb.UpdatePolicyRequest{
				Policy: &pb.Policy{Name: daily, Retention: keepOf(w.t, c[1:])}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"retention"}},
			})
		default:
			w.t.Fatalf("command %v", c)
		}
	}
	return err
}

func keepOf(t *testing.T, words []string) *pb.Retention {
	r := new(pb.Retention)
	for i := 0; i+1 < len(words); i += 2 {
		n, err := strconv.Atoi(words[i+1])
		switch {
		case err != nil:
			t.Fatal(err)
		case words[i] == "days":
			r.Daily = &pb.DailyRetention{Days: int32(n)}
		case words[i] == "wednesdays":
			r.Weekly = &pb.WeeklyRetention{Days: []pb.DayOfWeek{pb.DayOfWeek_DAY_OF_WEEK_WEDNESDAY}, Weeks: int32(n)}
		default:
			t.Fatalf("keep %v", words)
		}
	}
	return r
}

// work lets the agent do, or not do, what it is given, and waits for what the
// server does.
func (w *week) work() {
	w.t.Helper()
	for {
		var next *pb.Job
		for _, j := range w.jobsOf("", pb.JobState_JOB_STATE_QUEUED, pb.JobState_JOB_STATE_IN_PROGRESS, pb.JobState_JOB_STATE_CANCELLING) {
			switch { // the server's own first, so that they do not meet the agent's
			case j.Operation != pb.JobOperation_JOB_OPERATION_BACKUP:
				next = j
			case next == nil && (!w.holds(j.Name) || j.State == pb.JobState_JOB_STATE_CANCELLING):
				next = j
			}
		}
		switch {
		case next == nil:
			return
		case next.Operation != pb.JobOperation_JOB_OPERATION_BACKUP:
			w.waitForEnd(next.Name)
			continue
		}
		e, err := w.agent.next()
		if err != nil {
			w.t.Fatal(err)
		}
		if c := e.GetCancellation(); c != nil {
			for i, as := range w.held {
				if as.Job.Name == c.Job {
					must[*pb.ReportJobResponse](w.t)(w.reportJob(as, pb.JobState_JOB_STATE_CANCELLED))
					w.held = append(w.held[:i], w.held[i+1:]...)
					break
				}
			}
			continue
		}
		switch as := e.GetAssignment(); {
		case w.hangs:
			must[*pb.ReportJobResponse](w.t)(w.reportJob(as, inProgress))
			w.held = append(w.held, as)
		case w.fails != "":
			must[*pb.ReportJobResponse](w.t)(w.reportJob(as, pb.JobState_JOB_STATE_FAILED, func(r *pb.ReportJobRequest) {
				r.Error = &pb.Problem{Reason: pb.ErrorReason(pb.ErrorReason_value["ERROR_REASON_"+w.fails]), Message: "it did not work"}
			}))
		default:
			w.finish(as)
		}
	}
}

func (w *week) finish(as *pb.JobAssignment) {
	w.t.Helper()
	must[*pb.RecoveryPoint](w.t)(w.backUpGuest(as, w.clock.Now()))
	must[*pb.ReportJobResponse](w.t)(w.reportJob(as, completed))
}

func (w *week) holds(job string) bool {
	for _, as := range w.held {
		if as.Job.Name == job {
			return true
		}
	}
	return false
}
