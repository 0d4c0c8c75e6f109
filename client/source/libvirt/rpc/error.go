package rpc

import (
	"errors"
	"fmt"
)

var (
	// ErrDisconnected is what calls meet once the connection is gone: the
	// daemon has ended or stopped answering, broke the protocol, or the Conn
	// was closed. Whether a call that was under way took effect is unknown.
	ErrDisconnected = errors.New("libvirt connection lost")
	// ErrProtocol marks what a daemon must not send.
	ErrProtocol = errors.New("libvirt protocol violation")
)

// violation makes an error that wraps ErrProtocol.
func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Code is libvirt's number for a kind of error, of virErrorNumber in
// include/libvirt/virterror.h. It is an error itself, so that
//
//	errors.Is(err, rpc.ErrNoDomain)
//
// tells whether the daemon answered with it.
type Code int

// The codes that callers tell apart. There are more.
const (
	ErrInternal               Code = 1   // libvirt's own fault, or QEMU's; also what many failures of QEMU become
	ErrNoSupport              Code = 3   // the driver does not have the call
	ErrInvalidArg             Code = 8   // an argument makes no sense
	ErrOperationFailed        Code = 9   // QEMU refused
	ErrXML                    Code = 27  // the XML does not parse, or lacks something
	ErrDomainExists           Code = 28  // a domain of that name or UUID exists
	ErrOperationDenied        Code = 29  // a read-only connection
	ErrSystem                 Code = 38  // a system call failed; Int1 is its errno
	ErrRPC                    Code = 39  // the daemon did not understand us
	ErrNoDomain               Code = 42  // no such domain
	ErrAuthFailed             Code = 45  // not allowed to connect
	ErrNoStoragePool          Code = 49  // no such storage pool
	ErrNoStorageVolume        Code = 50  // no such storage volume
	ErrOperationInvalid       Code = 55  // not in this state: not running, no job, …
	ErrConfigUnsupported      Code = 67  // the XML asks for what the host cannot do
	ErrOperationTimeout       Code = 68  // another job holds the domain, or something took too long
	ErrArgumentUnsupported    Code = 74  // an argument is not supported here
	ErrOperationAborted       Code = 78  // the job was aborted
	ErrAuthCancelled          Code = 79  // the user declined to authenticate
	ErrOverflow               Code = 82  // a number is too large
	ErrBlockCopyActive        Code = 83  // a block copy is in the way
	ErrOperationUnsupported   Code = 84  // not with this domain or QEMU
	ErrAgentUnresponsive      Code = 86  // the guest agent is not connected, or does not answer
	ErrResourceBusy           Code = 87  // in use
	ErrAccessDenied           Code = 88  // polkit or the access driver says no
	ErrXMLInvalidSchema       Code = 92  // the XML does not validate
	ErrAuthUnavailable        Code = 94  // there is no one to ask for authentication
	ErrAgentUnsynced          Code = 97  // the guest agent answers out of step
	ErrDeviceMissing          Code = 99  // the domain has no such device
	ErrInvalidCheckpoint      Code = 102 // a checkpoint that makes no sense
	ErrNoCheckpoint           Code = 103 // no such checkpoint
	ErrNoBackup               Code = 104 // no backup is running
	ErrCheckpointInconsistent Code = 109 // the bitmaps of a checkpoint are broken or missing
	ErrMultipleDomains        Code = 110 // several domains match
)

func (c Code) Error() string { return fmt.Sprintf("libvirt error %d", int(c)) }

// Error is an error that the daemon reported for one call; the connection goes
// on. errors.Is matches it with its Code.
type Error struct {
	Code   Code
	Domain int    // which part of libvirt: virErrorDomain, 10 is the QEMU driver
	Level  int    // 1 is a warning, 2 an error
	Text   string // the daemon's message, in the daemon's language

	// What the text is made of, by code.
	Str1, Str2, Str3 string
	Int1, Int2       int
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Code.Error()
	}
	return fmt.Sprintf("%s (%s)", e.Text, e.Code.Error())
}

func (e *Error) Unwrap() error { return e.Code }

// failure reads the payload of a reply that is an error.
func (d *decoder) failure() *Error {
	e := &Error{Code: Code(d.i32()), Domain: d.i32(), Text: d.opt(), Level: d.i32()}
	if d.present() {
		d.domain()
	}
	e.Str1, e.Str2, e.Str3 = d.opt(), d.opt(), d.opt()
	e.Int1, e.Int2 = d.i32(), d.i32()
	if d.present() { // a network
		d.str()
		d.uuid()
	}
	return e
}
