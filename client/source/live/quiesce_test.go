package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cairn/client/source"
	"cairn/client/source/guest"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	goleak.VerifyTestMain(m)
}

// fakeGuest is a Linux guest with an agent.
type fakeGuest struct {
	mu       sync.Mutex
	dead     bool   // it does not answer
	refuse   string // what it says to a freeze
	none     bool   // it has no file system to freeze
	stubborn int    // thaws that do nothing
	frozen   bool
	freezes  int
}

func (g *fakeGuest) Execute(ctx context.Context, command string) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	has := func(name string) bool { return strings.Contains(command, `"`+name+`"`) }
	switch {
	case g.dead:
		return nil, guest.ErrUnavailable
	case has("guest-ping"), has("guest-sync"):
		return []byte(`{"return": {}}`), nil
	case has("guest-info"):
		return []byte(`{"return": {"version": "7.2.22", "supported_commands": []}}`), nil
	case has("guest-get-osinfo"):
		return []byte(`{"return": {"id": "debian", "pretty-name": "Debian GNU/Linux 12 (bookworm)", "kernel-release": "6.1.0"}}`), nil
	case has("guest-fsfreeze-status"):
		return fmt.Appendf(nil, `{"return": %q}`, map[bool]string{true: "frozen", false: "thawed"}[g.frozen]), nil
	case has("guest-fsfreeze-freeze") && g.refuse != "":
		return fmt.Appendf(nil, `{"error": {"class": "GenericError", "desc": %q}}`, g.refuse), nil
	case has("guest-fsfreeze-freeze"):
		g.frozen = true
		g.freezes++
		if g.none {
			return []byte(`{"return": 0}`), nil
		}
		return []byte(`{"return": 2}`), nil
	case has("guest-fsfreeze-thaw"):
		if g.stubborn > 0 {
			g.stubborn--
			return []byte(`{"return": 0}`), nil
		}
		g.frozen = false
		return []byte(`{"return": 2}`), nil
	}
	return []byte(`{"error": {"class": "CommandNotFound", "desc": "no such command"}}`), nil
}

func (g *fakeGuest) isFrozen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.frozen
}

func kindsOf(list []source.Warning) (k []source.WarningKind) {
	for _, w := range list {
		k = append(k, w.Kind)
	}
	return k
}

// The snapshot is taken while the guest stands still, and only then.
func TestQuiesce(t *testing.T) {
	g := &fakeGuest{}
	q, err := Quiesce(t.Context(), g, QuiesceOptions{Minimum: source.FileSystemConsistent}, func(context.Context) error {
		if !g.isFrozen() {
			t.Error("the guest is not frozen")
		}
		return nil
	}, func() { t.Error("undone") })
	if err != nil || g.isFrozen() || g.freezes != 1 {
		t.Fatalf("%v, frozen %v, %d freezes", err, g.isFrozen(), g.freezes)
	}
	if q.Consistency != source.FileSystemConsistent || q.FrozenFor <= 0 || len(q.Warnings) != 0 || q.Time.IsZero() || !strings.Contains(q.GuestOS, "Debian") {
		t.Errorf("%+v", q)
	}
}

func TestQuiesceWithout(t *testing.T) {
	why := source.Warning{Kind: source.WarnMachineState, Text: "paused"}
	for name, test := range map[string]struct {
		g    guest.Transport
		o    QuiesceOptions
		want []source.WarningKind
	}{
		"off":     {nil, QuiesceOptions{Off: true, Why: why}, nil},
		"paused":  {nil, QuiesceOptions{Why: why}, []source.WarningKind{source.WarnMachineState}},
		"dead":    {&fakeGuest{dead: true}, QuiesceOptions{}, []source.WarningKind{source.WarnAgent}},
		"refuses": {&fakeGuest{refuse: "failed to freeze /"}, QuiesceOptions{}, []source.WarningKind{source.WarnFreeze}},
		"nothing": {&fakeGuest{none: true}, QuiesceOptions{}, []source.WarningKind{source.WarnFreeze}},
		"theirs":  {&fakeGuest{frozen: true}, QuiesceOptions{}, []source.WarningKind{source.WarnFreeze}},
	} {
		t.Run(name, func(t *testing.T) {
			taken := 0
			take := func(context.Context) error { taken++; return nil }
			undo := func() { t.Error("undone") }
			q, err := Quiesce(t.Context(), test.g, test.o, take, undo)
			if err != nil || taken != 1 || q.Consistency != source.CrashConsistent || fmt.Sprint(kindsOf(q.Warnings)) != fmt.Sprint(test.want) || q.Time.IsZero() {
				t.Errorf("%+v, %v, taken %d times", q, err, taken)
			}
			test.o.Minimum = source.FileSystemConsistent
			_, err = Quiesce(t.Context(), test.g, test.o, take, undo)
			var low *source.ConsistencyError
			if !errors.As(err, &low) || low.Reached != source.CrashConsistent || low.Wanted != source.FileSystemConsistent || fmt.Sprint(kindsOf(low.Causes)) != fmt.Sprint(test.want) {
				t.Errorf("with a minimum: %v", err)
			}
			if taken != 1 {
				t.Error("a snapshot was taken that nobody wants")
			}
			if g, ok := test.g.(*fakeGuest); ok && g.isFrozen() != (name == "theirs") {
				t.Errorf("frozen: %v", g.isFrozen())
			}
		})
	}
}

// A guest without freeze scripts is not frozen for a class it cannot reach.
func TestQuiesceOutOfReach(t *testing.T) {
	g := &fakeGuest{}
	_, err := Quiesce(t.Context(), g, QuiesceOptions{Minimum: source.ApplicationConsistent}, func(context.Context) error {
		t.Error("taken")
		return nil
	}, func() { t.Error("undone") })
	if !errors.As(err, new(*source.ConsistencyError)) || g.freezes != 0 {
		t.Errorf("%v, %d freezes", err, g.freezes)
	}
}

func TestQuiesceTakeFails(t *testing.T) {
	g := &fakeGuest{}
	no := errors.New("no")
	_, err := Quiesce(t.Context(), g, QuiesceOptions{}, func(context.Context) error { return no }, func() { t.Error("undone") })
	if !errors.Is(err, no) || g.isFrozen() {
		t.Errorf("%v, frozen %v", err, g.isFrozen())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = Quiesce(ctx, g, QuiesceOptions{}, func(ctx context.Context) error {
		cancel(no)
		return context.Cause(ctx)
	}, func() { t.Error("undone") })
	if !errors.Is(err, no) || g.isFrozen() {
		t.Errorf("cancelled: %v, frozen %v", err, g.isFrozen())
	}
}

// A snapshot that took longer than the freeze may last is crash consistent, and
// taken back if that is not enough.
func TestQuiesceExpires(t *testing.T) {
	g := &fakeGuest{}
	slow := func(context.Context) error {
		for g.isFrozen() {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	undone := 0
	q, err := Quiesce(t.Context(), g, QuiesceOptions{Limit: 20 * time.Millisecond}, slow, func() { undone++ })
	if err != nil || undone != 0 || q.Consistency != source.CrashConsistent || fmt.Sprint(kindsOf(q.Warnings)) != fmt.Sprint([]source.WarningKind{source.WarnFreeze}) {
		t.Errorf("%+v, %v", q, err)
	}
	_, err = Quiesce(t.Context(), g, QuiesceOptions{Limit: 20 * time.Millisecond, Minimum: source.FileSystemConsistent}, slow, func() { undone++ })
	if !errors.As(err, new(*source.ConsistencyError)) || undone != 1 || g.isFrozen() {
		t.Errorf("%v, undone %d times", err, undone)
	}
}

func TestThaw(t *testing.T) {
	for name, g := range map[string]*fakeGuest{"thawed": {}, "frozen": {frozen: true}, "stubborn": {frozen: true, stubborn: 1}} {
		if err := Thaw(t.Context(), g); err != nil || g.isFrozen() {
			t.Errorf("%s: %v, frozen %v", name, err, g.isFrozen())
		}
	}
	if err := Thaw(t.Context(), &fakeGuest{dead: true}); !errors.Is(err, guest.ErrUnavailable) {
		t.Errorf("dead: %v", err)
	}
}
