package guest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// Transport carries commands to one guest's agent and replies back.
//
// Execute is not called while another call of it is in flight. command is one
// JSON object {"execute": …, "arguments": …}; the reply is the JSON of the whole
// answer, {"return": …} or {"error": …}. A transport that gets the agent's
// refusals in another form returns *CommandError; one that knows that the agent
// is out of reach wraps ErrUnavailable.
//
// A command whose ctx ended may still be carried out later, but never after a
// command of a later Execute: the thaw that follows a freeze without an answer
// relies on that order.
type Transport interface {
	Execute(ctx context.Context, command string) (reply []byte, err error)
}

// maxReply is the longest reply that is taken, in bytes. An agent sends back at
// most 48 MiB of a file, and we never ask for more than a few KiB.
const maxReply = 8 << 20

// syncMark is a byte that no JSON holds. Sent to the agent, it makes it forget
// a half-sent command; before an agent's reply, it marks that what came earlier
// was for somebody else.
const syncMark = 0xff

// Socket is the Transport to the unix socket of a plain QEMU's guest agent
// channel (-chardev socket,server=on → virtserialport). Close it soon: QEMU
// serves one connection at a time.
//
// Each connection begins with guest-sync-delimited, sent in one go with the
// first command, so that a command reaches also an agent that is busy and will
// answer too late. After any failure the connection is replaced.
type Socket struct {
	path string
	conn net.Conn // nil after a failure
	br   *bufio.Reader
	sync bool // conn is to be synchronised before its first reply
}

var _ Transport = (*Socket)(nil)

// DialSocket connects to the agent's socket. That succeeds as long as QEMU runs;
// whether an agent answers is seen by the first command.
//
// Errors: ErrUnavailable, and with it ErrGone when QEMU has ended.
func DialSocket(ctx context.Context, path string) (*Socket, error) {
	s := &Socket{path: path}
	if err := s.dial(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Socket) dial(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", s.path)
	if errors.Is(err, syscall.ECONNREFUSED) {
		// Nobody holds the socket: that QEMU has ended.
		return fmt.Errorf("%w: %w: %w", ErrUnavailable, ErrGone, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	s.conn, s.br, s.sync = conn, bufio.NewReader(conn), true
	return nil
}

// Close ends the connection. Execute would open it again.
func (s *Socket) Close() error {
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}

// Execute sends a command and waits for the reply until ctx is done, however
// long that is.
//
// Errors: ErrUnavailable, and with it ctx's when that was the reason.
func (s *Socket) Execute(ctx context.Context, command string) ([]byte, error) {
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return nil, err
		}
	}
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	reply, err := s.exchange(command)
	if !stop() || err != nil {
		s.Close()
	}
	switch {
	case err == nil:
		return reply, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: no answer on %s (another program may hold the socket): %w", ErrUnavailable, s.path, context.Cause(ctx))
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrUnavailable, s.path, err)
}

func (s *Socket) exchange(command string) ([]byte, error) {
	var out bytes.Buffer
	var id uint64
	if s.sync {
		var b [8]byte
		rand.Read(b[:])
		id = binary.LittleEndian.Uint64(b[:]) >> 12 // exact in any JSON reader
		out.WriteByte(syncMark)
		fmt.Fprintf(&out, `{"execute":"guest-sync-delimited","arguments":{"id":%d}}`+"\n", id)
	}
	out.WriteString(command)
	out.WriteByte('\n')
	if _, err := s.conn.Write(out.Bytes()); err != nil {
		return nil, err
	}
	for s.sync {
		if err := s.skipToMark(); err != nil {
			return nil, err
		}
		line, err := s.readLine()
		if err != nil {
			return nil, err
		}
		var r struct{ Return *uint64 }
		if json.Unmarshal(line, &r) == nil && r.Return != nil && *r.Return == id {
			s.sync = false
		}
	}
	line, err := s.readLine()
	if err == nil && !json.Valid(line) {
		err = fmt.Errorf("reply %.40q is not JSON", line)
	}
	return line, err
}

// skipToMark reads up to and including a mark. What it skips has no limit but
// ctx's: a channel may hold the late reply to somebody's large request.
func (s *Socket) skipToMark() error {
	for {
		_, err := s.br.ReadSlice(syncMark)
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// readLine reads one reply, without its end of line. A mark within discards what
// was before it.
func (s *Socket) readLine() ([]byte, error) {
	var line []byte
	for {
		part, err := s.br.ReadSlice('\n')
		if i := bytes.LastIndexByte(part, syncMark); i >= 0 {
			line, part = line[:0], part[i+1:]
		}
		line = append(line, part...)
		switch {
		case err == nil:
			if line = bytes.TrimSpace(line); len(line) > 0 {
				return line, nil
			}
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) > maxReply:
			return nil, fmt.Errorf("reply is longer than %d bytes", maxReply)
		}
	}
}
