package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an outbox under test.
type world struct {
	t        *testing.T
	cat      *catalog.Catalog
	revision int64

	mu  sync.Mutex
	now time.Time
	log strings.Builder
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cat, err := catalog.Open("catalog", catalog.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cat.Close() })
	return &world{t: t, cat: cat, now: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// open starts a Notifier that fails and tries again without delay.
func (w *world) open(o Options, hooks ...Hook) *Notifier {
	w.t.Helper()
	o.Catalog, o.Server, o.Now, o.Hooks, o.Logger = w.cat, "s-1", w.time, hooks, slog.New(slog.NewTextHandler(w, nil))
	if o.Backoff == nil {
		o.Backoff = func(int) time.Duration { return 0 }
	}
	n, err := Open(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(n.Close)
	return n
}

// job moves a job through states, each in a transaction of its own.
func (w *world) job(n *Notifier, id string, states ...pb.JobState) {
	w.t.Helper()
	var before *pb.Job
	for _, s := range states {
		w.revision++
		j := &pb.Job{
			Name: "subscriptions/s/vaults/v/jobs/" + id, Uid: "u-" + id, State: s, Revision: w.revision,
			Operation: pb.JobOperation_JOB_OPERATION_BACKUP, ProtectedItem: "subscriptions/s/vaults/v/protectedItems/i",
		}
		switch s {
		case inProgress, queued:
		default:
			j.EndTime = timestamppb.New(w.time())
		}
		if err := w.cat.Update(w.t.Context(), func(tx *catalog.Tx) error { return n.Job(tx, before, j) }); err != nil {
			w.t.Fatal(err)
		}
		before = j
	}
}

const (
	queued     = pb.JobState_JOB_STATE_QUEUED
	inProgress = pb.JobState_JOB_STATE_IN_PROGRESS
	completed  = pb.JobState_JOB_STATE_COMPLETED
	failed     = pb.JobState_JOB_STATE_FAILED
	skipped    = pb.JobState_JOB_STATE_SKIPPED
)

// left counts what waits in the catalog.
func (w *world) left() (n int) {
	w.t.Helper()
	if err := w.cat.Notices(0, func(int64, catalog.Notice) bool { n++; return true }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// settled waits until nothing waits any more.
func (w *world) settled() {
	w.t.Helper()
	for until := time.Now().Add(20 * time.Second); w.left() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			w.t.Fatalf("%d events are left", w.left())
		}
	}
}

// got is one event at a receiver.
type got struct {
	Event
	job    *pb.Job
	header http.Header
	body   []byte
}

func (g got) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", g.job.GetName()[max(0, strings.LastIndexByte(g.job.GetName(), '/')+1):],
		strings.TrimPrefix(g.Type, "job."), strings.TrimPrefix(g.job.GetState().String(), "JOB_STATE_")))
}

// receiver is a web server that gets events; answer says with which status, and
// may wait.
type receiver struct {
	*httptest.Server
	events chan got
}

func newReceiver(t *testing.T, answer func(got) int) *receiver {
	r := &receiver{events: make(chan got, 1000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Errorf("read event: %v", err)
		}
		g := got{header: q.Header, body: body}
		if err := json.Unmarshal(body, &g.Event); err != nil {
			t.Errorf("event %s: %v", body, err)
		}
		if g.Event.Job != nil {
			g.job = new(pb.Job)
			if err := protojson.Unmarshal(g.Event.Job, g.job); err != nil {
				t.Errorf("job %s: %v", g.Event.Job, err)
			}
		}
		status := http.StatusNoContent
		if answer != nil {
			status = answer(g)
		}
		if status == http.StatusMovedPermanently {
			w.Header().Set("Location", "http://127.0.0.1:1/")
		}
		w.WriteHeader(status)
		r.events <- g
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) hook(t *testing.T, secret string) *Webhook {
	t.Helper()
	w, err := NewWebhook(r.URL+"/hook", secret)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// next waits for the next events.
func (r *receiver) next(t *testing.T, n int) (out []string, all []got) {
	t.Helper()
	for range n {
		select {
		case g := <-r.events:
			all, out = append(all, g), append(out, g.String())
		case <-time.After(20 * time.Second):
			t.Fatalf("after %v no event", out)
		}
	}
	return out, all
}

// signature is computed here from the documentation alone.
func signature(secret, t string, body []byte) string {
	m := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(m, "%s.%s", t, body)
	return fmt.Sprintf("%x", m.Sum(nil))
}

func writeFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}
