package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cairn/client/source/live"
)

// Keys of live.Record.Extra.
const (
	extraQMP     = "qmp"     // the monitor's socket
	extraAgent   = "agent"   // the guest agent's, or ""
	extraSince   = "since"   // the earlier checkpoint, or ""
	extraScratch = "scratch" // the directory of scratch files, if not the session's
	extraProcess = "process" // which process of QEMU: processOf
	extraKeep    = "keep"    // what becomes of the checkpoint: keepYes, keepNo, or "" while that is open
	keepYes      = "yes"
	keepNo       = "no"
)

// work is where a session's sockets and files are.
type work struct {
	dir     string // QEMU's to write in
	scratch string // dir, or another
	socket  string
}

func workOf(s *live.Session) work {
	w := work{dir: s.Path("qemu")}
	w.scratch, w.socket = w.dir, filepath.Join(w.dir, "nbd")
	if other := s.Record().Extra[extraScratch]; other != "" {
		w.scratch = other
	}
	return w
}

// scratchDir is a directory of a snapshot's own in Options.Scratch.
func (s *Source) scratchDir(c checkpoint) string { return filepath.Join(s.o.Scratch, string(c)) }

// file is the scratch file of a disk.
func (w work) file(n int) string { return filepath.Join(w.scratch, fmt.Sprintf("%d.qcow2", n)) }

// make makes the directories, which belong to the user that QEMU runs as: it
// has to bind a socket there and to open the files.
func (w work) make(c *shared) error {
	if len(w.socket) > 100 { // of the 107 that the kernel takes
		return fmt.Errorf("socket %s: its path is longer than 100 bytes: choose a shorter state directory", w.socket)
	}
	uid, gid, err := owner(c)
	if err != nil {
		return err
	}
	for _, dir := range []string{w.dir, w.scratch} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("directory for QEMU: %w", err)
		}
		if err := live.GiveTo(dir, uid, gid); err != nil {
			return fmt.Errorf("directory for QEMU: %w", err)
		}
	}
	return nil
}

// create makes the scratch file of a disk.
func (w work) create(ctx context.Context, n int, size int64, c *shared) error {
	uid, gid, err := owner(c)
	if err != nil {
		return err
	}
	return live.CreateScratch(ctx, w.file(n), size, uid, gid)
}

// remove removes all of it.
func (w work) remove() error {
	if err := errors.Join(os.RemoveAll(w.dir), os.RemoveAll(w.scratch)); err != nil {
		return fmt.Errorf("remove scratch files: %w", err)
	}
	return nil
}

// processOf tells QEMU's processes apart: the pid, and when it was started.
func processOf(c *shared) (string, error) {
	pid, err := c.PeerPID()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("process of QEMU: %w", err)
	}
	// The second field is a name in parentheses; the start time is the 22nd.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return "", fmt.Errorf("process of QEMU: unexpected %q", b)
	}
	return fmt.Sprintf("%d@%s", pid, f[19]), nil
}

// owner returns the user and group that QEMU accesses files as, or -1 for both
// when we are nobody who could give it files.
func owner(c *shared) (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return -1, -1, nil
	}
	pid, err := c.PeerPID()
	if err != nil {
		return 0, 0, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("user of QEMU: %w", err)
	}
	ids := map[string]int{}
	for line := range strings.Lines(string(b)) {
		// Uid: real, effective, saved, file system
		if f := strings.Fields(line); len(f) == 5 && (f[0] == "Uid:" || f[0] == "Gid:") {
			if ids[f[0]], err = strconv.Atoi(f[4]); err != nil {
				return 0, 0, fmt.Errorf("user of QEMU: %w", err)
			}
		}
	}
	return ids["Uid:"], ids["Gid:"], nil
}
