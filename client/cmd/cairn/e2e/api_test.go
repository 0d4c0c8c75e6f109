//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// What commands print with -o json: the API's own JSON, of which these are the
// fields that the scenes look at.

type problem struct{ Reason, Message, Remedy string }

type job struct {
	Name, State, Operation string
	ProtectedItem          string
	RecoveryPoint, RetryOf string
	Tasks                  []task
	Actions                []string
	Error                  *problem
	Warnings               []problem
	CreateTime, StartTime  time.Time
	Stats                  stats
}

type task struct {
	Title, State          string
	TotalBytes, DoneBytes int64 `json:",string"`
}

type stats struct {
	DiskBytes, AllocatedBytes, ReadBytes, NewBytes, SentBytes int64  `json:",string"`
	ChangedBlocks, NewBlocks, BadBlocks                       int64  `json:",string"`
	TrackedBytes, SampledBytes                                int64  `json:",string"`
	Frozen                                                    string // "0.067s"
}

type point struct {
	Name        string
	Disks       []struct{ Target, RootDigest string }
	Consistency string
}

func last(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func (j job) done() (done, total int64) {
	for _, t := range j.Tasks {
		done, total = done+t.DoneBytes, total+t.TotalBytes
	}
	return done, total
}

func (j job) ended() bool {
	switch j.State {
	case "JOB_STATE_QUEUED", "JOB_STATE_IN_PROGRESS", "JOB_STATE_CANCELLING":
		return false
	}
	return true
}

func (j job) String() string {
	s := fmt.Sprintf("job %s: %s", last(j.Name), j.State)
	if j.Error != nil {
		s += fmt.Sprintf(": %s: %s (%s)", j.Error.Reason, j.Error.Message, j.Error.Remedy)
	}
	return s
}

// setUp makes vault main with policy nightly.
func (w *world) setUp() {
	w.Helper()
	w.cairn("vault", "create", "main")
	w.cairn("policy", "create", "nightly", "--vault", "main")
}

// protect protects a machine in vault main, once the server knows it.
func (w *world) protect(machine string, more ...string) {
	w.Helper()
	w.awaitMachine(machine)
	w.cairn(append([]string{"protect", machine, "--vault", "main", "--policy", "nightly"}, more...)...)
}

// awaitMachine waits until the agent has told the server of a machine. (There
// is nothing to watch machines with.)
func (w *world) awaitMachine(machine string) {
	w.Helper()
	for range 300 {
		var list []struct{ Name string }
		w.json(&list, "machine", "list")
		for _, m := range list {
			if last(m.Name) == machine {
				return
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.Fatalf("the agent has not told of machine %s", machine)
}

// backUp runs a backup to its end, which must be a point.
func (w *world) backUp(item string) job {
	w.Helper()
	j := w.backUpBadly(item)
	if j.State != "JOB_STATE_COMPLETED" || j.RecoveryPoint == "" {
		w.Fatal(j)
	}
	return j
}

// backUpBadly runs a backup to its end, whatever that is.
func (w *world) backUpBadly(item string) job {
	w.Helper()
	r := w.try("backup", item, "--wait", "-o", "json")
	var j job
	if err := json.Unmarshal([]byte(r.stdout), &j); err != nil {
		w.Fatalf("cairn backup %s: status %d, %v: %s%s", item, r.status, err, r.stdout, r.stderr)
	}
	if failed := !strings.HasPrefix(j.State, "JOB_STATE_COMPLETED"); (r.status == 1) != failed { // warnings are no failure
		w.Errorf("cairn backup --wait: status %d for a job in state %s", r.status, j.State)
	}
	return j
}

// begin starts a backup and returns when it is in the middle of its transfer.
func (w *world) begin(item string) job {
	w.Helper()
	var j job
	w.json(&j, "backup", item)
	j = w.await(j, "is in the middle of its transfer", func(j job) bool {
		done, total := j.done()
		return j.ended() || total > 0 && done > 0
	})
	if done, total := j.done(); j.ended() || done >= total {
		w.Fatalf("too fast: the transfer is at %d of %d already: %v", done, total, j)
	}
	return j
}

// end waits for the end of a job.
func (w *world) end(j job) job {
	w.Helper()
	return w.await(j, "ends", job.ended)
}

// await watches a job (cairn job watch) until it is as wanted.
func (w *world) await(j job, what string, wanted func(job) bool) job {
	w.Helper()
	cmd := exec.Command(cairnExe, "job", "watch", "-o", "json")
	cmd.Env = append(os.Environ(), "CAIRN_SERVER="+w.address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	limit := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer limit.Stop()
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}()
	seen := j
	for dec := json.NewDecoder(out); ; {
		var now job
		if err := dec.Decode(&now); err != nil {
			w.Fatalf("the watch ended (%v) before the job %s; last seen: %v", err, what, seen)
		}
		if now.Name != j.Name {
			continue
		}
		if seen = now; wanted(now) {
			return now
		}
	}
}

// points lists the points of an item, newest first.
func (w *world) points(item string) (list []point) {
	w.Helper()
	w.json(&list, "point", "list", item)
	return list
}

// verified re-reads every point of an item.
func (w *world) verified(item string) {
	w.Helper()
	w.cairn("point", "verify", item)
}
