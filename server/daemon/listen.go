package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// loopback checks the address of --listen and gives the one to bind. Without
// encryption and identities on the wire, whoever reaches the port may do
// everything: so only this machine may reach it.
func loopback(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("--listen %q: must be HOST:PORT, such as 127.0.0.1:7401", address)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("--listen %q: only loopback addresses (127.0.0.1, [::1]) are served until connections are encrypted, as everybody who reaches the port may do everything; forward the port or the socket through ssh instead", address)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", fmt.Errorf("--listen %q: %q is no port", address, port)
	}
	return net.JoinHostPort(host, port), nil
}

// maxSocketPath is what fits the kernel's address of a unix socket.
const maxSocketPath = 107

// socketListener is a unix socket that only its owner can connect to.
type socketListener struct {
	net.Listener
	path string
	file os.FileInfo // the socket that we made
}

// listenUnix makes a socket with mode 0600 at path. It is made in a directory
// that nobody else can enter and then renamed, so that there is no moment at
// which it is open to others. What a dead server left at path is replaced; a
// socket on which somebody answers, or any other file, is an error.
func listenUnix(path string) (net.Listener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := replaceable(path); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".c")
	if err != nil {
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "s")
	if n := max(len(path), len(tmp)); n > maxSocketPath {
		return nil, fmt.Errorf("socket %s: the path is longer than the system allows (%d bytes); give a shorter one with --socket", path, maxSocketPath)
	}
	l, err := net.Listen("unix", tmp)
	if err != nil {
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it has another name by then
	s := &socketListener{Listener: l, path: path}
	if err = os.Chmod(tmp, 0o600); err == nil {
		if s.file, err = os.Lstat(tmp); err == nil {
			err = os.Rename(tmp, path)
		}
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	return s, nil
}

// replaceable says why there must be no new socket at path.
func replaceable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("socket %s: %w", path, err)
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("socket %s: there is a file of another kind; remove it, or give another path with --socket", path)
	}
	c, err := net.DialTimeout("unix", path, 2*time.Second)
	if err == nil {
		c.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("socket %s: a server is listening there already; stop it, or give another path with --socket", path)
}

// Close also removes the socket, unless another server has put its own there.
func (s *socketListener) Close() error {
	if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.file) {
		os.Remove(s.path)
	}
	return s.Listener.Close()
}
