package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// busyGrace is for how long Unmount waits for programs to let go before it
// detaches the mount from them.
const busyGrace = time.Second

// BusyError: programs still used the mount when Unmount gave up waiting. The
// mount point is free; the connection ends with this process at the latest.
type BusyError struct {
	Dir   string
	Users []string // "less (pid 4711)", as far as this user may see them
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s is still in use%s", e.Dir, by(e.Users))
}

func by(users []string) string {
	if len(users) == 0 {
		return ""
	}
	return " by " + strings.Join(users, ", ")
}

// Unmount takes the file system down and waits until it is. When programs use
// it, it is tried for a second, and then detached: the directory is free at
// once, the programs keep what they have open, and Unmount goes on waiting for
// them until ctx ends. Then it cuts them off if it can, and returns a
// *BusyError.
func (s *Server) Unmount(ctx context.Context) error {
	var users []string
	busySince := time.Now()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := s.detach(false)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("unmount %s: %w", s.dir, err)
		}
		if time.Since(busySince) < busyGrace {
			select {
			case <-s.done:
				return nil
			case <-time.After(wait):
				continue
			case <-ctx.Done():
			}
		}
		users = usersOf(s.dir)
		if err := s.detach(true); err != nil {
			return fmt.Errorf("unmount %s, in use%s: %w", s.dir, by(users), err)
		}
		s.log.Warn("the mount is in use and was detached; it ends when it is let go", "dir", s.dir, "users", users)
		break
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.abort()
		return &BusyError{s.dir, users}
	}
}

// detach unmounts, lazily if asked. A mount that is gone already is no error.
func (s *Server) detach(lazy bool) error {
	if !s.attached() {
		return nil
	}
	var err error
	if s.direct {
		flags := unix.UMOUNT_NOFOLLOW
		if lazy {
			flags |= unix.MNT_DETACH
		}
		err = unix.Unmount(s.dir, flags)
	} else {
		err = fusermount(s.dir, lazy)
	}
	if err != nil && !s.attached() {
		return nil // somebody else was faster
	}
	return err
}

// attached: what is mounted at the directory is this file system.
func (s *Server) attached() bool {
	m := mountAt(s.dir)
	return m != nil && m.dev == s.dev
}

func fusermount(dir string, lazy bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	args := []string{"-u", "--", dir}
	if lazy {
		args = append([]string{"-z"}, args...)
	}
	cmd := exec.CommandContext(ctx, "fusermount3", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(stderr.String())
		if strings.Contains(text, "busy") {
			return fmt.Errorf("%s: %w", text, syscall.EBUSY)
		}
		return fmt.Errorf("fusermount3: %s: %w", text, err)
	}
	return nil
}

// abort cuts the connection to the kernel, so that nobody hangs on requests
// that will not be answered. It needs fusectl to be mounted.
func (s *Server) abort() {
	if s.dev == "" {
		return
	}
	_, minor, _ := strings.Cut(s.dev, ":")
	_ = os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0)
}

// usersOf names the processes that use something below dir, as far as /proc
// shows them to this user. It reads links of /proc only, never the mount.
func usersOf(dir string) []string {
	var users []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if !uses(p, dir) {
			continue
		}
		comm, _ := os.ReadFile(p + "/comm")
		users = append(users, fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), filepath.Base(p)))
	}
	return users
}

func uses(proc, dir string) bool {
	links, _ := filepath.Glob(proc + "/fd/*")
	for _, l := range append(links, proc+"/cwd", proc+"/root", proc+"/exe") {
		if to, err := os.Readlink(l); err == nil && (to == dir || strings.HasPrefix(to, dir+"/")) {
			return true
		}
	}
	maps, _ := os.ReadFile(proc + "/maps")
	return strings.Contains(string(maps), " "+dir+"/")
}
