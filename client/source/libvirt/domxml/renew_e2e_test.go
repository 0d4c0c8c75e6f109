//go:build e2e

package domxml

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// virsh runs a command against the libvirtd of this host.
func virsh(t *testing.T, input []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command("virsh", append([]string{"-c", "qemu:///system"}, args...)...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %q (packages libvirt-clients, libvirt-daemon-system, ovmf, swtpm; without systemd: libvirtd -d; virtlogd -d): %v: %s", args, err, out)
	}
	return string(out)
}

// TestE2EDefine: libvirt takes every rewritten definition, and says the same of
// the machine. There is no hardware virtualization where tests run, so that the
// type is qemu and what only KVM has goes.
func TestE2EDefine(t *testing.T) {
	for _, name := range definitions(t) {
		d := parsed(t, name)
		renewed(t, d)
		d.root.CreateAttr("type", "qemu")
		uuid := "cafe0000-0000-4000-8000-00000000" + strings.Repeat("0", 3) + "1"
		title := "cairn-res-define"
		xml := bytes.ReplaceAll(d.Bytes(), []byte("0c0ffee0-0000-4000-8000-000000000001"), []byte(uuid))
		xml = bytes.Replace(xml, []byte("<name>copy</name>"), []byte("<name>"+title+"</name>"), 1)
		t.Run(name, func(t *testing.T) {
			defer exec.Command("virsh", "-c", "qemu:///system", "undefine", "--keep-nvram", uuid).Run()
			virsh(t, xml, "define", "/dev/stdin", "--validate")
			got, err := Parse([]byte(virsh(t, nil, "dumpxml", "--inactive", uuid)))
			if err != nil {
				t.Fatal(err)
			}
			if got.UUID() != uuid || got.Name() != title || len(got.Disks()) != len(d.Disks()) || len(got.Interfaces()) != len(d.Interfaces()) {
				t.Errorf("libvirt has %s", got.Bytes())
			}
			for i, k := range got.Disks() {
				if w := d.Disks()[i]; k.Target != w.Target || k.Path != w.Path || k.Format != w.Format && w.Format != "" {
					t.Errorf("%+v became %+v", w, k)
				}
			}
			for i, n := range got.Interfaces() {
				if n.MAC != d.Interfaces()[i].MAC {
					t.Errorf("%+v", n)
				}
			}
			if d.Firmware().NVRAM != got.Firmware().NVRAM || d.TPM() != got.TPM() || d.GenID() != got.GenID() {
				t.Errorf("libvirt has %s", got.Bytes())
			}
		})
	}
}
