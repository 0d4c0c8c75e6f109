package nbd

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrProtocol marks what a server must not send. The connection is lost.
	ErrProtocol = errors.New("nbd protocol violation")
	// ErrClosed is what requests meet after Close.
	ErrClosed = errors.New("nbd client is closed")
	// ErrNoContext: Walk was asked for a metadata context that the server did
	// not agree to.
	ErrNoContext = errors.New("nbd server has no such metadata context")
)

// violation makes an error that wraps ErrProtocol.
func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Error is an error that the server reported for one request. errors.Is
// matches it with the syscall.Errno that its code stands for.
type Error struct {
	// Code is the protocol's error number.
	Code uint32
	// Message is the server's own text, or "".
	Message string
	// Offset is where in the export it happened, or -1.
	Offset int64
}

// Name returns the protocol's name of the error, as NBD_EIO.
func (e *Error) Name() string {
	if n, ok := errnos[e.Code]; ok {
		return n.name
	}
	return fmt.Sprintf("NBD error %d", e.Code)
}

func (e *Error) Error() string {
	s := e.Name()
	if n, ok := errnos[e.Code]; ok {
		s += " (" + n.errno.Error() + ")"
	}
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at offset %d", e.Offset)
	}
	if e.Message != "" {
		s += fmt.Sprintf(": %q", e.Message)
	}
	return s
}

func (e *Error) Unwrap() error {
	if n, ok := errnos[e.Code]; ok {
		return n.errno
	}
	return nil
}

// errnos are the protocol's error values.
var errnos = map[uint32]struct {
	name  string
	errno syscall.Errno
}{
	1:   {"NBD_EPERM", syscall.EPERM},
	5:   {"NBD_EIO", syscall.EIO},
	12:  {"NBD_ENOMEM", syscall.ENOMEM},
	22:  {"NBD_EINVAL", syscall.EINVAL},
	28:  {"NBD_ENOSPC", syscall.ENOSPC},
	75:  {"NBD_EOVERFLOW", syscall.EOVERFLOW},
	95:  {"NBD_ENOTSUP", syscall.ENOTSUP},
	108: {"NBD_ESHUTDOWN", syscall.ESHUTDOWN},
}

// OptionError is a server's refusal of an option in the handshake.
type OptionError struct {
	Option  uint32 // which option
	Type    uint32 // the reply's type, with the error bit
	Message string // the server's own text, or ""
}

// Name returns the protocol's name of the refusal, as NBD_REP_ERR_UNKNOWN.
func (e *OptionError) Name() string {
	if n := repErrNames[e.Type]; n != "" {
		return n
	}
	return fmt.Sprintf("NBD option error %#x", e.Type)
}

func (e *OptionError) Error() string {
	s := fmt.Sprintf("server refused %s: %s", optName(e.Option), e.Name())
	if hint := repErrHints[e.Type]; hint != "" {
		s += " (" + hint + ")"
	}
	if e.Message != "" {
		s += fmt.Sprintf(": %q", e.Message)
	}
	return s
}

const (
	repErrUnsup   = 1<<31 + 1
	repErrTLSReqd = 1<<31 + 5
	repErrUnknown = 1<<31 + 6
)

var repErrNames = map[uint32]string{
	repErrUnsup:   "NBD_REP_ERR_UNSUP",
	1<<31 + 2:     "NBD_REP_ERR_POLICY",
	1<<31 + 3:     "NBD_REP_ERR_INVALID",
	1<<31 + 4:     "NBD_REP_ERR_PLATFORM",
	repErrTLSReqd: "NBD_REP_ERR_TLS_REQD",
	repErrUnknown: "NBD_REP_ERR_UNKNOWN",
	1<<31 + 7:     "NBD_REP_ERR_SHUTDOWN",
	1<<31 + 8:     "NBD_REP_ERR_BLOCK_SIZE_REQD",
	1<<31 + 9:     "NBD_REP_ERR_TOO_BIG",
}

var repErrHints = map[uint32]string{
	repErrUnsup:   "the server is too old",
	repErrTLSReqd: "this client does not speak TLS",
	repErrUnknown: "no such export",
}
