// Package rpc is a client of libvirt's daemons, libvirtd and virtqemud, on the
// host it runs on: the calls and events that backing up and restoring domains
// needs, and no others.
//
//	c, err := rpc.Dial(ctx, "qemu:///system")
//	…
//	defer c.Close()
//	events, err := c.Subscribe(ctx)
//	domains, err := c.ListDomains(ctx, 0)
//	err = c.BackupBegin(ctx, domains[0], backupXML, checkpointXML, 0)
//	if errors.Is(err, rpc.ErrOperationTimeout) { … another job holds the domain … }
//
// It speaks libvirt's RPC protocol over the daemon's unix socket. Calls are
// pipelined: each goes out with a serial of its own, and replies come in any
// order. At most four are on their way at once; a fifth waits, for a daemon
// that works on five calls of a client stops listening to it. Every call obeys
// its context; what a call that was given up began in the daemon goes on
// there, it keeps its place among the four until the daemon has answered, and
// its late reply is dropped. So a guest agent command should be given a limit
// of its own, and who works on many domains at once dials a connection for each.
//
// A connection that breaks does not mend: whatever is pending and whatever
// comes after fails with ErrDisconnected, Done tells those who wait, and the
// caller dials again. A daemon that ends, one that hangs (it is sent keepalive
// messages) and one that breaks the protocol (ErrProtocol) all look like that.
// An error that the daemon reports (*Error, by Code) concerns one call alone.
//
// Nothing the daemon sends is trusted: lengths and counts are checked before
// anything is allocated, and a payload must hold what its procedure says, to
// the byte.
//
// Layouts, numbers and limits are those of libvirt 9.0, which libvirt promises
// to keep: src/rpc/virnetprotocol.x (messages and errors),
// src/rpc/virkeepaliveprotocol.x, src/remote/remote_protocol.x,
// src/remote/qemu_protocol.x and, for flags and enumerations,
// include/libvirt/*.h of https://gitlab.com/libvirt/libvirt. The XML that
// goes in and comes out is https://libvirt.org/format.html; this package does
// not look into it. It imports the standard library only.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Authentication methods.
const (
	authNone   = 0
	authSASL   = 1
	authPolkit = 2
)

// Dial connects to the daemon of a libvirt URI and opens its QEMU driver. ctx
// bounds that, not the connection's life.
//
// The URI is qemu:///system or qemu:///session, with ?socket=PATH if the
// daemon listens at an unusual place. Without it the sockets of virtqemud and
// libvirtd are tried, in libvirt's own order: under /run/libvirt, for a
// session under $XDG_RUNTIME_DIR/libvirt. No daemon is started. Other hosts
// and drivers are refused.
func Dial(ctx context.Context, uri string) (*Conn, error) {
	name, sockets, err := parseURI(uri)
	if err != nil {
		return nil, fmt.Errorf("libvirt: URI %q: %w", uri, err)
	}
	var d net.Dialer
	var all error
	for _, path := range sockets {
		nc, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			if all != nil {
				err = fmt.Errorf("%w; %w", all, err)
			}
			all = err
			continue
		}
		c := newConn(nc)
		if err := c.open(ctx, name); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
	return nil, fmt.Errorf("libvirt: connect to %s (is libvirtd or virtqemud running?): %w", name, all)
}

// CheckURI says what is wrong with a URI that Dial would refuse.
func CheckURI(uri string) error {
	if _, _, err := parseURI(uri); err != nil {
		return fmt.Errorf("libvirt: URI %q: %w", uri, err)
	}
	return nil
}

// parseURI returns the URI as the daemon wants it, and the sockets to try.
func parseURI(uri string) (name string, sockets []string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", nil, errors.Unwrap(err) // without the URI, which the caller adds
	}
	switch {
	case u.Scheme != "qemu" && u.Scheme != "qemu+unix":
		return "", nil, fmt.Errorf("driver %q: only qemu:///system and qemu:///session are supported", u.Scheme)
	case u.Host != "" || u.User != nil:
		return "", nil, fmt.Errorf("host %q: only the local host is supported, run this program there", u.Host)
	}
	var dir string
	switch u.Path {
	case "/system":
		dir = "/run/libvirt"
	case "/session":
		if dir = os.Getenv("XDG_RUNTIME_DIR"); dir == "" {
			if dir, err = os.UserCacheDir(); err != nil {
				return "", nil, err
			}
		}
		dir = filepath.Join(dir, "libvirt")
	default:
		return "", nil, fmt.Errorf("path %q: must be /system or /session", u.Path)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", nil, err
	}
	for k := range query {
		if k != "socket" {
			return "", nil, fmt.Errorf("parameter %q: only socket is supported", k)
		}
	}
	name = "qemu://" + u.Path
	if s := query.Get("socket"); s != "" {
		return name, []string{s}, nil
	}
	return name, []string{filepath.Join(dir, "virtqemud-sock"), filepath.Join(dir, "libvirt-sock")}, nil
}

// open authenticates and opens the driver.
func (c *Conn) open(ctx context.Context, name string) error {
	var methods []string
	none, polkit := false, false
	err := c.call(ctx, procAuthList, "", args(), func(d *decoder) {
		for range d.count(20, 4) {
			switch m := d.u32(); m {
			case authNone:
				none = true
			case authPolkit:
				polkit = true
			case authSASL:
				methods = append(methods, "SASL")
			default:
				methods = append(methods, fmt.Sprintf("method %d", m))
			}
		}
	})
	switch {
	case err != nil:
		return err
	case none:
	case polkit:
		err := c.call(ctx, procAuthPolkit, "", args(), func(d *decoder) { d.i32() })
		if err != nil {
			return fmt.Errorf("%w; run as root, or let polkit grant org.libvirt.unix.manage to this user", err)
		}
	case len(methods) > 0:
		return fmt.Errorf("libvirt: the daemon wants authentication by %s, which is not supported; "+
			`set auth_unix_rw = "none" or "polkit" in its configuration`, strings.Join(methods, " or "))
	}
	return c.call(ctx, procConnectOpen, name, args().opt(name).u32(0), nil)
}
