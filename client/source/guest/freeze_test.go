package guest

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"
)

func freeze(t *testing.T, c *Client, o FreezeOptions) *Frozen {
	t.Helper()
	f, err := c.Freeze(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// long is a limit that no test reaches.
var long = FreezeOptions{Limit: time.Hour}

func TestFreezeAndThaw(t *testing.T) {
	a := newFakeAgent(t)
	c := a.client(defaultTimeouts)
	ctx, cancel := context.WithCancel(t.Context())
	f, err := c.Freeze(ctx, long)
	if err != nil {
		t.Fatal(err)
	}
	if f.FileSystems != 3 || !a.isFrozen() {
		t.Fatalf("%d file systems frozen", f.FileSystems)
	}
	a.seen()
	// A frozen guest is asked nothing.
	if err := c.Ping(ctx); !errors.Is(err, ErrFrozen) {
		t.Fatalf("ping of a frozen guest: %v", err)
	}
	if _, err := c.Freeze(ctx, long); !errors.Is(err, ErrFrozen) {
		t.Fatalf("second freeze: %v", err)
	}
	if frozen, err := c.FreezeStatus(ctx); !frozen || err != nil {
		t.Fatalf("status: %t, %v", frozen, err)
	}
	if seen := a.seen(); len(seen) > 0 {
		t.Fatalf("asked while frozen: %q", seen)
	}
	cancel() // does not keep it frozen
	stood, err := f.Thaw(ctx)
	if err != nil || stood <= 0 || a.isFrozen() {
		t.Fatalf("stood %s, %v", stood, err)
	}
	if again, err := f.Thaw(ctx); again != stood || err != nil {
		t.Fatalf("second thaw: %s, %v", again, err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The limit ends a freeze whose owner is lost in something else.
func TestFreezeLimit(t *testing.T) {
	a := newFakeAgent(t)
	f := freeze(t, a.client(defaultTimeouts), FreezeOptions{Limit: 50 * time.Millisecond})
	a.await("guest-fsfreeze-thaw")
	if _, err := f.Thaw(t.Context()); !errors.Is(err, ErrFreezeExpired) {
		t.Fatalf("got %v", err)
	}
	if a.isFrozen() {
		t.Fatal("still frozen")
	}
}

func TestFrozenBySomebodyElse(t *testing.T) {
	untouched := func(t *testing.T, a *fakeAgent) {
		t.Helper()
		_, err := a.client(defaultTimeouts).Freeze(t.Context(), long)
		if !errors.Is(err, ErrAlreadyFrozen) {
			t.Fatalf("got %v", err)
		}
		if slices.Contains(a.seen(), "guest-fsfreeze-thaw") || !a.isFrozen() {
			t.Fatal("somebody else's freeze was ended")
		}
	}
	t.Run("before", func(t *testing.T) {
		a := newFakeAgent(t)
		a.setFrozen(true)
		untouched(t, a)
	})
	t.Run("between our look and our freeze", func(t *testing.T) {
		a := newFakeAgent(t)
		a.set("guest-fsfreeze-freeze", func() string {
			a.setFrozen(true)
			return disabledFrozen("guest-fsfreeze-freeze")
		})
		untouched(t, a)
	})
}

func TestFreezeRefused(t *testing.T) {
	for _, tc := range []struct {
		name, reply string
		want        error
		thaw        bool
	}{
		{"hook", refusal("GenericError", "fsfreeze hook has failed with status 1"), ErrHookFailed, true},
		{"vss", refusal("GenericError", "failed to add C:\\ to snapshot set: The volume shadow copy provider is not registered (error: 80042304)"), ErrVSS, true},
		{"io", refusal("GenericError", "failed to freeze /srv: Input/output error"), ErrFreezeFailed, true},
		{"blocked", refusal("CommandNotFound", "Command guest-fsfreeze-freeze has been disabled"), ErrFreezeFailed, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newFakeAgent(t)
			a.set("guest-fsfreeze-freeze", func() string { return tc.reply })
			c := a.client(defaultTimeouts)
			f, err := c.Freeze(t.Context(), long)
			var refused *CommandError
			if f != nil || !errors.Is(err, ErrFreezeFailed) || !errors.Is(err, tc.want) || !errors.As(err, &refused) {
				t.Fatalf("got %v, %v", f, err)
			}
			if got := slices.Contains(a.seen(), "guest-fsfreeze-thaw"); got != tc.thaw {
				t.Errorf("thawed: %t", got)
			}
			if err := c.Ping(t.Context()); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// A freeze without an answer is undone, also when it happens later.
func TestLateFreezeDoesNotStay(t *testing.T) {
	for _, tc := range []struct {
		name string
		on   func(a *fakeAgent, cancel func()) // while the freeze is carried out
	}{
		{"late", func(*fakeAgent, func()) { time.Sleep(quick.command) }},
		{"caller gone", func(_ *fakeAgent, cancel func()) { cancel() }},
		{"connection cut", func(a *fakeAgent, _ func()) { a.disconnect() }},
		{"half an answer", func(a *fakeAgent, _ func()) { a.reply(`{"retu`); a.disconnect() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newFakeAgent(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			a.set("guest-fsfreeze-freeze", func() string {
				tc.on(a, cancel)
				a.setFrozen(true)
				return `{"return": 3}` + "\n"
			})
			c := a.client(quick)
			f, err := c.Freeze(ctx, FreezeOptions{Limit: quick.command / 3})
			if f != nil || !errors.Is(err, ErrFreezeFailed) || errors.Is(err, ErrThawFailed) {
				t.Fatalf("got %v, %v", f, err)
			}
			if a.isFrozen() {
				t.Fatal("still frozen")
			}
			a.await("guest-fsfreeze-freeze")
			a.await("guest-fsfreeze-thaw")
		})
	}
}

// A thaw is tried again until it is confirmed.
func TestThawIsRepeated(t *testing.T) {
	a := newFakeAgent(t)
	f := freeze(t, a.client(quick), long)
	replies := []string{
		refusal("GenericError", "failed to open /"),
		"", // no answer
		"{\"half",
		"{\"return\": 3}\n",
	}
	a.set("guest-fsfreeze-thaw", func() string {
		r := replies[0]
		if replies = replies[1:]; len(replies) == 0 {
			a.setFrozen(false)
		}
		return r
	})
	if _, err := f.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestThawFails(t *testing.T) {
	a := newFakeAgent(t)
	limits := quick
	limits.thaw, limits.thawTry = 200*time.Millisecond, 50*time.Millisecond
	c := a.client(limits)
	f := freeze(t, c, long)
	a.set("guest-fsfreeze-thaw", func() string { return "" })
	if _, err := f.Thaw(t.Context()); !errors.Is(err, ErrThawFailed) {
		t.Fatalf("got %v", err)
	}
}

// The guest goes on, but something in it failed meanwhile.
func TestThawWithComplaint(t *testing.T) {
	for desc, want := range map[string]error{
		"fsfreeze hook has failed with status 2":                       ErrHookFailed,
		"couldn't hold writes: fsfreeze is limited up to 10 seconds: ": ErrFreezeExpired,
	} {
		a := newFakeAgent(t)
		c := a.client(defaultTimeouts)
		f := freeze(t, c, long)
		a.set("guest-fsfreeze-thaw", func() string {
			a.setFrozen(false)
			return refusal("GenericError", desc)
		})
		if _, err := f.Thaw(t.Context()); !errors.Is(err, want) || errors.Is(err, ErrThawFailed) {
			t.Errorf("%s: got %v", desc, err)
		}
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// An agent that is silent before anything was done leaves nothing to undo.
func TestFreezeWithoutAgent(t *testing.T) {
	a := newFakeAgent(t)
	a.set("guest-fsfreeze-status", func() string { return "" })
	if _, err := a.client(quick).Freeze(t.Context(), long); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrFreezeFailed) {
		t.Fatalf("got %v", err)
	}
}

// A machine that has ended is not waited for.
func TestThawOfAMachineThatIsGone(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/agent")
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := DialSocket(t.Context(), dir+"/agent"); !errors.Is(err, ErrGone) {
		t.Errorf("a socket that nobody holds: %v", err)
	}
	a := newFakeAgent(t)
	c := a.client(defaultTimeouts)
	f := freeze(t, c, long)
	c.transport = transportFunc(func() ([]byte, error) { return nil, ErrGone })
	if _, err := f.Thaw(t.Context()); !errors.Is(err, ErrGone) || errors.Is(err, ErrThawFailed) {
		t.Errorf("got %v", err)
	}
}

type transportFunc func() ([]byte, error)

func (f transportFunc) Execute(context.Context, string) ([]byte, error) { return f() }
