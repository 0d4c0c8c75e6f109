package libvirt

import (
	"strings"
	"testing"

	"cairn/client/source/libvirt/rpc"
)

// QEMU is not asked about the disks of a machine whose data is still being moved
// in: it can die of that. Other machines with NBD disks are asked.
func TestMachineThatIsBeingMovedIn(t *testing.T) {
	nbd := func(socket string) string {
		return `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/nowhere/a'/>
<backingStore type='network'><format type='raw'/><source protocol='nbd' name='vda'><host transport='unix' socket='` + socket + `'/></source><backingStore/></backingStore>
<target dev='vda' bus='virtio'/></disk>`
	}
	f := newFakeDaemon(fakeDom(1), fakeDom(2))
	f.agent = goodAgent
	f.xmls["vm1"] = fakeXML(f.doms[0], "connected", nbd("/run/cairn/restore-j1.sock")+strings.ReplaceAll(fakeDisks, "vda", "vdc"))
	f.xmls["vm2"] = fakeXML(f.doms[1], "connected", nbd("/run/other.sock"))
	asked := map[string]int{}
	f.info = func(dom rpc.Domain, _ string) (rpc.BlockInfo, error) {
		asked[dom.Name]++
		return rpc.BlockInfo{Capacity: 1 << 20}, nil
	}
	all, err := fakeSource(t, f).Machines(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	if asked["vm1"] != 0 || asked["vm2"] != 1 {
		t.Errorf("asked %v", asked)
	}
	if m := all[0]; len(m.Disks) != 3 || !strings.Contains(m.Problem, "instant restore") || m.Disks[2].Problem == "" {
		t.Errorf("the machine that is being moved in: %+v", m)
	}
	if m := all[1]; m.Problem != "" {
		t.Errorf("the other one: %+v", m)
	}
}
