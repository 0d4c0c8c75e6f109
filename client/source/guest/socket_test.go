package guest

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// What an earlier user left in the channel is not taken for an answer.
func TestSocketDropsWhatIsNotOurs(t *testing.T) {
	for name, greeting := range map[string]string{
		"nothing":         "",
		"a reply":         `{"return": {"version": "1"}}` + "\n",
		"half a reply":    `{"return": {"vers`,
		"an old sync":     "\xff" + `{"return": 4711}` + "\n",
		"a sync in half":  "\xff" + `{"retu`,
		"marks":           "\xff\xff\n\xff",
		"noise":           strings.Repeat("\x00noise\n", 5000),
		"sync and reply":  "\xff" + `{"return": 1}` + "\n" + `{"return": {}}` + "\n",
		"a parse failure": refusal("GenericError", "JSON parse error, stray '\ufffd'"),
	} {
		t.Run(name, func(t *testing.T) {
			a := newFakeAgent(t)
			a.greeting = greeting
			a.set("guest-get-osinfo", func() string { return `{"return": {"id": "right"}}` + "\n" })
			c := a.client(defaultTimeouts)
			for range 2 {
				if i, err := c.OSInfo(t.Context()); err != nil || i.ID != "right" {
					t.Fatalf("got %+v, %v", i, err)
				}
			}
		})
	}
}

// An answer that came too late is not the next command's.
func TestSocketLateAnswer(t *testing.T) {
	a := newFakeAgent(t)
	c := a.client(quick)
	asked, goOn := make(chan struct{}), make(chan struct{})
	a.set("guest-get-osinfo", func() string {
		close(asked)
		<-goOn
		return `{"return": {"id": "late"}}` + "\n"
	})
	if _, err := c.OSInfo(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("an agent that does not answer: %v", err)
	}
	<-asked
	c.limits = defaultTimeouts
	a.set("guest-fsfreeze-status", func() string { return `{"return": "frozen"}` + "\n" })
	answer := make(chan error, 1)
	go func() {
		frozen, err := c.FreezeStatus(t.Context())
		if err == nil && !frozen {
			err = errors.New("somebody else's answer")
		}
		answer <- err
	}()
	close(goOn)
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
}

func TestSocketErrors(t *testing.T) {
	t.Run("no socket", func(t *testing.T) {
		if s, err := DialSocket(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrUnavailable) || s != nil {
			t.Fatalf("got %v, %v", s, err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		a := newFakeAgent(t)
		c := a.client(defaultTimeouts)
		ctx, cancel := context.WithCancel(t.Context())
		a.set("guest-ping", func() string { cancel(); return "" })
		if err := c.Ping(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("half a reply, then the end", func(t *testing.T) {
		a := newFakeAgent(t)
		c := a.client(defaultTimeouts)
		a.set("guest-ping", func() string {
			a.reply(`{"return": `)
			a.disconnect()
			return ""
		})
		if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		a.set("guest-ping", nil)
		if err := c.Ping(t.Context()); err != nil {
			t.Fatalf("after it came back: %v", err)
		}
	})
	t.Run("not JSON", func(t *testing.T) {
		a := newFakeAgent(t)
		c := a.client(defaultTimeouts)
		a.set("guest-ping", func() string { return "login:\n" })
		if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("reply of another shape", func(t *testing.T) {
		a := newFakeAgent(t)
		c := a.client(defaultTimeouts)
		for _, reply := range []string{"{}\n", "[]\n", "{\"return\": 12}\n"} {
			a.set("guest-get-osinfo", func() string { return reply })
			if _, err := c.OSInfo(t.Context()); !errors.Is(err, ErrUnavailable) {
				t.Fatalf("%q: got %v", reply, err)
			}
		}
	})
	t.Run("endless reply", func(t *testing.T) {
		a := newFakeAgent(t)
		c := a.client(defaultTimeouts)
		a.set("guest-ping", func() string { return strings.Repeat("x", maxReply+1<<20) + "\n" })
		if err := c.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("refusal", func(t *testing.T) {
		a := newFakeAgent(t)
		var e *CommandError
		_, err := a.client(defaultTimeouts).FSInfo(t.Context())
		if !errors.As(err, &e) || e.Class != "CommandNotFound" || !strings.Contains(e.Desc, "guest-get-fsinfo") {
			t.Fatalf("got %v", err)
		}
	})
}
