package qemu

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/client/source"
	"cairn/client/source/qmp"
)

// put writes a descriptor.
func (b *testbed) put(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *testbed) machines() map[string]source.Machine {
	b.t.Helper()
	list, err := b.Machines(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	if !slices.IsSortedFunc(list, func(x, y source.Machine) int { return strings.Compare(x.ID, y.ID) }) {
		b.t.Errorf("not sorted: %+v", list)
	}
	all := map[string]source.Machine{}
	for _, m := range list {
		all[m.ID] = m
	}
	return all
}

// All kinds of devices: only disks are disks, and they are called after what
// their owner named.
func TestDisks(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	v.quit()
	more := map[string]string{}
	for _, name := range []string{"anon", "drive", "node", "ro", "floppy", "cd"} {
		more[name] = v.newImage(name, "raw").path
	}
	v.extra = []string{
		"-uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
		"-device", "virtio-scsi-pci",
		"-drive", "if=none,id=Drive_2,format=raw,file=" + more["drive"], "-device", "scsi-hd,drive=Drive_2",
		"-blockdev", "driver=raw,node-name=data,file.driver=file,file.filename=" + more["node"], "-device", "virtio-blk-pci,drive=data",
		"-blockdev", "driver=throttle,node-name=slow,throttle-group=g,file.driver=raw,file.file.driver=file,file.file.filename=" + more["anon"],
		"-object", "throttle-group,id=g", "-device", "virtio-blk-pci,drive=slow,id=slow",
		"-drive", "if=none,id=ro,format=raw,readonly=on,file=" + more["ro"], "-device", "virtio-blk-pci,drive=ro,id=ro",
		"-drive", "if=none,id=cd,format=raw,media=cdrom,file=" + more["cd"], "-device", "ide-cd,drive=cd",
		"-drive", "if=none,id=none,media=cdrom", "-device", "ide-cd,drive=none,bus=ide.3",
	}
	v.start()
	b := newSource(t, v)
	m := b.machines()["web"]
	if m.Title != "web" || m.State != source.StatePaused || m.HypervisorID != "6ba7b810-9dad-11d1-80b4-00c04fd430c8" || m.Problem != "" || m.Agent != source.AgentNotConfigured {
		t.Errorf("%+v", m)
	}
	var got []string
	for _, d := range m.Disks {
		got = append(got, d.Target+" "+d.Format+" "+filepath.Base(d.Path))
		if d.Size != 8*mib {
			t.Errorf("%+v", d)
		}
	}
	slices.Sort(got)
	want := []string{"data raw web-node.raw", "drive-2 raw web-drive.raw", "slow raw web-anon.raw", "vda qcow2 web-vda.qcow2"}
	if !slices.Equal(got, want) {
		t.Errorf("disks %q, want %q", got, want)
	}
	// A snapshot in progress does not hide what is below it.
	snap := b.take(v, source.SnapshotOptions{})
	if again := b.machines()["web"]; len(again.Disks) != 4 || again.Disks[0].Format != m.Disks[0].Format {
		t.Errorf("during a snapshot: %+v", again.Disks)
	}
	b.clean(v, b.keep(snap), 4)
}

func TestDescriptors(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	b.put("off.json", `{"name": "Off Line", "qmp": "nothing.here"}`)
	b.put("typo.json", `{"name": "typo", "qmp": "x", "agnt": "y"}`)
	b.put("empty.json", ``)
	b.put("noname.json", `{"qmp": "x"}`)
	b.put("noqmp.json", `{"name": "noqmp"}`)
	b.put("two1.json", `{"name": "two", "qmp": "x"}`)
	b.put("two2.json", `{"name": "TWO", "qmp": "y"}`)
	b.put("after.json", `{"name": "after", "qmp": "y"} {}`)
	b.put("readme.txt", `no descriptor`)
	b.put(".hidden.json", `no descriptor`)
	b.put("busy.json", `{"name": "busy", "qmp": "`+v.socket()+`-test"}`) // the test is connected there
	all := b.machines()
	for id, problem := range map[string]string{
		"web": "", "off-line": "QEMU does not run", "typo": `unknown field "agnt"`, "empty": "empty.json", "noname": `"name" is missing`,
		"noqmp": `"qmp"`, "two": "more than one descriptor", "after": "after its end", "busy": "another program",
	} {
		m, ok := all[id]
		if !ok || (m.Problem == "") != (problem == "") || !strings.Contains(m.Problem, problem) {
			t.Errorf("%s: %v, problem %q, want %q", id, ok, m.Problem, problem)
		}
		delete(all, id)
		if problem == "" {
			continue
		}
		if _, err := b.Snapshot(t.Context(), id, source.SnapshotOptions{}); err == nil {
			t.Errorf("%s: a snapshot was taken", id)
		}
	}
	if len(all) > 0 {
		t.Errorf("more machines: %v", all)
	}
	if _, err := b.Snapshot(t.Context(), "nobody", source.SnapshotOptions{}); err == nil {
		t.Error("snapshot of nobody")
	}
	if _, err := New(Options{Dir: filepath.Join(b.dir, "none")}); err == nil {
		t.Error("a directory that does not exist")
	}
}

// Others can use the monitor between our visits.
func TestMonitorIsShared(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	for range 5 {
		b.machines()
		c, err := qmp.Dial(t.Context(), v.socket())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- b.Watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			case <-ctx.Done():
			}
		})
	}()
	// sees waits until the machine is as expected; something must tell to look.
	sees := func(what string, ok func(m source.Machine, there bool) bool) {
		t.Helper()
		for {
			select {
			case <-changes:
			case err := <-ended:
				t.Fatalf("watch ended: %v", err)
			}
			if m, there := b.machines()["web"]; ok(m, there) {
				return
			}
			t.Logf("not yet: %s", what)
		}
	}
	sees("nothing", func(_ source.Machine, there bool) bool { return !there })
	v.describe(b.dir)
	sees("the machine", func(m source.Machine, there bool) bool { return there && m.State == source.StatePaused })
	v.do("block_resize", args{"device": "drive-vda", "size": 16 * mib})
	sees("the new size", func(m source.Machine, _ bool) bool { return m.Disks[0].Size == 16*mib })
	v.do("cont", nil)
	sees("running", func(m source.Machine, _ bool) bool { return m.State == source.StateRunning })
	v.kill()
	sees("its end", func(m source.Machine, _ bool) bool { return m.State == source.StateStopped && m.Problem != "" })
	os.Remove(filepath.Join(b.dir, "web.json"))
	sees("nothing", func(_ source.Machine, there bool) bool { return !there })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "vda", 25: "vdz", 26: "vdaa", 701: "vdzz", 702: "vdaaa"} {
		if got := letters(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	// Names that become the same are told apart.
	i := inspection{nodes: []blockNode{{NodeName: "a"}, {NodeName: "b"}}}
	var devices []blockDevice
	text := `[{"device": "d_1", "qdev": "/machine/x", "inserted": {"node-name": "a"}}, {"device": "D-1", "qdev": "/machine/y", "inserted": {"node-name": "b"}},
		{"device": "", "qdev": "/machine/z", "inserted": {"node-name": "#block1"}}]`
	if err := json.Unmarshal([]byte(text), &devices); err != nil {
		t.Fatal(err)
	}
	i.findDisks(devices, []blockStats{
		{NodeName: "a", Device: "d_1", QDev: "/machine/x"}, {NodeName: "b", Device: "D-1", QDev: "/machine/y"}, {NodeName: "#block1", QDev: "/machine/z"}})
	if len(i.disks) != 3 || i.disks[0].Target != "d-1" || !strings.HasPrefix(i.disks[1].Target, "d-1-") || i.disks[2].Target != "vdc" || i.disks[2].Problem == "" {
		t.Errorf("%+v %+v %+v", i.disks[0], i.disks[1], i.disks[2])
	}
}
