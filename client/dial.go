package client

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	cairnv1 "cairn/proto/cairn/v1"
)

// maxMessage is the largest message taken from a server: a batch of blocks, or
// a single block of 4 MiB that did not shrink, with its framing.
const maxMessage = 16 << 20

// window is the HTTP/2 flow-control window of streams and connections. gRPC's
// own estimate begins at 64 KiB and needs round trips to grow.
const window = 8 << 20

// reconnect bounds the waits between attempts to connect. gRPC's own grow to two
// minutes, for which a server that came back after an outage would be taken for
// gone: longer than a guest waits for its disk.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
	MinConnectTimeout: 10 * time.Second,
}

// retries makes calls that change nothing, or that a request id makes
// repeatable, try again while the server cannot be reached. The waits add up
// to some seconds: a restart of the server, not an outage.
const retries = `{"methodConfig": [{
	"name": [
		{"service": "cairn.v1.VaultService", "method": "GetVault"},
		{"service": "cairn.v1.VaultService", "method": "ListVaults"},
		{"service": "cairn.v1.VaultService", "method": "GetVaultUsage"},
		{"service": "cairn.v1.VaultService", "method": "GetVaultSummary"},
		{"service": "cairn.v1.PolicyService", "method": "GetPolicy"},
		{"service": "cairn.v1.PolicyService", "method": "ListPolicies"},
		{"service": "cairn.v1.PolicyService", "method": "PreviewPolicy"},
		{"service": "cairn.v1.ProtectedItemService", "method": "GetProtectedItem"},
		{"service": "cairn.v1.ProtectedItemService", "method": "ListProtectedItems"},
		{"service": "cairn.v1.RecoveryPointService", "method": "GetRecoveryPoint"},
		{"service": "cairn.v1.RecoveryPointService", "method": "ListRecoveryPoints"},
		{"service": "cairn.v1.JobService", "method": "GetJob"},
		{"service": "cairn.v1.JobService", "method": "ListJobs"},
		{"service": "cairn.v1.AuditService", "method": "ListAuditRecords"},
		{"service": "cairn.v1.BlockService", "method": "FindMissing"}
	],
	"retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "2s",
		"backoffMultiplier": 3, "retryableStatusCodes": ["UNAVAILABLE"]
	}
}]}`

// Client is a connection to a server. It is safe for concurrent use.
type Client struct {
	conn   *grpc.ClientConn
	outage *outage

	Vaults   cairnv1.VaultServiceClient
	Policies cairnv1.PolicyServiceClient
	Hosts    cairnv1.HostServiceClient
	Items    cairnv1.ProtectedItemServiceClient
	Points   cairnv1.RecoveryPointServiceClient
	Jobs     cairnv1.JobServiceClient
	Blocks   cairnv1.BlockServiceClient
	Audit    cairnv1.AuditServiceClient
}

// Dial prepares a connection to address: "unix:PATH", or "HOST:PORT" where HOST
// is a loopback address or "localhost". It does not wait for the server: the
// first call does, or fails.
func Dial(address string) (*Client, error) {
	target, err := dialTarget(address)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(retries),
		grpc.WithUserAgent("cairn"), // stands in the server's audit records
		grpc.WithConnectParams(reconnect),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(2*window),
		grpc.WithReadBufferSize(256<<10),
		grpc.WithWriteBufferSize(256<<10),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		// A name that has to be looked up could lead anywhere; loopback
		// addresses and sockets need no proxy either.
		grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			if path, ok := strings.CutPrefix(addr, "unix:"); ok {
				return d.DialContext(ctx, "unix", path)
			}
			return d.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return &Client{
		conn:     conn,
		outage:   new(outage),
		Vaults:   cairnv1.NewVaultServiceClient(conn),
		Policies: cairnv1.NewPolicyServiceClient(conn),
		Hosts:    cairnv1.NewHostServiceClient(conn),
		Items:    cairnv1.NewProtectedItemServiceClient(conn),
		Points:   cairnv1.NewRecoveryPointServiceClient(conn),
		Jobs:     cairnv1.NewJobServiceClient(conn),
		Blocks:   cairnv1.NewBlockServiceClient(conn),
		Audit:    cairnv1.NewAuditServiceClient(conn),
	}, nil
}

// Close ends the connection; calls in flight fail.
func (c *Client) Close() error { return c.conn.Close() }

// dialTarget checks an address and gives the target for gRPC. The passthrough
// scheme keeps gRPC from resolving what is complete as it is.
func dialTarget(address string) (string, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if path == "" {
			return "", fmt.Errorf("server address %q: the path of the socket is missing; use unix:PATH", address)
		}
		return "passthrough:///unix:" + path, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return "", fmt.Errorf("server address %q: must be unix:PATH or HOST:PORT", address)
	}
	if host != "localhost" {
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return "", fmt.Errorf("server address %q: only loopback addresses and unix sockets are possible until connections are encrypted; forward the server's socket through ssh instead", address)
		}
	}
	return "passthrough:///" + address, nil
}
