package guest

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Class is what a snapshot's disks can be trusted to hold.
type Class int

const (
	// CrashConsistent disks are as after a power cut.
	CrashConsistent Class = iota
	// FileSystemConsistent disks were taken with all file systems frozen.
	FileSystemConsistent
	// ApplicationConsistent disks were taken with the applications at rest,
	// too: every VSS writer, or the freeze hook's scripts, succeeded.
	ApplicationConsistent
)

func (c Class) String() string {
	switch c {
	case CrashConsistent:
		return "crash consistent"
	case FileSystemConsistent:
		return "file-system consistent"
	case ApplicationConsistent:
		return "application consistent"
	}
	return fmt.Sprintf("Class(%d)", int(c))
}

// Kind is what a warning is about; programs may rely on its words.
type Kind string

const (
	KindAgentUnavailable Kind = "agent-unavailable"
	KindUnsupportedGuest Kind = "unsupported-guest"
	KindAlreadyFrozen    Kind = "already-frozen"
	KindFreezeFailed     Kind = "freeze-failed"
	KindNothingFrozen    Kind = "nothing-frozen"
	KindHookFailed       Kind = "hook-failed"
	KindVSSFailed        Kind = "vss-failed"
	KindWriterFailed     Kind = "vss-writer-failed"
	KindFreezeExpired    Kind = "freeze-expired"
	KindThawFailed       Kind = "thaw-failed"
)

// Warning says what is less good than it could be.
type Warning struct {
	Kind Kind
	Text string // a sentence for the user, with what to do about it
}

// Facts are what really happened in and around one freeze.
type Facts struct {
	Off   bool    // the machine did not run: nobody was to be asked
	Agent error   // not nil: the agent does not answer, and nothing else is known
	Info  *Info   // nil: not told
	OS    *OSInfo // nil: not told
	Hook  Hook    // of guests that are not Windows

	FreezeErr   error // of Freeze
	FileSystems int   // how many were frozen
	ThawErr     error // of Thaw

	Writers []Writer // nil: not known, or not Windows
}

// Survey asks what there is to know before a freeze. It takes some ten short
// commands. That an agent is missing is a fact, not an error.
func (c *Client) Survey(ctx context.Context) Facts {
	var f Facts
	if err := c.Ping(ctx); err != nil && !errors.As(err, new(*CommandError)) {
		f.Agent = err
		return f
	}
	// Agents differ in what they know; what they refuse is not known.
	f.Info, _ = c.Info(ctx)
	f.OS, _ = c.OSInfo(ctx)
	if f.OS.Family() != FamilyWindows {
		f.Hook = c.findHook(ctx, f.Info)
	}
	return f
}

// Froze records what Freeze returned.
func (f *Facts) Froze(z *Frozen, err error) {
	if f.FreezeErr = err; z != nil {
		f.FileSystems = z.FileSystems
	}
}

// Thawed records the error of Thaw.
func (f *Facts) Thawed(err error) { f.ThawErr = err }

// Aftermath asks, after the thaw of a freeze that succeeded, how the
// applications took it: VSS writers on Windows (up to a minute; the guest runs
// meanwhile), the log of freeze scripts on Linux.
func (c *Client) Aftermath(ctx context.Context, f *Facts) {
	switch {
	case f.Off || f.Agent != nil || f.FreezeErr != nil:
	case f.OS.Family() == FamilyWindows:
		if f.Info.Enabled("guest-exec", "guest-exec-status") {
			f.Writers, _ = c.Writers(ctx)
		}
	case f.Hook.log != "":
		c.checkDispatcher(ctx, &f.Hook)
	}
}

// Decide tells how consistent a snapshot is that was taken between Freeze and
// Thaw, and what to warn of. It asks nobody.
func Decide(f Facts) (Class, []Warning) {
	var warnings []Warning
	warn := func(k Kind, format string, args ...any) {
		warnings = append(warnings, Warning{k, fmt.Sprintf(format, args...)})
	}
	if f.Off {
		return CrashConsistent, nil
	}
	if f.Agent != nil {
		warn(KindAgentUnavailable, "guest agent unavailable (%v); %s", f.Agent, remedies[KindAgentUnavailable])
		return CrashConsistent, warnings
	}
	if !f.OS.Supported() {
		warn(KindUnsupportedGuest, "the guest's system, %s, is not a supported one (Linux, or Windows from Server 2008 R2)", f.OS.GuestOS())
	}
	if f.FreezeErr != nil {
		kind := freezeKind(f.FreezeErr)
		warn(kind, "%v; the snapshot was taken without a freeze; %s", f.FreezeErr, remedies[kind])
		return CrashConsistent, warnings
	}
	class := FileSystemConsistent
	switch f.OS.Family() {
	case FamilyWindows:
		class = ApplicationConsistent
		if names := failedWriters(f.Writers); len(names) > 0 {
			class = FileSystemConsistent
			warn(KindWriterFailed, "VSS writers failed in the guest: %s; see its event log, and restart their services", strings.Join(names, ", "))
		}
	default:
		if f.Hook.State == HookPresent {
			class = ApplicationConsistent
		}
		if len(f.Hook.Failed) > 0 {
			class = FileSystemConsistent
			warn(KindHookFailed, "freeze scripts failed in the guest: %s; see the freeze hook's log there", strings.Join(f.Hook.Failed, ", "))
		}
	}
	if !f.OS.Supported() {
		class = min(class, FileSystemConsistent) // its word is not proven to us
	}
	if f.FileSystems == 0 {
		class = CrashConsistent
		warn(KindNothingFrozen, "the guest froze none of its file systems: it has none that can be frozen")
	}
	switch err := f.ThawErr; {
	case err == nil:
	case errors.Is(err, ErrFreezeExpired):
		class = CrashConsistent
		warn(KindFreezeExpired, "%v; the machine's snapshot takes too long, or its limit is too short", err)
	case errors.Is(err, ErrThawFailed), errors.Is(err, ErrGone):
	case errors.Is(err, ErrHookFailed):
		class = min(class, FileSystemConsistent)
		warn(KindHookFailed, "%v, after the thaw; %s", err, remedies[KindHookFailed])
	default:
		class = min(class, FileSystemConsistent)
		warn(freezeKind(err), "the guest complained of the thaw: %v", err)
	}
	if errors.Is(f.ThawErr, ErrThawFailed) {
		warn(KindThawFailed, "%v; %s", f.ThawErr, remedies[KindThawFailed])
	}
	return class, warnings
}

// remedies say what to do about a freeze that did not happen.
var remedies = map[Kind]string{
	KindAgentUnavailable: "install and start qemu-guest-agent in the guest, and give the machine a channel org.qemu.guest_agent.0",
	KindAlreadyFrozen:    "see which other program backs this machine up, or thaw it by guest-fsfreeze-thaw",
	KindFreezeFailed:     "see the agent's log in the guest, and which commands it is allowed",
	KindHookFailed:       "see the hook's log in the guest",
	KindVSSFailed:        "see the guest's event log and the output of \"vssadmin list writers\" there",
	KindThawFailed:       "the guest may still be frozen: look at it now",
}

func freezeKind(err error) Kind {
	switch {
	case errors.Is(err, ErrThawFailed), errors.Is(err, ErrGone):
		return KindThawFailed
	case errors.Is(err, ErrAlreadyFrozen):
		return KindAlreadyFrozen
	case errors.Is(err, ErrHookFailed):
		return KindHookFailed
	case errors.Is(err, ErrVSS):
		return KindVSSFailed
	case errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrFreezeFailed):
		return KindAgentUnavailable
	}
	return KindFreezeFailed
}

func failedWriters(list []Writer) (names []string) {
	for _, w := range list {
		if w.Failed {
			names = append(names, w.Name)
		}
	}
	return names
}
