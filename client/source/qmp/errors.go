package qmp

import (
	"errors"
	"fmt"
)

var (
	// ErrBusy: nobody greets: another program uses the monitor, or QEMU hangs.
	ErrBusy = errors.New("the monitor does not answer; another program may be connected to it")
	// ErrClosed: the connection is gone, by Close or because QEMU is.
	ErrClosed = errors.New("connection to the monitor is closed")
	// ErrProtocol marks what a server must not send. The connection is lost.
	ErrProtocol = errors.New("qmp protocol violation")
)

// Classes of errors (QapiErrorClass). GenericError is by far the most frequent
// one; its Desc alone tells what happened.
const (
	GenericError    = "GenericError"
	CommandNotFound = "CommandNotFound"
	DeviceNotActive = "DeviceNotActive"
	DeviceNotFound  = "DeviceNotFound"
)

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"` // for humans, in English
}

func (e *Error) Error() string { return e.Desc }

// IsClass tells whether err is a refusal of that class.
func IsClass(err error, class string) bool {
	var e *Error
	return errors.As(err, &e) && e.Class == class
}

// lost marks an error of the connection itself.
func lost(err error) error {
	if errors.Is(err, ErrProtocol) || errors.Is(err, ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}
