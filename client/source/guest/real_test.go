package guest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// realAgent starts this machine's own qemu-ga on a socket. It must never be asked
// to freeze: that would freeze this machine.
func realAgent(t *testing.T, args ...string) *Client {
	t.Helper()
	program, err := exec.LookPath("qemu-ga")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/qemu-ga"); err != nil {
			t.Fatal("qemu-ga is not installed: install the package qemu-guest-agent")
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "agent")
	// That it cannot freeze anything here is made sure of twice.
	cmd := exec.Command(program, append([]string{"-m", "unix-listen", "-p", path, "-t", dir, "-f", filepath.Join(dir, "pid"),
		"-b", "guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-shutdown"}, args...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		s, err := DialSocket(t.Context(), path)
		if err == nil {
			t.Cleanup(func() { s.Close() })
			return NewClient(s)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestRealAgent(t *testing.T) {
	hook := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := realAgent(t, "--fsfreeze-hook="+hook)
	ctx := t.Context()
	// The rest of somebody's command does not disturb.
	if _, err := c.transport.(*Socket).conn.Write([]byte(`{"execute": "guest-`)); err != nil {
		t.Fatal(err)
	}
	f := c.Survey(ctx)
	if f.Agent != nil || f.Info == nil || f.Info.Version == "" || !f.Info.Enabled("guest-ping", "guest-exec") || f.Info.Enabled("guest-fsfreeze-freeze") {
		t.Fatalf("got %+v", f)
	}
	if f.OS.Family() != FamilyLinux || !f.OS.Supported() || f.OS.GuestOS() == "" {
		t.Errorf("system: %+v", f.OS)
	}
	if f.Hook.State != HookPresent || f.Hook.Path != hook {
		t.Errorf("hook: %+v", f.Hook)
	}
	list, err := c.FSInfo(ctx)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s, file systems %+v", f.OS.GuestOS(), list)
	if frozen, err := c.FreezeStatus(ctx); frozen || err != nil {
		t.Errorf("status: %t, %v", frozen, err)
	}
	// A connection that broke is replaced.
	c.transport.(*Socket).conn.Close()
	if err := c.Ping(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("on a closed connection: %v", err)
	}
	if err := c.Ping(ctx); err != nil {
		t.Error(err)
	}
	// An administrator who forbids the freeze is obeyed.
	if _, err := c.Freeze(ctx, FreezeOptions{}); !errors.Is(err, ErrFreezeFailed) || !strings.Contains(err.Error(), "disabled") {
		t.Errorf("freeze: %v", err)
	}
}

// The hook that distributions install counts for as much as its scripts do.
func TestRealDispatcher(t *testing.T) {
	dir := t.TempDir()
	log, hook, scripts := filepath.Join(dir, "log"), filepath.Join(dir, "fsfreeze-hook"), filepath.Join(dir, "fsfreeze-hook.d")
	text := "#!/bin/sh\nLOGFILE=" + log + "\nFSFREEZE_D=$(dirname -- \"$0\")/fsfreeze-hook.d\n"
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(hook, text, 0o755)
	if err := os.Mkdir(scripts, 0o755); err != nil {
		t.Fatal(err)
	}
	c := realAgent(t, "-rF"+hook)
	ctx := t.Context()
	if h := c.Survey(ctx).Hook; h.State != HookNone {
		t.Errorf("without scripts: %+v", h)
	}
	write(filepath.Join(scripts, "db"), "#!/bin/sh\n", 0o755)
	write(log, "date: "+scripts+"/db finished with status=1\n", 0o644) // of an earlier freeze
	f := c.Survey(ctx)
	if f.Hook.State != HookPresent {
		t.Fatalf("with a script: %+v", f.Hook)
	}
	f.FileSystems = 1
	for _, tc := range []struct {
		log  string
		want Class
	}{
		{"date: " + scripts + "/db finished with status=0\n", ApplicationConsistent},
		{"date: " + scripts + "/db finished with status=0\n: " + scripts + "/db finished with status=9\n", FileSystemConsistent},
		{"", FileSystemConsistent}, // nothing says that they ran
	} {
		before, _ := os.ReadFile(log)
		write(log, string(before)+tc.log, 0o644)
		facts := f
		facts.Hook.logSize = int64(len(before))
		c.Aftermath(ctx, &facts)
		if class, warnings := Decide(facts); class != tc.want || tc.log != "" && (len(warnings) > 0) == (class == ApplicationConsistent) {
			t.Errorf("log %q: %s, %v", tc.log, class, warnings)
		}
	}
}
