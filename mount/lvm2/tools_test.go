package lvm2_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"cairn/mount/blockdev"
	"cairn/mount/filesys/fstest"
	"cairn/mount/lvm2"
)

// group is a volume group that the lvm tools of this machine make on loop devices,
// without device-mapper.
type group struct {
	t     *testing.T
	loops []string
	files []string
}

func newGroup(t *testing.T, disks int) *group {
	g := &group{t: t}
	for i := range disks {
		file := fstest.Image(t, 40<<20, uint64(i+1))
		g.files = append(g.files, file)
		loop := strings.TrimSpace(fstest.Run(t, "losetup", "--find", "--show", file))
		t.Cleanup(func() { fstest.Run(t, "losetup", "--detach", loop) })
		g.loops = append(g.loops, loop)
	}
	return g
}

// lvm runs a command on these loop devices and no others. What goes to its error
// stream is about things that are missing here on purpose.
func (g *group) lvm(args ...string) string {
	g.t.Helper()
	var accept []string
	for _, l := range g.loops {
		accept = append(accept, fmt.Sprintf("%q", "a|^"+l+"$|"))
	}
	config := "devices { use_devicesfile=0 filter=[" + strings.Join(accept, ",") + `,"r|.*|"] } backup { backup=0 archive=0 } global { use_lvmpolld=0 }`
	args = append([]string{args[0], "--config", config, "--driverloaded", "n"}, args[1:]...)
	return fstest.Run(g.t, "sh", append([]string{"-c", `LVM_SUPPRESS_FD_WARNINGS=1 lvm "$@" 2>"$0" || { cat "$0"; exit 1; }`, g.t.TempDir() + "/stderr"}, args...)...)
}

// check compares all volumes with what lvm itself tells of their segments.
func (g *group) check(volumes int) {
	g.t.Helper()
	for _, l := range g.loops {
		fstest.Run(g.t, "sync", l)
	}
	var pvs []*lvm2.PV
	disks := map[string][]byte{}
	for i, file := range g.files {
		b, err := os.ReadFile(file)
		if err != nil {
			g.t.Fatal(err)
		}
		disks[g.loops[i]] = b
		pv, err := lvm2.Read(blockdev.Disk(i, bytes.NewReader(b), int64(len(b))))
		if err != nil {
			g.t.Fatal(err)
		}
		pvs = append(pvs, pv)
	}
	vgs := lvm2.Assemble(pvs)
	starts := map[string]int64{}
	for _, line := range lines(g.lvm("pvs", "--noheadings", "--units", "b", "--nosuffix", "--separator", "|", "-o", "pv_name,pe_start,pv_uuid")) {
		starts[line[0]] = number(g.t, line[1])
	}
	want := map[string][]byte{}
	for _, line := range lines(g.lvm("lvs", "-a", "--segments", "--noheadings", "--units", "b", "--nosuffix", "--separator", "|", "-O", "vg_name,lv_name,seg_start",
		"-o", "vg_name,lv_name,vg_extent_size,seg_size,stripes,stripe_size,seg_pe_ranges")) {
		name, extent, size, stripe := line[0]+"/"+line[1], number(g.t, line[2]), number(g.t, line[3]), number(g.t, line[5])
		var areas [][]byte
		for _, r := range strings.Fields(line[6]) {
			loop, pes, _ := strings.Cut(r, ":")
			first, last, _ := strings.Cut(pes, "-")
			areas = append(areas, disks[loop][starts[loop]+number(g.t, first)*extent:starts[loop]+(number(g.t, last)+1)*extent])
		}
		if stripe == 0 {
			stripe = size
		}
		for off := int64(0); off < size; off += stripe {
			n := off / stripe
			a := areas[n%int64(len(areas))]
			at := n / int64(len(areas)) * stripe
			want[name] = append(want[name], a[at:at+stripe]...)
		}
	}
	if len(want) != volumes {
		g.t.Errorf("lvm lists %d volumes", len(want))
	}
	found := 0
	for _, vg := range vgs {
		if len(vg.Warnings) > 0 || len(vg.Missing) > 0 {
			g.t.Errorf("%s: warnings %q, missing %q", vg.Name, vg.Warnings, vg.Missing)
		}
		for _, lv := range vg.LVs {
			found++
			name := vg.Name + "/" + lv.Name
			if lv.Device == nil {
				g.t.Errorf("%s: %s", name, lv.Reason)
				continue
			}
			got := make([]byte, lv.Size)
			if _, err := lv.Device.ReadAt(got, 0); err != nil || !bytes.Equal(got, want[name]) {
				g.t.Errorf("%s: %d bytes are not the %d that lvm's list of segments gives (%v)", name, len(got), len(want[name]), err)
			}
		}
	}
	if found != volumes {
		g.t.Errorf("%d volumes", found)
	}
}

func lines(out string) (list [][]string) {
	for line := range strings.Lines(out) {
		var fields []string
		for _, f := range strings.Split(line, "|") {
			fields = append(fields, strings.TrimSpace(f))
		}
		list = append(list, fields)
	}
	return list
}

func number(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTools: what the lvm tools of this machine write is read as they read it.
func TestTools(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes loop devices: run it as root")
	}
	if _, err := exec.LookPath("lvm"); err != nil {
		if _, err := os.Stat("/sbin/lvm"); err != nil {
			t.Fatal("this test needs lvm: install the package lvm2")
		}
	}
	g := newGroup(t, 4)
	l := g.loops
	g.lvm("pvcreate", "-q", "-y", "-ff", "--labelsector", "3", "--metadatasize", "64k", "--dataalignment", "3m", l[0])
	g.lvm("pvcreate", "-q", "-y", "-ff", "--metadatacopies", "2", "--metadatasize", "2m", l[1])
	g.lvm("pvcreate", "-q", "-y", "-ff", "--metadatacopies", "0", l[2])
	g.lvm("pvcreate", "-q", "-y", "-ff", "--metadatasize", "64k", "--bootloaderareasize", "1m", l[3])
	g.lvm("vgcreate", "-q", "-y", "-s", "128k", "a-group", l[0], l[1], l[2], l[3])
	create := func(args ...string) {
		g.lvm(append([]string{"lvcreate", "-q", "-y", "-an", "-Zn", "-Wn"}, args...)...)
	}
	create("-L", "10M", "-n", "small", "a-group", l[0])
	create("-L", "70M", "-n", "large", "a-group")
	create("-L", "6M", "-i", "3", "-I", "4k", "-n", "striped-3", "a-group")
	g.check(3)
	g.lvm("lvreduce", "-q", "-f", "-L", "5M", "a-group/small")
	g.lvm("lvextend", "-q", "-y", "-i", "2", "-I", "32k", "-L", "9M", "a-group/striped-3")
	g.lvm("lvextend", "-q", "-y", "-i", "1", "-l", "+20", "a-group/striped-3")
	g.lvm("lvextend", "-q", "-y", "-L", "11M", "a-group/small")
	create("-l", "50%FREE", "-n", "rest", "a-group")
	g.check(4)
	g.lvm("lvremove", "-q", "-f", "a-group/large")
	g.lvm("lvremove", "-q", "-f", "a-group/striped-3")
	g.lvm("lvremove", "-q", "-f", "a-group/rest")
	create("-L", "20M", "-n", "other", "a-group", l[2], l[3])
	// Many changes, so that the texts go around their small rings.
	for i := range 12 {
		g.lvm("lvchange", "-q", "--addtag", fmt.Sprintf("tag%d_%s", i, strings.Repeat("x", 900)), "a-group/other")
	}
	g.check(2)
	g.lvm("vgsplit", "-q", "a-group", "b", l[2], l[3])
	g.lvm("vgrename", "-q", "b", "b-b")
	g.check(2)
}
