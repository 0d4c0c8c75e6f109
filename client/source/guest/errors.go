package guest

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers tell apart.
var (
	// ErrUnavailable: the agent does not answer, or there is no channel to it.
	// A Transport wraps it when it knows that the agent is out of reach.
	ErrUnavailable = errors.New("the guest agent cannot be reached")
	// ErrGone: the machine does not run any more, so nothing in it is frozen. A
	// Transport that knows that wraps it, and spares everyone the waiting for
	// an answer to the thaw.
	ErrGone = errors.New("the machine does not run")
	// ErrFreezeFailed: the guest was asked to freeze and is not frozen. What
	// went wrong is wrapped beside it: ErrVSS, ErrHookFailed, *CommandError, …
	ErrFreezeFailed = errors.New("the guest's file systems could not be frozen")
	// ErrAlreadyFrozen: somebody else has frozen the guest.
	ErrAlreadyFrozen = errors.New("the guest's file systems were already frozen by somebody else")
	// ErrFreezeExpired: the freeze ended by itself before the caller ended it:
	// what was done meanwhile may lie outside of it.
	ErrFreezeExpired = errors.New("the freeze ended before the snapshot was done")
	// ErrHookFailed: a freeze hook or one of its scripts reported failure.
	ErrHookFailed = errors.New("the guest's freeze hook failed")
	// ErrVSS: Windows' Volume Shadow Copy Service refused.
	ErrVSS = errors.New("VSS failed in the guest")
	// ErrThawFailed: the guest may still be frozen. The guard, if there is one,
	// goes on trying.
	ErrThawFailed = errors.New("the guest's file systems could not be thawed")
	// ErrFrozen: a command was not sent, because a frozen guest may be asked
	// for nothing but the thaw.
	ErrFrozen = errors.New("the guest is frozen")
)

// CommandError is the agent's own refusal of a command. A Transport that does
// not see the agent's reply, but only a text of it, may return one as its error.
type CommandError struct {
	Class string // QAPI's error class ("GenericError"), or "" when not known
	Desc  string // for humans, in English, or in the guest's language on Windows
}

func (e *CommandError) Error() string { return e.Desc }

// notOffered tells that the agent does not know the command or was told not to
// carry it out: nothing was done.
func notOffered(err error) bool {
	var e *CommandError
	return errors.As(err, &e) && (e.Class == "CommandNotFound" ||
		containsAny(e.Desc, "has been disabled", "has not been found", "not currently supported"))
}

// classify adds what the text of a refused freeze or thaw gives away.
func classify(err error) error {
	var e *CommandError
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case containsAny(e.Desc, "hold writes", "holdwrites", "VSS_E_HOLD_WRITES_TIMEOUT"):
		// VSS lets writes pass again after ten seconds, whoever waits.
		return fmt.Errorf("%w: %w: %w", ErrFreezeExpired, ErrVSS, err)
	case containsAny(e.Desc, "fsfreeze hook"):
		return fmt.Errorf("%w: %w", ErrHookFailed, err)
	case containsAny(e.Desc, "VSS", "snapshot set", "shadow cop", "writer", "80042", "volume snapshot"):
		return fmt.Errorf("%w: %w", ErrVSS, err)
	}
	return err
}

// containsAny ignores case.
func containsAny(s string, words ...string) bool {
	s = strings.ToLower(s)
	for _, w := range words {
		if strings.Contains(s, strings.ToLower(w)) {
			return true
		}
	}
	return false
}
