//go:build e2e

package guest

import (
	"context"
	"errors"
	"testing"
	"time"

	"cairn/client/source/guesttest"
)

// A real guest on a plain QEMU's socket: frozen, thawed, and never left frozen.
func TestRealGuest(t *testing.T) {
	dir := guesttest.Dir(t)
	vm := guesttest.QEMU(t, guesttest.Spec{
		Drives: []guesttest.Drive{guesttest.Disk(t, dir+"/vda.raw", "raw", 64<<20, guesttest.DiskOptions{})},
		Write:  "vda",
		Hook:   guesttest.HookOK,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	vm.WaitAgent(ctx)

	var c *Client
	var s *Socket
	connect := func() {
		t.Helper()
		var err error
		if s, err = DialSocket(ctx, vm.AgentSocket); err != nil {
			t.Fatal(err)
		}
		c = NewClient(s)
	}
	writes := func() {
		t.Helper()
		vm.WaitSynced(ctx, "vda", vm.Synced("vda")+3)
	}
	options := FreezeOptions{Guard: &GuardOptions{Args: []string{vm.AgentSocket}}}

	connect()
	defer func() { s.Close() }()
	began := time.Now()
	f := c.Survey(ctx)
	t.Logf("survey after %s: %s, agent %s, hook %+v", time.Since(began), f.OS.GuestOS(), f.Info.Version, f.Hook)
	if f.Agent != nil || f.OS.Family() != FamilyLinux || f.Hook.State != HookPresent {
		t.Errorf("got %+v", f)
	}

	for range 3 {
		frozen, err := c.Freeze(ctx, options)
		f.Froze(frozen, err)
		if err != nil {
			t.Fatal(err)
		}
		before := vm.Synced("vda")
		vm.Must("true") // the guest runs, and says what it has to say
		vm.Must("sleep 1")
		if after := vm.Synced("vda"); after > before+1 {
			t.Errorf("file %d was synced, then the guest was frozen, then file %d", before, after)
		}
		stood, err := frozen.Thaw(ctx)
		f.Thawed(err)
		c.Aftermath(ctx, &f)
		class, warnings := Decide(f)
		t.Logf("stood for %s (1 s of it our sleep): %s", stood, class)
		if err != nil || class != ApplicationConsistent || len(warnings) > 0 {
			t.Errorf("%s, %v, %v", class, warnings, err)
		}
		writes()
	}

	// How long a guest stands still for nothing.
	frozen, err := c.Freeze(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	stood, err := frozen.Thaw(ctx)
	t.Logf("freeze and thaw alone: %s, %v", stood, err)

	vm.Must("echo fail >/run/hook")
	if _, err := c.Freeze(ctx, options); !errors.Is(err, ErrHookFailed) {
		t.Errorf("hook fails: %v", err)
	}
	vm.Must("echo ok >/run/hook")
	writes()

	// The limit.
	if frozen, err = c.Freeze(ctx, FreezeOptions{Limit: time.Second, Guard: options.Guard}); err != nil {
		t.Fatal(err)
	}
	writes()
	if _, err := frozen.Thaw(ctx); !errors.Is(err, ErrFreezeExpired) {
		t.Errorf("after the limit: %v", err)
	}

	// The agent dies in a frozen guest, and is started again.
	if frozen, err = c.Freeze(ctx, options); err != nil {
		t.Fatal(err)
	}
	vm.Must("kill -9 $(pidof qemu-ga); start-agent </dev/null >/dev/null 2>&1 &")
	if _, err := frozen.Thaw(ctx); err != nil {
		t.Errorf("with an agent that died meanwhile: %v", err)
	}
	writes()

	// We die.
	s.Close()
	kill, says, gone := startVictim(t, vm.AgentSocket)
	if line, _ := says.ReadString('\n'); line != "frozen <nil>\n" {
		t.Errorf("the victim said %q", line)
	}
	kill()
	began = time.Now()
	writes()
	t.Logf("the guest writes %s after its freezer's death", time.Since(began))
	gone()

	// Nobody is there.
	vm.Must("kill -9 $(pidof qemu-ga)")
	connect()
	if f := c.Survey(ctx); !errors.Is(f.Agent, ErrUnavailable) {
		t.Errorf("without an agent: %+v", f)
	}
}
