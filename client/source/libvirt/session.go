package libvirt

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
	"cairn/client/source/live"
)

// What a session's Record.Extra holds.
const (
	scratchKey = "scratch" // directory of scratch files elsewhere
	fateKey    = "fate"    // what is to become of the checkpoint, once that is known
	fateKeep   = "keep"
	fateDrop   = "drop"
)

// qemuDir is the directory in a session that belongs to QEMU's user: QEMU itself
// binds the socket there. Nothing in it is trusted.
const qemuDir = "q"

// socketName is the NBD server's socket in it.
const socketName = "nbd"

// newSession makes the session's directory and what QEMU needs in it, and looks
// whether there is room.
func (p *snapshot) newSession(agent bool) error {
	r := live.Record{
		Machine: p.d.info.ID, Checkpoint: p.plan.name, HypervisorID: p.d.UUID.String(),
		Agent: agent, Time: time.Now(), Extra: map[string]string{},
	}
	session, err := live.NewSession(p.s.state, r)
	if err != nil {
		return err
	}
	p.session = session
	if p.plan.name != "" {
		p.s.mu.Lock()
		p.s.open[p.plan.name] = true
		p.s.mu.Unlock()
	}
	own := session.Path(qemuDir)
	p.socket, p.scratch = filepath.Join(own, socketName), own
	const longest = 107 // of a unix socket's path: sun_path of unix(7), without its NUL
	if len(p.socket) > longest {
		return fmt.Errorf("state directory: the socket's path %s is longer than %d bytes: choose another directory", p.socket, longest)
	}
	dirs := []string{own}
	if p.s.o.Scratch != "" {
		p.scratch = filepath.Join(p.s.o.Scratch, "cairn-"+filepath.Base(session.Dir()))
		dirs = append(dirs, p.scratch)
		r.Extra[scratchKey] = p.scratch
		if err := session.Update(r); err != nil {
			return err
		}
	}
	uid, gid := p.d.qemuOwner()
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("directory for QEMU: %w", err)
		}
		if err := live.GiveTo(dir, uid, gid); err != nil {
			return fmt.Errorf("directory for QEMU: %w", err)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.scratch, &st); err != nil {
		return fmt.Errorf("scratch space: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < p.s.o.Reserve {
		return fmt.Errorf("%w: %d MiB are left in %s for what the VM overwrites while it is backed up, %d MiB are wanted: make room, or choose another directory",
			source.ErrSnapshotSpace, free>>20, filepath.Dir(p.scratch), p.s.o.Reserve>>20)
	}
	return nil
}

// qemuOwner is whom the domain's QEMU runs as: its DAC label, or what the host is
// set up with. -1 means that there is nothing to change.
func (d *domain) qemuOwner() (uid, gid int) {
	for _, l := range d.extras.Labels {
		if l.Model != "dac" {
			continue
		}
		if uid, gid, ok := parseLabel(l.Label); ok {
			return uid, gid
		}
	}
	if a, ok := qemuUser(); ok && os.Geteuid() == 0 {
		return a.uid, a.gid
	}
	return -1, -1
}

// parseLabel reads a DAC label: "+107:+107", or names.
func parseLabel(label string) (uid, gid int, ok bool) {
	user, group, _ := strings.Cut(label, ":")
	uid, err := strconv.Atoi(strings.TrimPrefix(user, "+"))
	if err != nil {
		a, ok := accountOf(user)
		if !ok {
			return 0, 0, false
		}
		return a.uid, a.gid, true
	}
	if gid, err = strconv.Atoi(strings.TrimPrefix(group, "+")); err != nil {
		gid = -1
	}
	return uid, gid, true
}

// parseBackup reads what the daemon tells of a backup job.
func parseBackup(text string) (*backupXML, error) {
	x := new(backupXML)
	if err := xml.Unmarshal([]byte(text), x); err != nil {
		return nil, fmt.Errorf("XML of libvirt's backup job: %w", err)
	}
	return x, nil
}

// whose says whose a backup job is, as far as its files tell.
func (s *Source) whose(text string) string {
	x, err := parseBackup(text)
	if err != nil {
		return ""
	}
	where := x.Server.Socket
	for _, k := range x.Disks {
		if where == "" && k.Scratch != nil {
			where = k.Scratch.File
		}
	}
	switch {
	case where == "":
		return " (of another program)"
	case strings.HasPrefix(where, s.state+"/"):
		return " (of this host's cairn agent, " + where + ")"
	}
	return " (of another program, " + where + ")"
}

// stateLimit is the largest state file that is taken along, in bytes.
const stateLimit = 64 << 20

// gone tells that a domain, or what was asked of it, does not exist.
func gone(err error) bool {
	return errors.Is(err, rpc.ErrNoDomain) || errors.Is(err, source.ErrMachineNotFound)
}
