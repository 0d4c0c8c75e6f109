//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// noProcesses says that no process runs whose command line has all the words.
func (w *world) noProcesses(words ...string) {
	w.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	w.must(err)
	for _, p := range lines {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended
		}
		line := string(bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
		all := true
		for _, word := range words {
			all = all && strings.Contains(line, word)
		}
		if all {
			w.Errorf("still runs: %s", line)
		}
	}
}

// nothingLeft says that what a demo made in a directory is gone.
func (w *world) nothingLeft(dir string) {
	w.Helper()
	left, err := os.ReadDir(dir)
	w.must(err)
	if len(left) > 0 {
		w.Errorf("left over: %v", left)
	}
	b, err := os.ReadFile("/proc/self/mounts")
	w.must(err)
	if strings.Contains(string(b), dir) {
		w.Errorf("still mounted: %s", b)
	}
	w.noProcesses(dir)
}

// The first command of everybody who tries Cairn, to its end, and interrupted
// at every place where somebody may lose patience.
func TestDemo(t *testing.T) {
	w := newWorld(t)
	tmp := w.path("t") // a socket goes in here, so the path is short
	w.must(os.Mkdir(tmp, 0o700))
	t.Setenv("TMPDIR", tmp)
	start := time.Now()
	p := w.start("demo", "Make a disk image", cairnExe, "demo")
	code := p.exited(3 * time.Minute)
	lines := strings.Split(strings.TrimSpace(p.said.String()), "\n")
	if last := lines[len(lines)-1]; code != 0 || !strings.HasPrefix(last, "Done in ") || !strings.HasSuffix(last, "the deleted file came back, byte for byte.") {
		t.Fatalf("cairn demo: status %d, %q", code, last)
	}
	w.nothingLeft(tmp)
	proved(t, "cairn demo: %s, after %v, and nothing is left", lines[len(lines)-1], time.Since(start).Round(time.Second))

	for _, at := range []string{"Make a disk image", "$ cairn machine list", "Back it up again", "mounted at"} {
		p := w.start("demo", at, cairnExe, "demo", "--size", "50")
		w.must(p.Process.Signal(syscall.SIGINT))
		code := p.exited(time.Minute)
		// It may have been at its end when the signal came.
		if done := strings.Contains(p.said.String(), "Done in "); !done && (code != 1 || !strings.Contains(p.said.String(), "interrupted")) {
			t.Errorf("cairn demo, interrupted at %q: status %d: %s", at, code, p.said)
		}
		w.nothingLeft(tmp)
	}
	proved(t, "interrupted by SIGINT at four places it ends with status 1 and leaves no process, mount or file")
}
