package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
)

// fakeDomain is a domain of a fakeHypervisor.
type fakeDomain struct {
	name        string
	xml         string
	state       rpc.State
	reason      int
	saved       bool
	checkpoints []string
}

// fakeHypervisor is a libvirt in memory.
type fakeHypervisor struct {
	mu      sync.Mutex
	domains map[rpc.UUID]*fakeDomain
	subs    []chan rpc.Event
	volumes map[string]string
	calls   []string
	// fail makes a call fail, by its name.
	fail map[string]error
	// deaf guests do not shut down.
	deaf bool
	lost bool // the connection
	// pull is what a block pull does; nil lets it succeed.
	pull func(d *fakeDomain, target string) error
}

func newFake() *fakeHypervisor {
	return &fakeHypervisor{domains: map[rpc.UUID]*fakeDomain{}, volumes: map[string]string{}, fail: map[string]error{}}
}

func libvirtError(c rpc.Code) error { return &rpc.Error{Code: c, Text: "fake"} }

func (h *fakeHypervisor) call(name string) error {
	h.calls = append(h.calls, name)
	return h.fail[name]
}

func (h *fakeHypervisor) get(dom rpc.Domain) (*fakeDomain, error) {
	if d := h.domains[dom.UUID]; d != nil {
		return d, nil
	}
	return nil, libvirtError(rpc.ErrNoDomain)
}

func (h *fakeHypervisor) emit(e rpc.Event) {
	for _, s := range h.subs {
		s <- e
	}
}

func (h *fakeHypervisor) ListDomains(context.Context, rpc.ListFlags) (ds []rpc.Domain, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for u, d := range h.domains {
		ds = append(ds, rpc.Domain{Name: d.name, UUID: u})
	}
	return ds, h.call("list")
}

func (h *fakeHypervisor) LookupByName(_ context.Context, name string) (rpc.Domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for u, d := range h.domains {
		if d.name == name {
			return rpc.Domain{Name: name, UUID: u}, nil
		}
	}
	return rpc.Domain{}, libvirtError(rpc.ErrNoDomain)
}

func (h *fakeHypervisor) LookupByUUID(_ context.Context, u rpc.UUID) (rpc.Domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[u]; d != nil {
		return rpc.Domain{Name: d.name, UUID: u}, nil
	}
	return rpc.Domain{}, libvirtError(rpc.ErrNoDomain)
}

func (h *fakeHypervisor) DomainState(_ context.Context, dom rpc.Domain) (rpc.State, int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.get(dom)
	if h.lost { // once
		h.lost, err = false, rpc.ErrDisconnected
	}
	if err != nil {
		return 0, 0, err
	}
	return d.state, d.reason, nil
}

func (h *fakeHypervisor) XMLDesc(_ context.Context, dom rpc.Domain, _ rpc.XMLFlags) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.get(dom)
	if err != nil {
		return "", err
	}
	return d.xml, nil
}

func (h *fakeHypervisor) DefineXML(_ context.Context, xml string, _ rpc.DefineFlags) (rpc.Domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.call("define"); err != nil {
		return rpc.Domain{}, err
	}
	p, err := domxml.Parse([]byte(xml))
	if err != nil {
		return rpc.Domain{}, err
	}
	u, err := rpc.ParseUUID(p.UUID())
	if err != nil {
		return rpc.Domain{}, err
	}
	d := h.domains[u]
	if d == nil {
		d = &fakeDomain{name: p.Name(), state: rpc.StateShutoff}
		h.domains[u] = d
	}
	d.xml = xml
	return rpc.Domain{Name: d.name, UUID: u}, nil
}

func (h *fakeHypervisor) Undefine(_ context.Context, dom rpc.Domain, _ rpc.UndefineFlags) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.domains, dom.UUID)
	return h.call("undefine")
}

func (h *fakeHypervisor) Start(_ context.Context, dom rpc.Domain, _ rpc.StartFlags) (rpc.Domain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.get(dom)
	if err == nil {
		err = h.call("start")
	}
	if err == nil || errors.Is(err, rpc.ErrDisconnected) { // the answer is lost, not the call
		d.state = rpc.StateRunning
	}
	if err != nil {
		h.lost = errors.Is(err, rpc.ErrDisconnected)
	}
	return dom, err
}

func (h *fakeHypervisor) stop(dom rpc.Domain) {
	h.domains[dom.UUID].state = rpc.StateShutoff
	h.emit(rpc.Event{Kind: rpc.EventLifecycle, Domain: dom, What: rpc.LifecycleStopped})
}

func (h *fakeHypervisor) Shutdown(_ context.Context, dom rpc.Domain, _ rpc.ShutdownFlags) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.call("shutdown"); err != nil || h.deaf {
		return err
	}
	h.stop(dom)
	return nil
}

func (h *fakeHypervisor) Destroy(_ context.Context, dom rpc.Domain, _ rpc.DestroyFlags) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.call("destroy"); err != nil {
		return err
	}
	h.stop(dom)
	return nil
}

func (h *fakeHypervisor) Resume(_ context.Context, dom rpc.Domain) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.domains[dom.UUID].state = rpc.StateRunning
	return h.call("resume")
}

func (h *fakeHypervisor) HasManagedSave(_ context.Context, dom rpc.Domain) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.get(dom)
	return err == nil && d.saved, err
}

func (h *fakeHypervisor) VolumePath(_ context.Context, pool, volume string) (string, error) {
	if p := h.volumes[pool+"/"+volume]; p != "" {
		return p, nil
	}
	return "", libvirtError(rpc.ErrNoStorageVolume)
}

func (h *fakeHypervisor) BlockPull(_ context.Context, dom rpc.Domain, target string, _ uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.get(dom)
	if err == nil {
		err = h.call("pull")
	}
	if err != nil {
		return err
	}
	if h.pull != nil {
		if err := h.pull(d, target); err != nil {
			return err
		}
	} else if err := d.drop(target); err != nil {
		return err
	}
	h.emit(rpc.Event{Kind: rpc.EventBlockJob, Domain: dom, Device: target})
	return nil
}

// drop has the definition say that the disk is complete.
func (d *fakeDomain) drop(target string) error {
	p, err := domxml.Parse([]byte(d.xml))
	if err != nil {
		return err
	}
	k, _ := p.Disk(target)
	if _, err := p.SetDisk(target, domxml.Place{Path: k.Path, Format: k.Format}); err != nil {
		return err
	}
	d.xml = string(p.Bytes())
	return nil
}

func (h *fakeHypervisor) BlockJob(context.Context, rpc.Domain, string) (rpc.BlockJob, bool, error) {
	return rpc.BlockJob{}, false, nil
}

func (h *fakeHypervisor) BlockJobAbort(context.Context, rpc.Domain, string, rpc.BlockJobAbortFlags) error {
	return nil
}

func (h *fakeHypervisor) ListCheckpoints(_ context.Context, dom rpc.Domain, _ rpc.CheckpointListFlags) (cs []rpc.Checkpoint, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.get(dom)
	if err != nil {
		return nil, err
	}
	for _, c := range d.checkpoints {
		cs = append(cs, rpc.Checkpoint{Name: c, Domain: dom})
	}
	return cs, nil
}

func (h *fakeHypervisor) DeleteCheckpoint(_ context.Context, cp rpc.Checkpoint, f rpc.CheckpointDeleteFlags) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f != rpc.CheckpointMetadataOnly {
		return libvirtError(rpc.ErrOperationInvalid)
	}
	d, err := h.get(cp.Domain)
	if err == nil {
		d.checkpoints = slices.DeleteFunc(d.checkpoints, func(c string) bool { return c == cp.Name })
	}
	return err
}

func (h *fakeHypervisor) Subscribe(ctx context.Context) (<-chan rpc.Event, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := make(chan rpc.Event, 100)
	h.subs = append(h.subs, s)
	return s, h.call("subscribe")
}

// bench is a host with a machine "web" of three disks.
type bench struct {
	t      *testing.T
	h      *fakeHypervisor
	r      *restorer
	dir    string
	dom    rpc.Domain
	spec   source.RestoreSpec
	rnd    *rand.Rand
	wanted map[string][]byte
}

const benchUUID = "8c9f9bd2-5d5a-4a2c-9bd5-1f4d56c0a001"

func newBench(t *testing.T) *bench {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := &bench{t: t, h: newFake(), dir: t.TempDir(), rnd: rand.New(rand.NewPCG(seed, 0)), wanted: map[string][]byte{}}
	b.r = b.restorer()
	for _, d := range []string{b.r.images, b.r.nvram, b.r.swtpm + "/" + benchUUID + "/tpm2", b.dir + "/state"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	disk := func(target, format string) string {
		return fmt.Sprintf(`<disk type="file" device="disk"><driver name="qemu" type="%s"/><source file="%s/web-%s"/><target dev="%s" bus="virtio"/></disk>`, format, b.r.images, target, target)
	}
	xml := `<domain type="qemu"><name>web</name><uuid>` + benchUUID + `</uuid><os><type>hvm</type><nvram>` + b.r.nvram + `/web_VARS.fd</nvram></os><devices>` +
		disk("vda", "raw") + disk("vdb", "qcow2") + disk("vdc", "vmdk") + `<tpm><backend type="emulator" version="2.0"/></tpm></devices></domain>`
	var err error
	if b.dom, err = b.h.DefineXML(t.Context(), xml, 0); err != nil {
		t.Fatal(err)
	}
	b.h.domains[b.dom.UUID].checkpoints = []string{"cairn-1", "mine"}
	b.spec = source.RestoreSpec{ID: "r1", Definition: []byte(xml), DefinitionKind: "application/x-libvirt-domain+xml", MachineID: "web",
		StateFiles: []source.StateFile{
			{Name: "nvram", Kind: source.StateNVRAM, Path: b.r.nvram + "/web_VARS.fd", Data: []byte("new vars")},
			{Name: "tpm-0", Kind: source.StateTPM, Path: b.r.swtpm + "/" + benchUUID + "/tpm2/tpm2-00.permall", Data: []byte("new tpm")},
		}}
	for i, k := range []source.RestoreDisk{{Target: "vda", Format: "raw"}, {Target: "vdb", Format: "qcow2"}, {Target: "vdc", Format: "vmdk"}} {
		k.Path, k.Size, k.Data = fmt.Sprintf("%s/web-%s", b.r.images, k.Target), int64(1+i)<<20, 1<<20
		b.spec.Disks = append(b.spec.Disks, k)
		b.put(k.Path, "old "+k.Target)
		data := make([]byte, k.Size)
		for at := 0; at < 1000; at++ {
			data[at+b.rnd.IntN(len(data)-1000)] = byte(b.rnd.Uint32())
		}
		b.wanted[k.Target] = data
	}
	b.put(b.r.nvram+"/web_VARS.fd", "old vars")
	b.put(b.r.swtpm+"/"+benchUUID+"/tpm2/tpm2-00.permall", "old tpm")
	return b
}

// restorer is one of another process over the same host.
func (b *bench) restorer() *restorer {
	r := newRestorer(func(context.Context) (hypervisor, error) { return b.h, nil }, func(n string) string { return source.IDOf(n, "vm") }, b.dir+"/state")
	r.images, r.nvram, r.swtpm, r.sockets = b.dir+"/images", b.dir+"/nvram", b.dir+"/swtpm", b.dir+"/run"
	r.lookEvery = time.Millisecond
	return r
}

func (b *bench) put(path, text string) {
	b.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		b.t.Fatal(err)
	}
}

// tree is every file of the host with its contents.
func (b *bench) tree() map[string]string {
	b.t.Helper()
	files := map[string]string{}
	for _, dir := range []string{"images", "nvram", "swtpm", "state"} {
		err := filepath.WalkDir(filepath.Join(b.dir, dir), func(path string, e os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(path, b.dir+"/")
			if e.IsDir() {
				if name != "state/restores" {
					files[name] = "directory"
				}
				return nil
			}
			data, err := os.ReadFile(path)
			files[name] = string(data)
			return err
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return files
}

// write writes all disks of a restore.
func (b *bench) write(j source.Restore) error {
	for _, k := range b.spec.Disks {
		w, err := j.Disk(b.t.Context(), k.Target)
		if err != nil {
			return err
		}
		defer w.Abort()
		if _, err := w.WriteAt(b.wanted[k.Target], 0); err != nil {
			return err
		}
		if err := w.Commit(b.t.Context()); err != nil {
			return err
		}
	}
	return nil
}

// same compares an image with what was to be written.
func (b *bench) same(path, format, target string) {
	b.t.Helper()
	raw := rawOf(b.t, path, format)
	if !bytes.Equal(raw, b.wanted[target]) {
		b.t.Errorf("%s differs from what was restored", path)
	}
}
