package notify

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestEventsAndSignature(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, nil)
	began := time.Now()
	n := w.open(Options{Filter: Filter{"started", "ended"}}, r.hook(t, writeFile(t, " secret of ours\n", 0o600)))
	w.job(n, "j1", queued, inProgress, failed)
	names, all := r.next(t, 2)
	if got := strings.Join(names, ", "); got != "j1 started IN_PROGRESS, j1 ended FAILED" {
		t.Errorf("events %s", got)
	}
	for i, g := range all {
		if g.Version != 1 || g.Server != "s-1" || g.ID != fmt.Sprintf("u-j1-%d", i+2) || !g.Time.Equal(w.time()) {
			t.Errorf("event %+v", g.Event)
		}
		if h := g.header; h.Get("Cairn-Event") != g.Type || h.Get("Cairn-Event-Id") != g.ID || h.Get("Content-Type") != "application/json" {
			t.Errorf("header %v", h)
		}
		at, v1, ok := strings.Cut(strings.TrimPrefix(g.header.Get("Cairn-Signature"), "t="), ",v1=")
		if !ok || v1 != signature("secret of ours", at, g.body) {
			t.Errorf("signature %q", g.header.Get("Cairn-Signature"))
		}
		if unix, err := strconv.ParseInt(at, 10, 64); err != nil || unix < began.Unix() || unix > time.Now().Unix() {
			t.Errorf("signed at %s, %v", at, err)
		}
	}
	w.settled()
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		filter Filter
		want   string
	}{
		{nil, "a ended COMPLETED, b ended FAILED, c ended SKIPPED"},
		{Filter{"failed"}, "b ended FAILED"},
		{Filter{"started", "skipped"}, "a started IN_PROGRESS, b started IN_PROGRESS, c ended SKIPPED"},
	} {
		w := newWorld(t)
		r := newReceiver(t, nil)
		n := w.open(Options{Filter: c.filter}, r.hook(t, ""))
		w.job(n, "a", queued, inProgress, completed)
		w.job(n, "b", inProgress, failed)
		w.job(n, "c", skipped)
		names, all := r.next(t, strings.Count(c.want, ",")+1)
		if got := strings.Join(names, ", "); got != c.want {
			t.Errorf("%v: %s, want %s", c.filter, got, c.want)
		}
		if all[0].header.Get("Cairn-Signature") != "" {
			t.Error("signed without a secret")
		}
		w.settled()
		n.Close()
	}
	if err := (Filter{"failed", "rubbish"}).Check(); err == nil || !strings.Contains(err.Error(), `"rubbish"`) || !strings.Contains(err.Error(), "cancelled, completed") {
		t.Errorf("%v", err)
	}
}

// An event that is refused comes again until it is taken, and only then the next
// one of its job; those of other jobs pass it.
func TestRefusedEventKeepsBackItsJobOnly(t *testing.T) {
	w := newWorld(t)
	var healed atomic.Bool
	r := newReceiver(t, func(g got) int {
		if strings.HasSuffix(g.job.Name, "/j1") && !healed.Load() {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	})
	n := w.open(Options{Filter: Filter{"started", "ended"}, Backoff: func(int) time.Duration { return time.Hour }}, r.hook(t, ""))
	w.job(n, "j1", inProgress, failed)
	w.job(n, "j2", inProgress, completed)
	names, _ := r.next(t, 3)
	if got := strings.Join(names, ", "); got != "j1 started IN_PROGRESS, j2 started IN_PROGRESS, j2 ended COMPLETED" {
		t.Errorf("at first: %s", got)
	}
	healed.Store(true)
	w.pass(time.Hour)
	w.job(n, "j3", completed) // it looks at the clock again
	names, all := r.next(t, 3)
	if got := strings.Join(names, ", "); got != "j1 started IN_PROGRESS, j1 ended FAILED, j3 ended COMPLETED" {
		t.Errorf("then: %s", got)
	}
	if all[0].ID != "u-j1-1" {
		t.Errorf("the event that came again has id %s", all[0].ID)
	}
	if l := w.logged(); strings.Count(l, "did not take") != 1 || !strings.Contains(l, "500 Internal") {
		t.Errorf("log: %s", l)
	}
}

// Neither a hook that hangs nor one that is not there holds up another one, or
// the job.
func TestSlowHookHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	release := make(chan bool)
	slow := newReceiver(t, func(got) int { <-release; return 200 })
	dead := newReceiver(t, nil)
	away := dead.hook(t, "")
	dead.Close()
	fast := newReceiver(t, nil)
	n := w.open(Options{}, slow.hook(t, ""), away, fast.hook(t, ""))
	for i := range 20 {
		w.job(n, fmt.Sprintf("j%d", i), completed)
	}
	names, _ := fast.next(t, 20)
	if !slices.Equal(names[:2], []string{"j0 ended COMPLETED", "j1 ended COMPLETED"}) {
		t.Errorf("events %v", names)
	}
	close(release)
	slow.next(t, 20)
	n.Close()
	if w.left() != 20 {
		t.Errorf("%d events are left for the hook that is away", w.left())
	}
	// It is not configured any more: nobody waits for it.
	n = w.open(Options{}, fast.hook(t, ""))
	if w.left() != 0 {
		t.Errorf("%d events are left for a hook that is gone", w.left())
	}
	n.Close()
}

// What was not taken when the server stopped comes after its next start, also if
// it stopped in the middle of a delivery.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	began, release := make(chan bool, 1), make(chan bool)
	var first atomic.Bool
	r := newReceiver(t, func(got) int {
		if first.CompareAndSwap(false, true) {
			began <- true
			<-release
		}
		return 200
	})
	n := w.open(Options{Filter: Filter{"started", "ended"}}, r.hook(t, ""))
	w.job(n, "j1", inProgress, completed)
	w.job(n, "j2", inProgress, failed)
	<-began
	n.Close()
	close(release)
	r.next(t, 1) // the one whose answer nobody waited for
	if w.left() != 4 {
		t.Errorf("%d events are left", w.left())
	}
	w.open(Options{Filter: Filter{"started", "ended"}}, r.hook(t, ""))
	names, all := r.next(t, 4)
	if got := strings.Join(names, ", "); got != "j1 started IN_PROGRESS, j1 ended COMPLETED, j2 started IN_PROGRESS, j2 ended FAILED" {
		t.Errorf("after the restart: %s", got)
	}
	if all[0].ID != "u-j1-1" {
		t.Errorf("id %s", all[0].ID)
	}
	w.settled()
}

// Events are given up after a day, and the oldest when there are too many.
func TestGivingUp(t *testing.T) {
	w := newWorld(t)
	var bad atomic.Bool
	bad.Store(true)
	r := newReceiver(t, func(got) int {
		if bad.Load() {
			return http.StatusMovedPermanently
		}
		return 200
	})
	tried := make(chan bool, 10)
	n := w.open(Options{Backoff: func(int) time.Duration { tried <- true; return time.Hour }}, r.hook(t, ""))
	w.job(n, "j1", completed)
	<-tried
	r.next(t, 1)
	w.pass(24 * time.Hour)
	w.job(n, "j2", completed)
	r.next(t, 2) // j1 for the last time, and j2
	n.Close()
	if l := w.logged(); w.left() != 1 || !strings.Contains(l, "given up") || !strings.Contains(l, "301 Moved") || !strings.Contains(l, "/jobs/j1") {
		t.Errorf("%d are left, log %s", w.left(), l)
	}

	n = w.open(Options{}) // nobody is there
	n.Close()
	if w.left() != 0 {
		t.Errorf("%d are left", w.left())
	}
	hook := r.hook(t, "")
	n = w.open(Options{Backoff: func(int) time.Duration { tried <- true; return time.Hour }}, hook)
	for i := range 5 {
		w.job(n, fmt.Sprintf("k%d", i), completed)
	}
	r.next(t, 5)
	n.Close()
	bad.Store(false)
	w.open(Options{Most: 2}, hook)
	if names, _ := r.next(t, 2); strings.Join(names, ", ") != "k3 ended COMPLETED, k4 ended COMPLETED" {
		t.Errorf("of too many there came %v", names)
	}
	w.settled()
}

// A webhook that does not answer is asked for one event at a time, not for all.
func TestAwayHookIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	dead := newReceiver(t, nil)
	hook := dead.hook(t, "")
	dead.Close()
	asked := make(chan int, 100)
	n := w.open(Options{Backoff: func(failures int) time.Duration {
		asked <- failures
		return time.Hour
	}}, hook)
	for i := range 5 {
		w.job(n, fmt.Sprintf("j%d", i), completed)
	}
	if f := <-asked; f != 1 {
		t.Errorf("%d failures", f)
	}
	w.pass(time.Hour)
	w.job(n, "j5", completed)
	if f := <-asked; f != 2 {
		t.Errorf("%d failures", f)
	}
	n.Close()
	if len(asked) != 0 {
		t.Errorf("%d more attempts", len(asked))
	}
	if w.left() != 6 {
		t.Errorf("%d are left", w.left())
	}
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 12: 2048 * time.Second, 13: time.Hour, 1 << 30: time.Hour} {
		if got := backoff(failures); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
	}
}

func TestTryAndWrongHooks(t *testing.T) {
	r := newReceiver(t, nil)
	bad := newReceiver(t, func(got) int { return 404 })
	err := Try(t.Context(), "s-1", []Hook{r.hook(t, ""), bad.hook(t, "")})
	if err == nil || !strings.Contains(err.Error(), bad.URL) || strings.Contains(err.Error(), r.URL) || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v", err)
	}
	if _, all := r.next(t, 1); all[0].Type != "test" || all[0].job != nil || all[0].ID == "" {
		t.Errorf("test event %+v", all[0].Event)
	}
	for _, u := range []string{"", "example.com", "ftp://x/", "http://", "http://u:hidden@h/x#f", "http://h\x00/hidden"} {
		if _, err := NewWebhook(u, ""); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: %v", u, err)
		}
	}
	for _, secret := range []string{"/does/not/exist", writeFile(t, " \n", 0o600), writeFile(t, strings.Repeat("x", 5000), 0o600)} {
		if _, err := NewWebhook("http://h/", secret); err == nil {
			t.Errorf("no error for the secret %s", secret)
		}
	}
	if h, err := NewWebhook("https://u:hidden@h/x?token=hidden", ""); err != nil || strings.Contains(h.String(), "hidden") {
		t.Errorf("%v, %v", h, err)
	}
	w := newWorld(t)
	if _, err := Open(Options{Catalog: w.cat, Hooks: []Hook{r.hook(t, ""), r.hook(t, "")}}); err == nil {
		t.Error("the same hook twice")
	}
}
