package server

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// The actors of audit records that are nobody's address.
const (
	actorServer  = "server"  // the server, of itself
	actorUnknown = "unknown" // a connection that tells nothing of its other end
)

// peerCredentials ask the kernel, as a connection comes in over a unix socket, who
// made it. Otherwise they are those of a connection without encryption.
type peerCredentials struct {
	credentials.TransportCredentials
}

func newPeerCredentials() credentials.TransportCredentials {
	return peerCredentials{insecure.NewCredentials()}
}

func (c peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(conn)
	if u, ok := conn.(*net.UnixConn); ok && err == nil {
		if uid, ok := peerUID(u); ok {
			info = socketPeer{info, uid}
		}
	}
	return conn, info, err
}

func (c peerCredentials) Clone() credentials.TransportCredentials {
	return peerCredentials{c.TransportCredentials.Clone()}
}

// socketPeer is who made a connection over a unix socket.
type socketPeer struct {
	credentials.AuthInfo
	uid uint32
}

func peerUID(c *net.UnixConn) (uint32, bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || failed != nil {
		return 0, false
	}
	return cred.Uid, true
}

// actorOf says who calls, as far as the connection tells.
func actorOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return actorUnknown
	}
	if s, ok := p.AuthInfo.(socketPeer); ok {
		return fmt.Sprintf("uid:%d", s.uid)
	}
	if a, ok := p.Addr.(*net.TCPAddr); ok {
		return a.IP.String()
	}
	return actorUnknown
}

// userAgentOf is what the caller calls itself.
func userAgentOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("user-agent"); len(v) > 0 {
		return v[0]
	}
	return ""
}
