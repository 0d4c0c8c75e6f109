//go:build e2e

package e2e

import (
	"strings"
	"syscall"
	"time"
)

// With a freeze hook that waits for a word, scenes stop time: the hook is called
// before the guest freezes, and after it has thawed, while the agent waits for
// the answer.

// slowHook makes the guest's hook wait for a word each time that it is called.
func (l *live) slowHook(m *vm) {
	l.Helper()
	m.Must("rm /run/hook; mkfifo /run/hook")
}

// calls is how often the hook was called, with "freeze" or "thaw".
func calls(m *vm, hook string) int {
	return strings.Count(m.Log(), "cairn-guest: hook "+hook+"\n")
}

// awaitHook waits until the hook is called more often than so many times.
func (l *live) awaitHook(m *vm, hook string, than int) {
	l.Helper()
	l.until("hook "+hook+" is called", func() bool { return calls(m, hook) > than })
}

// word lets the hook that waits go on.
func (l *live) word(m *vm) {
	l.Helper()
	m.Must("echo ok >/run/hook")
}

// lastWord is word, and from now on the hook does not wait.
func (l *live) lastWord(m *vm) {
	l.Helper()
	m.Must("echo ok >/run/hook; rm /run/hook; echo ok >/run/hook")
}

// freezeAndStop starts a backup and stops its agent's process (SIGSTOP) while the
// guest is frozen.
func (l *live) freezeAndStop(m *vm) (j job) {
	l.Helper()
	freezes := calls(m, "freeze")
	l.slowHook(m)
	j = l.begun(m)
	l.awaitHook(m, "freeze", freezes)
	l.must(l.agent.Process.Signal(syscall.SIGSTOP))
	l.lastWord(m)
	l.until("the guest is frozen", func() bool { return l.frozen(m) })
	return j
}

// until waits for something that there is no event for.
func (l *live) until(what string, done func() bool) (took time.Duration) {
	l.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > liveLimit {
			l.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}
