package mount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoFUSE: this host or this user cannot mount through FUSE at all. What the
// mount would show can still be had without it, from mount/tree and
// mount/extract.
var ErrNoFUSE = errors.New("FUSE cannot be used here")

// fuseDevice is where the kernel's side of FUSE is; tests have it elsewhere.
var fuseDevice = "/dev/fuse"

// checkHost tells what FUSE lacks on this host before the kernel or fusermount3
// answers with a number.
func checkHost(direct, allowOther bool) error {
	if _, err := os.Stat(fuseDevice); err != nil {
		return fmt.Errorf("%w: there is no %s; load the kernel module (modprobe fuse), or give the container that device", ErrNoFUSE, fuseDevice)
	}
	if err := unix.Access(fuseDevice, unix.R_OK|unix.W_OK); err != nil {
		return fmt.Errorf("%w: this user may not open %s (%w), whose mode should be 0666", ErrNoFUSE, fuseDevice, err)
	}
	if direct {
		return nil
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return fmt.Errorf("%w: to mount without being root install fusermount3 (package fuse3)", ErrNoFUSE)
	}
	if conf, _ := os.ReadFile("/etc/fuse.conf"); allowOther && os.Geteuid() != 0 && !hasLine(string(conf), "user_allow_other") {
		return errors.New("other users may be let in only by root: add a line user_allow_other to /etc/fuse.conf, or mount without that option")
	}
	return nil
}

func hasLine(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.TrimSpace(l) == line {
			return true
		}
	}
	return false
}

// fuseError adds what is likely wrong when mounting itself failed.
func fuseError(err error, direct bool) error {
	switch {
	case errors.Is(err, os.ErrPermission) && direct:
		return fmt.Errorf("%w: mounting needs CAP_SYS_ADMIN, which a container lacks unless it is given: %w", ErrNoFUSE, err)
	case !direct:
		return fmt.Errorf("%w (fusermount3 printed why; the directory must belong to you)", err)
	default:
		return err
	}
}

// mountEntry is a line of /proc/self/mountinfo.
type mountEntry struct {
	dev            string // major:minor
	fstype, source string
}

// mountAt is the topmost mount at the absolute path dir, nil if there is none.
// It asks the mount table, not the mount, which may not answer.
func mountAt(dir string) *mountEntry {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var found *mountEntry
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// 36 35 98:0 /root /mnt rw,noatime shared:1 - fstype source options
		before, after, ok := strings.Cut(sc.Text(), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 2 || unescape(fields[4]) != dir {
			continue
		}
		found = &mountEntry{fields[2], tail[0], unescape(tail[1])}
	}
	return found
}

// unescape undoes the octal escapes of the mount table.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// tune notes the mount's device number and asks the kernel to read ahead as far as one request goes. Only root
// may, and 128 KiB is what others get.
func (s *Server) tune() {
	if m := mountAt(s.dir); m != nil {
		s.dev = m.dev
		_ = os.WriteFile("/sys/class/bdi/"+m.dev+"/read_ahead_kb", []byte(strconv.Itoa(requestSize>>10)), 0o644)
	}
}
