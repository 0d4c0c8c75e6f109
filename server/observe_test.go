package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	pb "cairn/proto/cairn/v1"
	"cairn/server/notify"
)

// backUpOnce takes web1 through a backup with an agent, and gives its job at the
// end.
func (w *world) backUpOnce() *pb.Job {
	w.t.Helper()
	a := w.claim("agent")
	defer a.cancel()
	w.backUpNow()
	as := a.assignment()
	must[*pb.RecoveryPoint](w.t)(w.commit(w.upload(as)))
	must[*pb.ReportJobResponse](w.t)(w.reportJob(as, completed))
	return w.getJob(as.Job.Name)
}

// Hooks are told of the jobs of a server, also of what ended before a restart.
func TestJobsAreTold(t *testing.T) {
	var ready atomic.Bool
	events := make(chan *pb.Job, 100)
	var seen sync.Map // an event may come twice, around a restart
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var e notify.Event
		j := new(pb.Job)
		if err := json.NewDecoder(q.Body).Decode(&e); err != nil || protojson.Unmarshal(e.Job, j) != nil {
			t.Errorf("event %v, %v", e, err)
		}
		if !ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if _, again := seen.LoadOrStore(e.ID, true); !again {
			events <- j
		}
	}))
	defer r.Close()
	hook := must[*notify.Webhook](t)(notify.NewWebhook(r.URL, ""))
	opts := inMemory()
	opts.Notify = notify.Options{Hooks: []notify.Hook{hook}, Filter: notify.Filter{"started", "ended"}}
	w := newWorld(t, opts)
	w.setUp()
	w.protect()
	backup := w.backUpOnce()
	w.restart()
	ready.Store(true)
	w.restart()
	failed := w.backUpNow()
	a := w.claim("agent")
	must[*pb.ReportJobResponse](t)(w.reportJob(a.assignment(), pb.JobState_JOB_STATE_FAILED, func(r *pb.ReportJobRequest) {
		r.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED, Message: "no snapshot"}
	}))

	// Those of a job are in order; what protecting the machine did is among them.
	states := map[string][]pb.JobState{}
	for len(states[failed.Name]) < 2 || len(states[backup.Name]) < 2 {
		j := <-events
		states[j.Name] = append(states[j.Name], j.State)
	}
	for name, want := range map[string]pb.JobState{backup.Name: completed, failed.Name: pb.JobState_JOB_STATE_FAILED} {
		if s := states[name]; s[0] != inProgress || s[1] != want {
			t.Errorf("%s: %v", name, s)
		}
	}
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Each end of a job is one line of the log.
func TestEndsAreLogged(t *testing.T) {
	log := new(lockedBuffer)
	opts := inMemory()
	opts.Logger = slog.New(slog.NewJSONHandler(log, nil))
	w := newWorld(t, opts)
	w.setUp()
	w.protect()
	j := w.backUpOnce()
	lines := 0
	log.mu.Lock()
	defer log.mu.Unlock()
	for sc := bufio.NewScanner(&log.b); sc.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line["msg"] != "job ended" || line["job"] != j.Name {
			continue
		}
		lines++
		if line["level"] != "INFO" || line["operation"] != "BACKUP" || line["state"] != "COMPLETED" || line["item"] != item1 || line["machine"] != web1 || line["point"] != j.RecoveryPoint {
			t.Errorf("line %v", line)
		}
	}
	if lines != 1 {
		t.Errorf("%d lines about %s", lines, j.Name)
	}
}
