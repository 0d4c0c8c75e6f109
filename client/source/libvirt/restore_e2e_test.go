//go:build e2e

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"cairn/client/source"
	"cairn/client/source/libvirt/rpc"
)

// realHost is the libvirtd of this host with a machine of three disks, UEFI
// variables and a TPM. It has no system: its firmware runs, by software.
type realHost struct {
	*testing.T
	r    *restorer
	hv   *rpc.Conn
	dir  string
	name string
	dom  rpc.Domain
	spec source.RestoreSpec
	data map[string][]byte
}

func dialReal(t *testing.T) *rpc.Conn {
	c, err := rpc.Dial(t.Context(), "qemu:///system")
	if err != nil {
		t.Fatalf("libvirtd does not answer (packages libvirt-daemon-system, libvirt-clients, qemu-system-x86, ovmf, swtpm; without systemd start it with: libvirtd -d; virtlogd -d): %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newRealHost(t *testing.T) *realHost {
	dir, err := os.MkdirTemp("/var/lib/libvirt/images", "cairn-res-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &realHost{T: t, dir: dir, hv: dialReal(t), data: map[string][]byte{}}
	h.name = filepath.Base(dir)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c, err := rpc.Dial(ctx, "qemu:///system")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		doms, err := c.ListDomains(ctx, 0)
		if err != nil {
			t.Error(err)
		}
		for _, d := range doms {
			if strings.HasPrefix(d.Name, h.name) {
				c.Destroy(ctx, d, 0)
				if err := undefine(ctx, c, d, true); err != nil {
					t.Error(err)
				}
			}
		}
		os.RemoveAll(dir)
	})
	h.r = newRestorer(func(context.Context) (hypervisor, error) {
		if h.hv.Err() != nil { // libvirtd was restarted
			h.hv = dialReal(t)
		}
		return h.hv, nil
	}, func(n string) string { return source.IDOf(n, "vm") }, filepath.Join(dir, "state"))
	h.r.stopFor = time.Second
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	id := uuid.NewString()
	disks := ""
	for i, k := range []struct{ target, bus, format string }{{"vda", "virtio", "raw"}, {"sda", "scsi", "qcow2"}, {"sdb", "sata", "qcow2"}} {
		path, size := fmt.Sprintf("%s/%s.%s", dir, k.target, k.format), int64(8+i)<<20
		data := make([]byte, size)
		for range 20 {
			off := rnd.IntN(int(size) - 70_000)
			for at := range 65_536 {
				data[off+at] = byte(rnd.Uint32())
			}
		}
		h.data[k.target] = data
		raw := filepath.Join(t.TempDir(), "raw")
		if err := os.WriteFile(raw, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		h.run("qemu-img", "convert", "-f", "raw", "-O", k.format, raw, path)
		disks += fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='%s'/></disk>`, k.format, path, k.target, k.bus)
		h.spec.Disks = append(h.spec.Disks, source.RestoreDisk{Target: k.target, Path: path, Format: k.format, Size: size, Data: 20 << 16})
	}
	xml := fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><genid/><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/%s_VARS.fd</nvram></os>
<features><acpi/></features><devices>%s<controller type='scsi' index='0' model='virtio-scsi'/>
<interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
<serial type='file'><source path='/var/log/libvirt/qemu/%s-serial.log'/></serial>
<graphics type='vnc' port='5999' autoport='no'/>
<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices></domain>`, h.name, id, h.name, disks, h.name)
	if h.dom, err = h.hv.DefineXML(t.Context(), xml, 0); err != nil {
		t.Fatal(err)
	}
	// Its first run makes the variables and the TPM.
	if _, err := h.hv.Start(t.Context(), h.dom, 0); err != nil {
		t.Fatal(err)
	}
	if was, err := h.r.StopMachine(t.Context(), h.name); err != nil || !was {
		t.Fatal(was, err)
	}
	xml, err = h.hv.XMLDesc(t.Context(), h.dom, rpc.XMLInactive|rpc.XMLSecure)
	if err != nil {
		t.Fatal(err)
	}
	h.spec.ID, h.spec.Definition, h.spec.DefinitionKind, h.spec.MachineID = "r1", []byte(xml), "application/x-libvirt-domain+xml", h.name
	for i, path := range []string{"/var/lib/libvirt/qemu/nvram/" + h.name + "_VARS.fd", "/var/lib/libvirt/swtpm/" + id + "/tpm2/tpm2-00.permall"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		h.spec.StateFiles = append(h.spec.StateFiles, source.StateFile{Name: []string{"nvram", "tpm-0"}[i], Kind: source.StateKind(i), Path: path, Data: data})
	}
	return h
}

func (h *realHost) run(name string, args ...string) string {
	h.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		h.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

func (h *realHost) write(j source.Restore) {
	h.Helper()
	for _, k := range h.spec.Disks {
		w, err := j.Disk(h.Context(), k.Target)
		if err != nil {
			h.Fatal(err)
		}
		defer w.Abort()
		if _, err := w.WriteAt(h.data[k.Target], 0); err != nil {
			h.Fatal(err)
		}
		if err := w.Commit(h.Context()); err != nil {
			h.Fatal(err)
		}
	}
}

func (h *realHost) state(dom rpc.Domain) rpc.State {
	h.Helper()
	s, _, err := h.hv.DomainState(h.Context(), dom)
	if err != nil {
		h.Fatal(err)
	}
	return s
}

func (h *realHost) same(path, format, target string) {
	h.Helper()
	if string(rawOf(h.T, path, format)) != string(h.data[target]) {
		h.Errorf("%s differs from what was restored", path)
	}
}

func (h *realHost) left() {
	h.Helper()
	for _, dir := range []string{h.dir, h.dir + "/state/restores", h.r.nvram, h.r.swtpm} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.Contains(e.Name(), "cairn-restore") || strings.Contains(e.Name(), "cairn-old") || strings.HasSuffix(e.Name(), ".journal") {
				h.Errorf("left: %s/%s", dir, e.Name())
			}
		}
	}
}

// tpmOf returns the state of a domain's TPM as swtpm left it.
func tpmOf(t *testing.T, dom rpc.Domain) (data []byte) {
	data, err := os.ReadFile("/var/lib/libvirt/swtpm/" + dom.UUID.String() + "/tpm2/tpm2-00.permall")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestE2ERestoreNew(t *testing.T) {
	h := newRealHost(t)
	h.spec.New = &source.NewMachine{Title: h.name + " new"}
	j, err := h.r.PrepareRestore(t.Context(), h.spec)
	if err != nil {
		t.Fatal(err)
	}
	h.write(j)
	if err := j.Commit(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	dom, err := h.hv.LookupByName(t.Context(), h.spec.New.Title)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range h.spec.Disks {
		h.same(j.Paths()[k.Target], k.Format, k.Target)
	}
	if string(tpmOf(t, dom)) != string(h.spec.StateFiles[1].Data) {
		t.Error("the TPM is another one")
	}
	// It runs beside the original: nothing of them clashes.
	for _, d := range []rpc.Domain{h.dom, dom} {
		if _, err := h.hv.Start(t.Context(), d, 0); err != nil {
			t.Error(err)
		}
	}
	for _, w := range j.Warnings() {
		t.Log(w.Text)
	}
	if n := tpmOf(t, dom); len(n) != len(h.spec.StateFiles[1].Data) {
		t.Error("libvirt set the TPM up anew")
	}
	h.left()
}

func TestE2ERestoreInPlace(t *testing.T) {
	h := newRealHost(t)
	if _, err := h.hv.Start(t.Context(), h.dom, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.r.PrepareRestore(t.Context(), h.spec); !errors.Is(err, source.ErrMachineState) {
		t.Fatalf("while it runs: %v", err)
	}
	if was, err := h.r.StopMachine(t.Context(), h.name); err != nil || !was {
		t.Fatal(was, err)
	}
	// A start that fails: what was there comes back and still starts.
	j, err := h.r.PrepareRestore(t.Context(), h.spec)
	if err != nil {
		t.Fatal(err)
	}
	h.write(j)
	before := h.run("sha256sum", h.dir+"/vda.raw", h.dir+"/sda.qcow2", h.dir+"/sdb.qcow2")
	hidden := h.dir + "/sdb.away"
	h.r.step = func(name string) error {
		if name == "start" {
			return os.Rename(h.dir+"/sdb.qcow2", hidden)
		}
		return nil
	}
	err = j.Commit(t.Context(), true)
	h.r.step = func(string) error { return nil }
	os.Remove(hidden)
	if err == nil || !strings.Contains(err.Error(), "sdb.qcow2") {
		t.Fatalf("a start without a disk: %v", err)
	}
	if after := h.run("sha256sum", h.dir+"/vda.raw", h.dir+"/sda.qcow2", h.dir+"/sdb.qcow2"); after != before {
		t.Errorf("before %s, after %s", before, after)
	}
	h.left()
	j, err = h.r.PrepareRestore(t.Context(), h.spec)
	if err != nil {
		t.Fatal(err)
	}
	h.write(j)
	if err := j.Commit(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if s := h.state(h.dom); s != rpc.StateRunning {
		t.Errorf("it is %s", s)
	}
	for _, k := range h.spec.Disks {
		h.same(k.Path, k.Format, k.Target)
	}
	h.left()
}

// backing counts what is read.
type backing struct {
	data []byte
	read *atomic.Int64
}

func (b backing) Size() int64 { return int64(len(b.data)) }

func (b backing) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, b.data[off:])
	b.read.Add(int64(n))
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func TestE2ERestoreInstant(t *testing.T) {
	h := newRealHost(t)
	h.spec.New = &source.NewMachine{Title: h.name + " instant"}
	var read atomic.Int64
	disks := map[string]source.Backing{}
	for target, data := range h.data {
		disks[target] = backing{data, &read}
	}
	j, err := h.r.PrepareRestore(t.Context(), h.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Abort()
	begin := time.Now()
	if err := j.Instant(t.Context(), disks); err != nil {
		t.Fatal(err)
	}
	t.Logf("started after %s; %d bytes were read", time.Since(begin), read.Load())
	dom, err := h.hv.LookupByName(t.Context(), h.spec.New.Title)
	if err != nil {
		t.Fatal(err)
	}
	if s := h.state(dom); s != rpc.StateRunning {
		t.Fatalf("it is %s", s)
	}

	// This process goes away, and another one goes on.
	if err := j.(interface{ Release() error }).Release(); err != nil {
		t.Fatal(err)
	}
	if err := h.r.cleanUpRestores(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := h.state(dom); s != rpc.StateRunning {
		t.Fatalf("without the server it is %s", s)
	}
	h.spec.ID = "r2"
	j, err = h.r.PrepareRestore(t.Context(), h.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Abort()
	if err := j.Instant(t.Context(), disks); err != nil {
		t.Fatal(err)
	}
	var calls int
	var last int64
	err = j.Settle(t.Context(), func(done, total int64) {
		if calls++; done < last || done > total {
			t.Errorf("progress: %d after %d of %d", done, last, total)
		}
		last = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != 27<<20 {
		t.Errorf("progress ends at %d", last)
	}
	if s := h.state(dom); s != rpc.StateRunning {
		t.Errorf("at the end it is %s", s)
	}
	for _, flags := range []rpc.XMLFlags{0, rpc.XMLInactive} {
		xml, err := h.hv.XMLDesc(t.Context(), dom, flags)
		if err != nil || strings.Contains(xml, "nbd") || strings.Contains(xml, "error_policy") && flags != 0 {
			t.Errorf("%v, %s", err, xml)
		}
	}
	h.left()
	if _, err := os.Stat(h.r.sockets + "/restore-r1.sock"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is left")
	}
	// It does not need the server at its next start either.
	if _, err := h.r.StopMachine(t.Context(), j.Machine()); err != nil {
		t.Fatal(err)
	}
	for _, k := range h.spec.Disks {
		h.same(j.Paths()[k.Target], "qcow2", k.Target)
		if info := h.run("qemu-img", "info", j.Paths()[k.Target]); strings.Contains(info, "backing") {
			t.Error(info)
		}
	}
	if err := h.r.StartMachine(t.Context(), j.Machine()); err != nil {
		t.Error(err)
	}
}

func TestE2ERestoreInstantOff(t *testing.T) {
	h := newRealHost(t)
	h.spec.New = &source.NewMachine{Title: h.name + " off"}
	var read atomic.Int64
	disks := map[string]source.Backing{}
	for target, data := range h.data {
		disks[target] = backing{data, &read}
	}
	j, err := h.r.PrepareRestore(t.Context(), h.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Abort()
	if err := j.Instant(t.Context(), disks); err != nil {
		t.Fatal(err)
	}
	if _, err := h.r.StopMachine(t.Context(), j.Machine()); err != nil {
		t.Fatal(err)
	}
	if err := j.Settle(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, k := range h.spec.Disks {
		h.same(j.Paths()[k.Target], "qcow2", k.Target)
	}
	if err := h.r.StartMachine(t.Context(), j.Machine()); err != nil {
		t.Error(err)
	}
	h.left()
}

func TestE2ERestoreInstantAbort(t *testing.T) {
	h := newRealHost(t)
	h.spec.New = &source.NewMachine{Title: h.name + " abort"}
	var read atomic.Int64
	disks := map[string]source.Backing{}
	for target, data := range h.data {
		disks[target] = backing{data, &read}
	}
	j, err := h.r.PrepareRestore(t.Context(), h.spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Instant(t.Context(), disks); err != nil {
		t.Fatal(err)
	}
	if err := j.Abort(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.hv.LookupByName(t.Context(), h.spec.New.Title); !errors.Is(err, rpc.ErrNoDomain) {
		t.Errorf("it is still there: %v", err)
	}
	for _, path := range j.Paths() {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left", path)
		}
	}
	h.left()
}
