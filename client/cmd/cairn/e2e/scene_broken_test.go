//go:build e2e

package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fleeting makes a world with a machine whose backup takes long enough to be
// interrupted. Machine small is there too, and has a point.
func fleeting(t *testing.T) (w *world, image string) {
	t.Helper()
	w = newWorld(t)
	image = filepath.Join(w.images, "web1.raw")
	w.fillRandom(image, 768*mib, 1)
	w.fillRandom(filepath.Join(w.images, "small.raw"), 8*mib+512, 2)
	w.startServer()
	w.startAgent()
	w.setUp()
	w.protect("web1")
	w.protect("small")
	w.backUp("small")
	return w, image
}

// recovers says that nothing but a lost attempt remains of an interruption: the
// machine is backed up at once, every point verifies, and restores.
func (w *world) recovers(image string, points int) {
	w.Helper()
	w.backUp("web1")
	if list := w.points("web1"); len(list) != points {
		w.Errorf("there are %d points, want %d", len(list), points)
	}
	w.verified("web1")
	w.verified("small")
	w.cairn("restore", "disk", "web1@latest", "--to", w.path("restored"))
	w.identical(image, w.path("restored/vda.raw"))
	w.must(os.RemoveAll(w.path("restored")))
}

// noLeftovers looks for files that only an open upload or an unfinished write
// has. The server must have stopped.
func (w *world) noLeftovers() {
	w.Helper()
	w.must(filepath.WalkDir(w.data, func(path string, e fs.DirEntry, err error) error {
		inIncoming := strings.Contains(path, "/incoming/")
		if err == nil && (inIncoming || strings.HasSuffix(path, ".new") || strings.HasSuffix(path, ".tmp")) {
			w.Errorf("left over: %s", path)
		}
		return err
	}))
}

// kill -9 of the server in the middle of an upload.
func TestServerKilled(t *testing.T) {
	w, image := fleeting(t)
	j := w.begin("web1")
	w.server.kill()
	w.startServer()
	j = w.end(j)
	switch j.State {
	case "JOB_STATE_COMPLETED":
		if j.RecoveryPoint == "" {
			t.Errorf("completed without a point: %v", j)
		}
	case "JOB_STATE_FAILED":
		if j.Error == nil || j.Error.Message == "" || j.Error.Remedy == "" {
			t.Errorf("failed without saying why and what to do: %v", j)
		}
	default:
		t.Errorf("the job ended as %v", j)
	}
	points := len(w.points("web1"))
	proved(t, "kill -9 of cairnd in the middle of an upload, restart: the agent comes back by itself, the job is %s", j.State)
	w.recovers(image, points+1)
	w.server.stop()
	w.noLeftovers()
	proved(t, "the next backup, verify and restore are clean, and nothing is left over")
}

// kill -9 of the agent in the middle of an upload.
func TestAgentKilled(t *testing.T) {
	w, image := fleeting(t)
	j := w.begin("web1")
	w.agent.kill()
	w.startAgent()
	j = w.end(j)
	if j.State != "JOB_STATE_FAILED" || j.Error == nil || j.Error.Reason != "ERROR_REASON_INTERRUPTED" || j.Error.Remedy == "" {
		t.Errorf("the job ended as %v", j)
	}
	if len(w.points("web1")) != 0 {
		t.Error("there is a point of half a disk")
	}
	proved(t, "kill -9 of the agent in the middle of an upload: %v", j)
	var retried job
	w.json(&retried, "job", "retry", last(j.Name), "--wait")
	if retried.State != "JOB_STATE_COMPLETED" || retried.RetryOf != j.Name {
		t.Errorf("retry: %v, of %q", retried, retried.RetryOf)
	}
	if retried.Stats.NewBytes >= 768*mib {
		t.Errorf("the retry sent everything again: %d bytes", retried.Stats.NewBytes)
	}
	w.recovers(image, 2)
	proved(t, "cairn job retry sends only what had not arrived (%d of 768 MiB); next backup, verify and restore are clean", retried.Stats.NewBytes/mib)
}

// cairn job cancel in the middle of an upload.
func TestCancel(t *testing.T) {
	w, image := fleeting(t)
	j := w.begin("web1")
	at := time.Now()
	w.cairn("job", "cancel", last(j.Name))
	j = w.end(j)
	took := time.Since(at)
	if j.State != "JOB_STATE_CANCELLED" {
		t.Errorf("the job ended as %v", j)
	}
	if len(w.points("web1")) != 0 {
		t.Error("there is a point of half a disk")
	}
	proved(t, "cairn job cancel in the middle of an upload: CANCELLED after %v, no point", took.Round(time.Millisecond))
	w.refused(1, []string{last(j.Name)}, "job", "cancel", last(j.Name))
	w.recovers(image, 1)
	w.agent.stop()
	w.server.stop()
	w.noLeftovers()
	proved(t, "the next backup, verify and restore are clean, and nothing is left over")
}

// SIGTERM of the server in the middle of an upload, and of the agent.
func TestGracefulStop(t *testing.T) {
	w, image := fleeting(t)
	j := w.begin("web1")
	at := time.Now()
	w.server.stop()
	if code := w.server.ProcessState.ExitCode(); code != 0 {
		t.Errorf("cairnd: status %d after SIGTERM", code)
	}
	stopped := time.Since(at)
	if strings.Contains(w.server.said.String(), "panic") {
		t.Error("cairnd panicked")
	}
	w.startServer()
	j = w.end(j)
	if j.State != "JOB_STATE_COMPLETED" && (j.Error == nil || j.Error.Remedy == "") {
		t.Errorf("the job ended as %v", j)
	}
	proved(t, "SIGTERM of cairnd in the middle of an upload: stopped with status 0 after %v; the job is %s", stopped.Round(time.Millisecond), j.State)

	w.fillRandom(image, 768*mib, 3)
	j = w.begin("web1")
	w.agent.stop()
	if code := w.agent.ProcessState.ExitCode(); code != 0 {
		t.Errorf("agent: status %d after SIGTERM", code)
	}
	j = w.end(j)
	if j.State != "JOB_STATE_FAILED" || j.Error == nil || j.Error.Reason != "ERROR_REASON_INTERRUPTED" || j.Error.Remedy == "" {
		t.Errorf("the job ended as %v", j)
	}
	proved(t, "SIGTERM of the agent in the middle of an upload: %v", j)
	points := len(w.points("web1"))
	w.startAgent()
	w.recovers(image, points+1)
	w.agent.stop()
	w.server.stop()
	w.noLeftovers()
	proved(t, "the next backup, verify and restore are clean, and nothing is left over")
}
