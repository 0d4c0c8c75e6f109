//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cairn/client/source/guesttest"
)

// Scenes with real machines. A live world has a server with vault main and policy
// nightly; its agent backs up the machines of a libvirt, or of descriptors:
//
//	l := newLive(t)
//	vm := l.domain(guesttest.Spec{Name: "web", Drives: …, Write: "vda"})
//	l.startAgent()
//	l.protect(vm.name)
//	before := vm.Synced("vda")
//	j := l.backUp(vm.name)
//	l.checkDisk(j.RecoveryPoint, "vda", before, vm.Synced("vda")+1)
//	l.nothingLeft(vm)
type live struct {
	*world
	state string // the agent's --state; QEMU's own user can reach it
	qemu  string // the agent's --qemu; empty means that its machines are libvirt's
	gate  *gate  // what the agent reaches the server through, or nil
}

// liveLimit is how long anything may take that a guest does.
const liveLimit = 2 * time.Minute

func newLive(t testing.TB) *live {
	t.Helper()
	l := &live{world: newWorld(t), state: guesttest.Dir(t) + "/state"}
	l.startServer()
	l.setUp()
	return l
}

// startAgent starts the agent of host h1, or starts it again.
func (l *live) startAgent(more ...string) {
	l.Helper()
	args := []string{"agent", "--host", "h1", "--state", l.state}
	if l.qemu != "" {
		args = append(args, "--qemu", l.qemu)
	} else {
		args = append(args, "--libvirt", "qemu:///system")
	}
	if l.gate != nil {
		args = append(args, "--server", l.gate.address)
	}
	l.agent = l.start("agent", "is connected", cairnExe, append(args, more...)...)
}

// killAgent is kill -9 of the agent. It does not wait for the thaw guard, which
// lives on and has the agent's standard error.
func (l *live) killAgent() {
	l.Helper()
	l.must(l.agent.Process.Kill())
	for l.agent.Process.Signal(syscall.Signal(0)) == nil {
		time.Sleep(time.Millisecond)
	}
}

// vm is a machine of either kind.
type vm struct {
	*guesttest.Guest
	name    string              // the machine's and the item's id
	dom     *guesttest.DomainVM // nil if it is not libvirt's
	drives  []guesttest.Drive
	class   string                      // the consistency that a backup to which nothing happens has
	monitor func(command string) string // executes a QMP command
}

func classOf(spec guesttest.Spec) string {
	switch {
	case spec.Agent != guesttest.AgentRuns || spec.Hook == guesttest.HookFails:
		return "CRASH_CONSISTENT"
	case spec.Hook == guesttest.HookOK:
		return "APPLICATION_CONSISTENT"
	}
	return "FILE_SYSTEM_CONSISTENT"
}

// domain defines and boots a domain of libvirt.
func (l *live) domain(spec guesttest.Spec) *vm {
	l.Helper()
	d := guesttest.Domain(l, spec)
	m := &vm{Guest: d.Guest, name: d.Name, dom: d, drives: d.Drives, class: classOf(spec),
		monitor: func(c string) string { return d.Virsh("qemu-monitor-command", d.Name, c) }}
	d.Start()
	l.awaitGuest(m, spec)
	return m
}

// plain boots a machine that nothing manages, and writes its descriptor.
func (l *live) plain(name string, spec guesttest.Spec) *vm {
	l.Helper()
	q := guesttest.QEMU(l, spec)
	m := &vm{Guest: q.Guest, name: name, drives: q.Drives, class: classOf(spec), monitor: func(c string) string { return l.qmp(q.QMPSocket, c) }}
	if l.qemu == "" {
		l.qemu = l.path("qemu")
		l.must(os.Mkdir(l.qemu, 0o700))
	}
	b, err := json.Marshal(map[string]string{"name": name, "qmp": q.QMPSocket, "agent": q.AgentSocket})
	l.must(err)
	l.must(os.WriteFile(filepath.Join(l.qemu, name+".json"), b, 0o600))
	l.awaitGuest(m, spec)
	return m
}

// awaitGuest returns when a guest is up and its writers have begun.
func (l *live) awaitGuest(m *vm, spec guesttest.Spec) {
	l.Helper()
	ctx := l.limit()
	m.WaitReady(ctx)
	if spec.Agent == guesttest.AgentRuns {
		m.WaitAgent(ctx)
	}
	for _, d := range m.drives {
		if spec.Write == "all" || strings.Contains(","+spec.Write+",", ","+d.Target+",") {
			m.WaitSynced(ctx, d.Target, 0)
		}
	}
}

// limit is a context that ends after liveLimit, and with the test.
func (l *live) limit() context.Context {
	ctx, cancel := context.WithTimeout(l.Context(), liveLimit)
	l.Cleanup(cancel)
	return ctx
}

// --- points --------------------------------------------------------------------

// restored restores disks of a point, all if none is named, to DIR/DISK.raw in a
// new directory.
func (l *live) restored(point string, disks ...string) (dir string) {
	l.Helper()
	dir, err := os.MkdirTemp(l.dir, "restored-")
	l.must(err)
	l.cairn(append(append([]string{"restore", "disk", point}, disks...), "--to", dir)...)
	return dir
}

// checkDisk restores a disk of a point and checks it: a file system without a
// fault, with nothing left to do in its journal, that holds exactly the files
// which the guest had synced, the last of them between the two numbers. It gives
// the number.
func (l *live) checkDisk(point, disk string, atLeast, atMost int) (n int) {
	l.Helper()
	dir := l.restored(point, disk)
	defer os.RemoveAll(dir)
	return l.checkImage(filepath.Join(dir, disk+".raw"), atLeast, atMost)
}

// checkImage is checkDisk for a raw image.
func (l *live) checkImage(raw string, atLeast, atMost int) (n int) {
	l.Helper()
	// Before anything else looks at it.
	if strings.Contains(l.tool("dumpe2fs", "-h", raw), "needs_recovery") {
		l.Fatalf("%s: its journal is not clean", raw)
	}
	guesttest.Fsck(l, raw)
	n = guesttest.CheckFiles(l, os.DirFS(guesttest.Extract(l, raw)), atLeast)
	if n > atMost {
		l.Errorf("%s has file %d, which the guest has not written yet: it is at %d", raw, n, atMost)
	}
	return n
}

// consistent checks the class of a point.
func (l *live) consistent(point, class string) {
	l.Helper()
	var p struct{ Consistency string }
	l.json(&p, "point", "show", point)
	if p.Consistency != "CONSISTENCY_CLASS_"+class {
		l.Errorf("point %s is %s, must be %s", last(point), p.Consistency, class)
	}
}

// --- backups -------------------------------------------------------------------

// steadyBackup backs up a machine that writes on the disks, and checks all there
// is to check of a backup to which nothing happens, but what it read.
func (l *live) steadyBackup(m *vm, disks ...string) job {
	l.Helper()
	before := map[string]int{}
	for _, d := range disks {
		before[d] = m.Synced(d)
	}
	j := l.backUp(m.name)
	if len(j.Warnings) > 0 {
		l.Errorf("%v warns: %+v", j, j.Warnings)
	}
	if frozen, err := time.ParseDuration(j.Stats.Frozen); err != nil || frozen <= 0 || frozen > 10*time.Second {
		l.Errorf("%v: the guest was frozen for %q", j, j.Stats.Frozen)
	}
	l.consistent(j.RecoveryPoint, m.class)
	for _, d := range disks {
		l.checkDisk(j.RecoveryPoint, d, before[d], m.Synced(d)+1)
	}
	return j
}

// nextBackup is steadyBackup of a machine that has been backed up before, and has
// written more since than a sample of its disks is: it is read in proportion.
func (l *live) nextBackup(m *vm, disk string) job {
	l.Helper()
	m.Must("dd if=/dev/urandom of=/mnt/" + disk + "/noise bs=1M count=2 conv=notrunc && sync /mnt/" + disk + "/noise")
	j := l.steadyBackup(m, disk)
	l.incremental(j)
	return j
}

// begun starts a backup and returns when its agent has told the server that it
// works on it. (Until then, a job whose agent died is given to the next.)
func (l *live) begun(m *vm) (j job) {
	l.Helper()
	l.json(&j, "backup", m.name)
	return l.await(j, "has begun", func(j job) bool { return j.ended() || len(j.Tasks) > 0 && j.Tasks[0].State != "JOB_STATE_QUEUED" })
}

// incremental checks that a backup read what has changed, and not much more.
func (l *live) incremental(j job) {
	l.Helper()
	if s := j.Stats; s.TrackedBytes <= 0 || s.ReadBytes > 2*s.TrackedBytes {
		l.Errorf("%v read %d bytes for %d that changed (%d of them to prove the rest)", j, s.ReadBytes, s.TrackedBytes, s.SampledBytes)
	}
}

// --- guests --------------------------------------------------------------------

// pulse is what shows that a guest went on all the time.
type pulse struct {
	boot        string
	up          float64 // seconds that its kernel has run
	began       float64 // its clock less that
	asked, told time.Time
}

func (l *live) pulse(m *vm) (p pulse) {
	l.Helper()
	p.asked = time.Now()
	out := m.Must("cat /proc/sys/kernel/random/boot_id; cut -d' ' -f1 /proc/uptime; date +%s")
	p.told = time.Now()
	var clock float64
	if _, err := fmt.Sscan(out, &p.boot, &p.up, &clock); err != nil {
		l.Fatalf("%s: its pulse is %q: %v", m.name, out, err)
	}
	p.began = clock - p.up
	return p
}

var guestComplaint = regexp.MustCompile(`(?mi)^.*(I/O error|EXT4-fs (error|warning)|journal.*abort|blk_update_request|hung task|blocked for more than|stopped before|Kernel panic|Oops|soft lockup|remounting filesystem read-only).*$`)

// unharmed checks that a guest has run all the time since an earlier pulse, still
// writes, and never met an error.
func (l *live) unharmed(m *vm, since pulse, writes ...string) {
	l.Helper()
	for _, disk := range writes {
		m.WaitSynced(l.limit(), disk, m.Synced(disk)+2)
	}
	now := l.pulse(m)
	if now.boot != since.boot {
		l.Errorf("%s was booted again: %s, was %s", m.name, now.boot, since.boot)
	}
	// A machine that is stopped does not see time pass.
	if least := now.asked.Sub(since.told).Seconds() - 1; now.up-since.up < least {
		l.Errorf("%s stood still: it ran for %.1f s of at least %.1f s", m.name, now.up-since.up, least)
	}
	if jump := now.began - since.began; jump < -2 || jump > 2 {
		l.Errorf("the clock of %s jumped by %.1f s", m.name, jump)
	}
	if bad := guestComplaint.FindString(m.Log()); bad != "" {
		l.Errorf("%s complained: %s", m.name, bad)
	}
}

// frozen tells whether the guest's agent says that it is.
func (l *live) frozen(m *vm) (frozen bool) {
	l.Helper()
	// It may be busy with what somebody else has asked it.
	l.until("the guest's agent answers", func() bool {
		answer, err := m.Agent(l.Context(), `{"execute":"guest-fsfreeze-status"}`)
		frozen = strings.Contains(answer, "frozen")
		return err == nil
	})
	return frozen
}

// --- leftovers -----------------------------------------------------------------

// nothingLeft checks that a backup has left nothing on the host and in the guest,
// but the checkpoint that the next one builds on, if there is to be one. Whatever
// takes a moment to go, such as a process, may.
func (l *live) nothingLeft(m *vm, checkpoints int) {
	l.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		left := l.leftovers(m, checkpoints)
		if len(left) == 0 {
			return
		}
		if time.Since(began) > 10*time.Second {
			l.Errorf("left over:\n\t%s", strings.Join(left, "\n\t"))
			return
		}
	}
}

func (l *live) leftovers(m *vm, checkpoints int) (left []string) {
	l.Helper()
	add := func(format string, args ...any) { left = append(left, fmt.Sprintf(format, args...)) }
	for _, path := range l.stateFiles() {
		add("file %s", path)
	}
	for _, p := range processes(cairnExe, "guest-thaw-guard") {
		add("process %s", p)
	}
	if m.dom == nil || m.dom.State() != "shut off" {
		if out, err := m.Agent(l.limit(), `{"execute":"guest-fsfreeze-status"}`); err == nil && strings.Contains(out, "frozen") {
			add("the guest is frozen")
		}
		left = append(left, l.inQEMU(m, checkpoints)...)
	}
	if m.dom != nil {
		info := m.dom.Virsh("domjobinfo", m.name)
		if job := strings.Fields(info); len(job) >= 3 && job[2] != "None" {
			add("job %s", info)
		}
		if list := l.checkpoints(m); len(list) != checkpoints {
			add("checkpoints %q, must be %d", list, checkpoints)
		}
	}
	return left
}

// stateFiles lists what lies in the state directory, but what the agent makes
// once: directories, and its identity.
func (l *live) stateFiles() (files []string) {
	l.Helper()
	err := filepath.WalkDir(l.state, func(path string, e os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && e.Name() != "owner" && (!e.IsDir() || session.MatchString(e.Name())) {
			files = append(files, path)
		}
		return err
	})
	l.must(err)
	return files
}

// session is what the directory of a snapshot is called.
var session = regexp.MustCompile(`^s[0-9a-f]{24}$`)

// checkpoints lists those of a domain that are ours.
func (l *live) checkpoints(m *vm) (ours []string) {
	l.Helper()
	for _, name := range strings.Fields(m.dom.Virsh("checkpoint-list", "--name", m.name)) {
		if strings.HasPrefix(name, "cairn-") {
			ours = append(ours, name)
		}
	}
	return ours
}

// inQEMU asks the hypervisor's process for what a backup may leave in it.
func (l *live) inQEMU(m *vm, checkpoints int) (left []string) {
	l.Helper()
	for _, q := range []string{"query-jobs", "query-block-exports"} {
		var list []struct{ ID string }
		l.query(m, q, &list)
		for _, x := range list {
			left = append(left, q+": "+x.ID)
		}
	}
	var nodes []struct {
		Name    string `json:"node-name"`
		File    string
		Bitmaps []struct{ Name string } `json:"dirty-bitmaps"`
	}
	l.query(m, "query-named-block-nodes", &nodes)
	for _, n := range nodes {
		if strings.Contains(n.Name, "cairn") || strings.HasPrefix(n.Name, "backup-") || strings.HasPrefix(n.File, l.state) {
			left = append(left, "node "+n.Name+" of "+n.File)
		}
		ours := 0
		for _, b := range n.Bitmaps {
			if !strings.HasPrefix(b.Name, "cairn-") {
				left = append(left, "bitmap "+b.Name)
			} else {
				ours++
			}
		}
		if ours > checkpoints {
			left = append(left, fmt.Sprintf("%d bitmaps on %s", ours, n.Name))
		}
	}
	return left
}

// query executes a QMP command without arguments.
func (l *live) query(m *vm, command string, v any) {
	l.Helper()
	out := m.monitor(`{"execute":"` + command + `"}`)
	answer := struct{ Return any }{v}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		l.Fatalf("%s: %v: %s", command, err, out)
	}
}

// processes lists the command lines that have all the words in them.
func processes(words ...string) (found []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
next:
	for _, dir := range dirs {
		b, err := os.ReadFile(dir + "/cmdline")
		if err != nil || len(b) == 0 {
			continue // it has ended
		}
		line := strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " "))
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err != nil || pid == os.Getpid() {
			continue
		}
		found = append(found, filepath.Base(dir)+" "+line)
	}
	return found
}
