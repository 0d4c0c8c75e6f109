package guest

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Hook is what is known of the program that a Linux guest's agent runs before a
// freeze and after a thaw (qemu-ga --fsfreeze-hook).
type Hook struct {
	State HookState
	Path  string // in the guest; "" when there is none or none is known
	// Detail says why the state is HookUnknown.
	Detail string
	// Failed names the dispatcher's scripts that failed, after Aftermath.
	Failed []string

	log     string // the dispatcher's log, "" when Path is no dispatcher
	logSize int64  // before the freeze
}

// HookState says whether a freeze brings applications to rest.
type HookState int

const (
	HookUnknown HookState = iota // the guest does not let us see
	HookNone                     // there is none, or a dispatcher without scripts
	HookPresent                  // it runs; a freeze that succeeds vouches for it
)

const (
	// These are where the agent looks when nobody tells it otherwise.
	defaultHook   = "/etc/qemu/fsfreeze-hook"
	defaultConfig = "/etc/qemu/qemu-ga.conf"
	// maxText bounds what is read of a file of the guest.
	maxText = 64 << 10
)

// findHook looks for the freeze hook by the agent's own command line.
func (c *Client) findHook(ctx context.Context, info *Info) Hook {
	if !info.Enabled("guest-file-open", "guest-file-read", "guest-file-close") {
		return Hook{Detail: "the guest forbids its agent to read files"}
	}
	cmdline, err := c.readFile(ctx, "/proc/self/cmdline")
	if err != nil {
		return Hook{Detail: err.Error()}
	}
	hook, config := parseArgs(strings.Split(strings.TrimSuffix(cmdline, "\x00"), "\x00"))
	if hook == "" {
		text, err := c.readFile(ctx, config)
		if err != nil && !containsAny(err.Error(), "no such file") {
			return Hook{Detail: err.Error()}
		}
		if hook = parseConfig(text); hook == "" {
			return Hook{State: HookNone}
		}
	}
	h := Hook{State: HookPresent, Path: hook}
	text, err := c.readFile(ctx, hook)
	if err != nil {
		h.State, h.Detail = HookUnknown, err.Error()
	} else if strings.Contains(text, "fsfreeze-hook.d") {
		c.inspectDispatcher(ctx, info, &h, text)
	}
	return h
}

// logLine is how a dispatcher names its log.
var logLine = regexp.MustCompile(`(?m)^LOGFILE=["']?([^\s"']+)`)

// inspectDispatcher looks behind the hook that distributions install: it runs
// the programs of a directory, which is empty at first, and succeeds even when
// they fail, but logs their statuses.
func (c *Client) inspectDispatcher(ctx context.Context, info *Info, h *Hook, text string) {
	h.State = HookUnknown
	m := logLine.FindStringSubmatch(text)
	if m == nil || !info.Enabled("guest-exec", "guest-exec-status") {
		h.Detail = "the hook runs scripts of a directory, and the guest does not let us see which and with what success"
		return
	}
	const list = `n=0; for f in "$0"/*; do [ -f "$f" ] && [ -x "$f" ] && n=$((n+1)); done; s=0; [ -f "$1" ] && s=$(wc -c <"$1"); echo $n $s`
	out, err := c.run(ctx, "/bin/sh", "-c", list, path.Join(path.Dir(h.Path), "fsfreeze-hook.d"), m[1])
	var scripts int
	if err == nil {
		_, err = fmt.Sscan(string(out), &scripts, &h.logSize)
	}
	switch {
	case err != nil:
		h.Detail = err.Error()
	case scripts == 0:
		h.State = HookNone
	default:
		h.State, h.log = HookPresent, m[1]
	}
}

// statusLine is how a dispatcher logs a script's end.
var statusLine = regexp.MustCompile(`(?m)(\S+) finished with status=(\d+)\s*$`)

// checkDispatcher reads what the dispatcher has logged since the freeze.
func (c *Client) checkDispatcher(ctx context.Context, h *Hook) {
	out, err := c.run(ctx, "/bin/sh", "-c", `tail -c +$(($1+1)) "$0"`, h.log, strconv.FormatInt(h.logSize, 10))
	ends := statusLine.FindAllSubmatch(out, -1)
	if err != nil || len(ends) == 0 {
		h.State, h.Detail = HookUnknown, "the log of the freeze scripts cannot be read"
	}
	for _, m := range ends {
		if string(m[2]) != "0" {
			h.Failed = append(h.Failed, path.Base(string(m[1])))
		}
	}
}

// parseArgs finds the hook ("" when none is given) and the configuration file in
// qemu-ga's command line, which getopt_long reads.
func parseArgs(args []string) (hook, config string) {
	config = defaultConfig
	for i := 1; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return hook, config
		case strings.HasPrefix(a, "--"):
			name, value, has := strings.Cut(a[2:], "=")
			switch {
			case name != "" && strings.HasPrefix("fsfreeze-hook", name): // may be shortened
				if hook = value; !has {
					hook = defaultHook
				}
			case name == "config" && has:
				config = value
			case name == "config" && i+1 < len(args):
				i++
				config = args[i]
			}
		case strings.HasPrefix(a, "-"):
		letters:
			for j := 1; j < len(a); j++ {
				rest := a[j+1:]
				switch {
				case a[j] == 'F': // its value is optional, and so never the next word
					if hook = rest; hook == "" {
						hook = defaultHook
					}
					break letters
				case strings.IndexByte("cmplfbats", a[j]) >= 0: // these take a value
					if rest == "" && i+1 < len(args) {
						i++
						rest = args[i]
					}
					if a[j] == 'c' {
						config = rest
					}
					break letters
				}
			}
		}
	}
	return hook, config
}

// parseConfig finds the hook in qemu-ga.conf, a GLib key file.
func parseConfig(text string) (hook string) {
	var group string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			group = line
		} else if key, value, ok := strings.Cut(line, "="); ok && group == "[general]" && strings.TrimSpace(key) == "fsfreeze-hook" {
			hook = strings.TrimSpace(value)
		}
	}
	return hook
}

// readFile reads the beginning of a file of the guest.
func (c *Client) readFile(ctx context.Context, name string) (text string, err error) {
	type args map[string]any
	var handle int64
	if err := c.ask(ctx, "guest-file-open", args{"path": name, "mode": "r"}, &handle); err != nil {
		return "", err
	}
	// The agent keeps the file open until it is told not to.
	defer func() {
		err = errors.Join(err, c.ask(context.WithoutCancel(ctx), "guest-file-close", args{"handle": handle}, nil))
	}()
	for len(text) < maxText {
		var r struct {
			Count int64  `json:"count"`
			Data  []byte `json:"buf-b64"`
			EOF   bool   `json:"eof"`
		}
		if err := c.ask(ctx, "guest-file-read", args{"handle": handle, "count": 16 << 10}, &r); err != nil {
			return "", err
		}
		text += string(r.Data)
		if r.EOF || len(r.Data) == 0 {
			break
		}
	}
	return text, nil
}

// run runs a program in the guest and returns what it wrote to its standard
// output. A status other than 0 is an error.
func (c *Client) run(ctx context.Context, program string, arguments ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.limits.slow, fmt.Errorf("%s has not ended in the guest after %s", program, c.limits.slow))
	defer cancel()
	var p struct{ PID int64 }
	if err := c.ask(ctx, "guest-exec", map[string]any{"path": program, "arg": arguments, "capture-output": true}, &p); err != nil {
		return nil, err
	}
	for {
		var s struct {
			Exited bool   `json:"exited"`
			Code   int    `json:"exitcode"`
			Signal int    `json:"signal"`
			Out    []byte `json:"out-data"`
		}
		err := c.ask(ctx, "guest-exec-status", map[string]any{"pid": p.PID}, &s)
		switch {
		case err != nil:
			return nil, err
		case s.Exited && (s.Code != 0 || s.Signal != 0):
			return s.Out, fmt.Errorf("%s ended in the guest with status %d, signal %d", program, s.Code, s.Signal)
		case s.Exited:
			return s.Out, nil
		}
		select {
		case <-time.After(c.limits.poll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
