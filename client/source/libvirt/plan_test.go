package libvirt

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
)

func planDisk(target, format string, size int64) disk {
	return disk{domxml.Disk{Target: target}, source.Disk{Target: target, Format: format, Size: size, Path: "/nowhere/" + target}}
}

func planSince() *checkpoint {
	return &checkpoint{name: "cairn-old", note: note{noteBy, "me", map[string]int64{"vda": 1, "vdb": 1, "vdd": 1}},
		sound: map[string]bool{"vda": true, "vdb": false, "vdd": true}}
}

func TestPlan(t *testing.T) {
	shared := planDisk("vdf", "qcow2", 1)
	shared.Shareable = true
	disks := []disk{planDisk("vda", "qcow2", 1), planDisk("vdb", "qcow2", 1), planDisk("vdc", "qcow2", 1), planDisk("vdd", "qcow2", 2), planDisk("vde", "raw", 1), shared}
	p := makePlan(disks, []string{"none"}, "cairn-new", "me", planSince(), "")
	var texts []string
	for _, w := range p.warnings() {
		texts = append(texts, w.Text)
	}
	for i, want := range []string{"vdb is read in full: its bitmap", "vdc is read in full: it is new", "vdd is read in full: it was resized from 1 to 2", "vdf is shared"} {
		if i >= len(texts) || !strings.Contains(texts[i], want) {
			t.Errorf("warnings %q, want %q", texts, want)
		}
	}
	if x := p.backup("/s", "/d"); !strings.Contains(x, `<disk name="vda" backup="yes" type="file" backupmode="incremental" incremental="cairn-old" exportname="vda" exportbitmap="dirty"><scratch file="/d/vda.scratch">`) ||
		strings.Count(x, `backupmode="full"`) != 5 {
		t.Error(x)
	}
	if x := p.checkpoint(); strings.Count(x, `checkpoint="bitmap"`) != 4 || strings.Count(x, `checkpoint="no"`) != 2 || !strings.Contains(x, "owner") {
		t.Error(x)
	}
	if !p.distrust("missing or broken bitmap 'cairn-old' for disk 'vda'") || p.incremental() || p.distrust("again") {
		t.Error("vda is still incremental")
	}
	raw := makePlan([]disk{planDisk("vda", "raw", 1)}, nil, "cairn-new", "me", nil, "why")
	if raw.name != "" || raw.checkpoint() != "" || len(raw.warnings()) > 0 {
		t.Errorf("%+v", raw)
	}
	none := makePlan(disks, []string{"vda", "vdf"}, "cairn-new", "me", nil, "changed blocks are not known")
	if w := none.warnings(); len(w) != 1 || w[0].Kind != source.WarnTracking || strings.Count(none.backup("/s", "/d"), `backup="no"`) != 2 {
		t.Errorf("%+v", w)
	}
}

// A backup never fails for the tracking's sake.
func TestBegin(t *testing.T) {
	fail := func(code rpc.Code, text string) error { return &rpc.Error{Code: code, Text: text} }
	for _, c := range []struct {
		name    string
		answers []error // of the attempts in turn; then success
		want    error
		full    int
		tracked bool
	}{
		{name: "good", full: 1, tracked: true},
		{name: "checkpoint gone", answers: []error{fail(rpc.ErrNoCheckpoint, "Checkpoint 'x' for incremental backup of disk 'vda' not found")}, full: 2, tracked: true},
		{name: "one bitmap", answers: []error{fail(rpc.ErrCheckpointInconsistent, "missing or broken bitmap 'x' for disk 'vda'")}, full: 2, tracked: true},
		{name: "nobody is named", answers: []error{fail(rpc.ErrCheckpointInconsistent, "défectueux")}, full: 3, tracked: true},
		{name: "no bitmap can be made", answers: []error{fail(rpc.ErrInternal, "Cannot store dirty bitmaps")}, full: 3},
		{name: "nothing helps", answers: []error{fail(rpc.ErrInternal, "a"), fail(rpc.ErrInternal, "b")}, want: rpc.ErrInternal},
		{name: "no room", answers: []error{fail(rpc.ErrSystem, "cannot create: No space left on device")}, want: source.ErrSnapshotSpace},
		{name: "block job", answers: []error{fail(rpc.ErrInternal, "disk 'vda' has a blockjob assigned")}, want: source.ErrMachineState},
		{name: "another job", answers: []error{fail(rpc.ErrOperationTimeout, "cannot acquire state change lock")}, want: source.ErrMachineState},
		{name: "gone", answers: []error{rpc.ErrDisconnected}, want: source.ErrHypervisor},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeDaemon()
			var last, lastMark string
			f.begin = func(backup, mark string) error {
				last, lastMark = backup, mark
				if len(c.answers) == 0 {
					return nil
				}
				err := c.answers[0]
				c.answers = c.answers[1:]
				return err
			}
			since := planSince()
			since.sound["vdd"] = true
			p := &snapshot{s: fakeSource(t, f), d: &domain{}, plan: makePlan(
				[]disk{planDisk("vda", "qcow2", 1), planDisk("vdd", "qcow2", 1), planDisk("vde", "raw", 1)}, nil, "cairn-new", "me", since, "")}
			err := p.begin(t.Context(), f)
			if !errors.Is(err, c.want) || err == nil && (strings.Count(last, `"full"`) != c.full || (lastMark != "") != c.tracked) {
				t.Errorf("%v, %s, %s", err, last, lastMark)
			}
			if w := len(p.plan.warnings()); err == nil && (w > 0) != (c.name != "good") {
				t.Errorf("%+v", p.plan.warnings())
			}
		})
	}
}

// Only checkpoints that this state directory made are deleted; one with a missing
// bitmap disk by disk.
func TestPrune(t *testing.T) {
	dom := fakeDom(1)
	f := newFakeDaemon(dom)
	s := fakeSource(t, f)
	owner, err := s.ownerID()
	if err != nil {
		t.Fatal(err)
	}
	ours := func(name, owner string) string {
		p := makePlan([]disk{planDisk("vda", "qcow2", 1), planDisk("vdb", "qcow2", 1)}, nil, name, owner, nil, "")
		return p.checkpoint()
	}
	f.marks["cairn-keep"], f.marks["cairn-1"] = ours("cairn-keep", owner), ours("cairn-1", owner)
	f.marks["cairn-other"], f.marks["bob"] = ours("cairn-other", "somebody"), ours("bob", owner)
	f.marks["cairn-open"], f.marks["cairn-plain"] = ours("cairn-open", owner), "<domaincheckpoint><name>cairn-plain</name></domaincheckpoint>"
	s.open["cairn-open"] = true
	f.broken["vda"] = true
	if err := s.prune(t.Context(), f, dom, "cairn-keep"); err != nil {
		t.Error(err)
	}
	if _, ok := f.marks["cairn-1"]; ok || len(f.marks) != 5 {
		t.Errorf("left: %v", f.marks)
	}
	want := []string{"fail", "delete cairn-1 2", "redefine", "fail", "delete cairn-1 2", "redefine", "delete cairn-1 0"}
	if !slices.Equal(f.log, want) {
		t.Errorf("%q, want %q", f.log, want)
	}
	again := fakeSource(t, f)
	again.state = s.state
	if other, err := again.ownerID(); err != nil || other != owner {
		t.Errorf("owner %q then %q, %v", owner, other, err)
	}
}

func TestEndJob(t *testing.T) {
	f := newFakeDaemon(fakeDom(1))
	f.job = "<domainbackup mode='pull'><server transport='unix' socket='/x'/></domainbackup>"
	owns := func(text string) bool { return strings.Contains(text, "/y") }
	if err := endJob(context.Background(), f, fakeDom(1), owns); err != nil || f.job == "" {
		t.Error("somebody else's job was ended", err)
	}
	f.job = strings.ReplaceAll(f.job, "/x", "/y")
	if err := endJob(context.Background(), f, fakeDom(1), owns); err != nil || f.job != "" {
		t.Error("our job was not ended", err)
	}
}

func TestStateFiles(t *testing.T) {
	s := fakeSource(t, newFakeDaemon())
	dir := t.TempDir()
	s.restorer.swtpm = dir
	os.MkdirAll(filepath.Join(dir, "u", "tpm2"), 0o700)
	for name, data := range map[string]string{"nvram.fd": "vars", "u/tpm2/tpm2-00.permall": "state", "u/tpm2/.lock": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parse := func(nvram string) *domxml.Domain {
		d, err := domxml.Parse([]byte(`<domain type='kvm'><name>x</name><os><type>hvm</type><nvram>` + nvram + `</nvram></os><devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices></domain>`))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	files, warnings := s.stateFiles(parse(filepath.Join(dir, "nvram.fd")), "u")
	if len(warnings) > 0 || len(files) != 2 || files[0].Name != "nvram" || string(files[0].Data) != "vars" || files[1].Name != "tpm-0" || files[1].Kind != source.StateTPM {
		t.Errorf("%+v, %+v", files, warnings)
	}
	files, warnings = s.stateFiles(parse("/nowhere/x"), "v")
	if len(files) != 0 || len(warnings) != 2 || warnings[0].Kind != source.WarnSnapshot {
		t.Errorf("%+v, %+v", files, warnings)
	}
}

func TestParseLabel(t *testing.T) {
	for label, want := range map[string][3]int{"+107:+108": {107, 108, 1}, "0:0": {0, 0, 1}, "nobody-there:x": {}, "": {}} {
		uid, gid, ok := parseLabel(label)
		if ok != (want[2] == 1) || ok && (uid != want[0] || gid != want[1]) {
			t.Errorf("%s: %d %d %v", label, uid, gid, ok)
		}
	}
}
