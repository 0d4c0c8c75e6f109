package server

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	pb "cairn/proto/cairn/v1"
)

// maxTitle bounds the name of a new machine in bytes: hypervisors make names of
// files out of it.
const maxTitle = 200

// restoreHost checks the host of a restore, which may be left out.
func (f *fields) restoreHost(n PointName, r *pb.RestoreRequest) {
	if r.Host == "" {
		return
	}
	if h := f.host("host", r.Host); h.Host != "" && n.Subscription != "" && h.Subscription != n.Subscription {
		f.add("host", "is of another subscription than the recovery point")
	}
}

// restoreTarget checks what a restore is to make, as far as that can be told
// without knowing the point.
func (f *fields) restoreTarget(r *pb.RestoreRequest) {
	switch t := r.Target.(type) {
	case *pb.RestoreRequest_NewMachine:
		f.machineTitle("new_machine.title", t.NewMachine.GetTitle())
		if d := t.NewMachine.GetDirectory(); d != "" {
			f.hostPath("new_machine.directory", d)
		}
	case *pb.RestoreRequest_Disks:
		f.restoreDisks(t.Disks)
	case *pb.RestoreRequest_InPlace:
	default:
		f.add("target", "one of new_machine, disks and in_place must be given")
	}
}

// machineTitle checks the name that a machine is to get on its hypervisor.
func (f *fields) machineTitle(path, s string) {
	switch {
	case strings.TrimSpace(s) == "":
		f.add(path, "must be given: the name of the new machine")
	case !utf8.ValidString(s):
		f.add(path, "is not valid UTF-8")
	case len(s) > maxTitle:
		f.add(path, "has %d bytes; at most %d are allowed", len(s), maxTitle)
	case s == "." || s == ".." || strings.Contains(s, "/"):
		f.add(path, "%s is no name of a machine: it must not be %q or %q, nor contain %q", quote(s), ".", "..", "/")
	case strings.TrimSpace(s) != s:
		f.add(path, "%s begins or ends with a space", quote(s))
	case strings.ContainsFunc(s, isControl):
		f.add(path, "%s has a control character", quote(s))
	}
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }

// hostPath checks the path of a file or directory on a host.
func (f *fields) hostPath(at, s string) {
	switch {
	case !utf8.ValidString(s):
		f.add(at, "is not valid UTF-8")
	case len(s) > 4095:
		f.add(at, "has %d bytes; at most 4095 are allowed", len(s))
	case strings.ContainsFunc(s, isControl):
		f.add(at, "%s has a control character", quote(s))
	case !strings.HasPrefix(s, "/"):
		f.add(at, "%s must be an absolute path", quote(s))
	case path.Clean(s) != s:
		f.add(at, "%s must be written without %q, %q and superfluous slashes: %s", quote(s), ".", "..", quote(path.Clean(s)))
	}
}

func (f *fields) restoreDisks(d *pb.RestoreDisks) {
	if d.GetDirectory() != "" {
		f.hostPath("disks.directory", d.Directory)
	}
	switch d.GetFormat() {
	case "", "raw", "qcow2":
	default:
		f.add("disks.format", "is %s; it must be %q or %q", quote(d.Format), "raw", "qcow2")
	}
	if n := len(d.GetTargets()); n > maxDisks {
		f.add("disks.targets", "has %d disks; at most %d are allowed", n, maxDisks)
		return
	}
	if n := len(d.GetVolumes()); n > maxDisks {
		f.add("disks.volumes", "has %d disks; at most %d are allowed", n, maxDisks)
		return
	}
	wanted := make(map[string]bool)
	for i, t := range d.GetTargets() {
		at := fmt.Sprintf("disks.targets[%d]", i)
		f.text(at, t, 64)
		switch {
		case t == "":
			f.add(at, "must not be empty")
		case wanted[t]:
			f.add(at, "%s is there twice", quote(t))
		}
		wanted[t] = true
	}
	at := make(map[string]string) // path → target
	for _, t := range sortedKeys(d.GetVolumes()) {
		field := fmt.Sprintf("disks.volumes[%s]", quote(t))
		f.text(field, t, 64)
		volume := d.Volumes[t]
		f.hostPath(field, volume)
		if len(wanted) > 0 && !wanted[t] {
			f.add(field, "is a disk that targets does not name")
		}
		if other, ok := at[volume]; ok {
			f.add(field, "%s is the volume of disk %s too", quote(volume), quote(other))
		}
		at[volume] = t
	}
	if d.GetDirectory() == "" && len(d.GetVolumes()) == 0 {
		f.add("disks.directory", "must be given, unless volumes names a place for every disk")
	}
}
