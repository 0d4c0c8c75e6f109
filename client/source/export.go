package source

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cairn/client/source/nbd"
)

// export is an image opened by a qemu-nbd of its own, and the connections to it.
//
// The server listens on a socket in a private directory only until the
// connections are made; then socket and directory go. It ends by itself when
// the last connection does, so that even if this process is killed nothing
// stays behind.
type export struct {
	*nbd.Client
	server *child

	closing sync.Once
}

// openExport starts qemu-nbd on an image. file is a name or "json:…"; more are
// further arguments. When ctx is done, the server is killed.
func openExport(ctx context.Context, file string, connections int, o nbd.Options, more ...string) (_ *export, err error) {
	dir, err := privateDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	socket, pid := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	ready, err := watchFor(pid)
	if err != nil {
		return nil, fmt.Errorf("start qemu-nbd: %w", err)
	}
	args := append([]string{"--socket=" + socket, "--pid-file=" + pid, "--shared=" + strconv.Itoa(connections)}, more...)
	server, err := start(ctx, nil, "qemu-nbd", append(args, "--", file)...)
	if err != nil {
		ready.Close()
		return nil, err
	}
	defer func() {
		if err != nil {
			server.kill()
		}
	}()
	// qemu-nbd writes its process id when it is ready to serve.
	appeared := make(chan error, 1)
	var waiting sync.WaitGroup
	waiting.Go(func() { appeared <- ready.wait() })
	defer func() {
		ready.Close()
		waiting.Wait()
	}()
	late := time.NewTimer(startLimit)
	defer late.Stop()
	select {
	case err = <-appeared:
	case <-server.done:
		if err = context.Cause(ctx); err == nil {
			err = &refusal{server.words()}
		}
	case <-late.C:
		err = fmt.Errorf("qemu-nbd is not ready after %s: %s", startLimit, server.words())
	}
	if err != nil {
		return nil, err
	}
	o.Connections = connections
	var d net.Dialer
	client, err := nbd.Open(ctx, func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) }, o)
	if err != nil {
		return nil, err
	}
	return &export{Client: client, server: server}, nil
}

// startLimit is how long qemu-nbd may take to open an image.
const startLimit = time.Minute

// refusal is how qemu-nbd said that it cannot open an image.
type refusal struct{ words string }

func (r *refusal) Error() string { return r.words }

// finish closes the connections, waits for the server to close the image and
// end by itself, and tells whether that went well.
func (e *export) finish(ctx context.Context) error {
	err := e.Client.Close()
	select {
	case <-e.server.done:
	case <-ctx.Done():
		e.kill()
		return context.Cause(ctx)
	}
	if e.server.err != nil {
		return fmt.Errorf("%w: %s", e.server.err, e.server.words())
	}
	return err
}

// kill ends it all at once.
func (e *export) kill() {
	e.closing.Do(func() {
		e.server.kill() // first, so that no request in flight is waited for
		e.Client.Close()
	})
}

// privateDir makes a directory for a socket, whose path has to be short.
func privateDir() (string, error) {
	tmp := os.TempDir()
	if len(tmp) > 64 {
		tmp = "/tmp"
	}
	dir, err := os.MkdirTemp(tmp, "cairn-nbd-") // 0700
	if err != nil {
		return "", fmt.Errorf("directory for the socket of qemu-nbd: %w", err)
	}
	return dir, nil
}

// appearance waits for a file to be written.
type appearance struct {
	path   string
	events *os.File
}

// watchFor watches the directory of a file that does not exist yet.
func watchFor(path string) (*appearance, error) {
	events, err := newInotify()
	if err != nil {
		return nil, err
	}
	if _, err := events.watch(filepath.Dir(path), unix.IN_CREATE|unix.IN_MODIFY); err != nil {
		events.Close()
		return nil, err
	}
	return &appearance{path, events.File}, nil
}

// wait returns nil when the file has contents, and an error after Close.
func (a *appearance) wait() error {
	var b [4096]byte
	for {
		if st, err := os.Stat(a.path); err == nil && st.Size() > 0 {
			return nil
		}
		if _, err := a.events.Read(b[:]); err != nil {
			return err
		}
	}
}

func (a *appearance) Close() error { return a.events.Close() }
