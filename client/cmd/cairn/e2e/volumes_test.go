//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// volumeGroup is a group of LVM2 that is being made on loop devices. Nothing is
// ever activated: this kernel need not have a device mapper.
type volumeGroup struct {
	*world
	name   string
	pvs    []string
	config string
}

// newGroup makes a volume group of devices.
func (w *world) newGroup(name string, devices ...string) *volumeGroup {
	w.Helper()
	var filter []string
	for _, d := range devices {
		filter = append(filter, fmt.Sprintf("%q", "a|^"+d+"$|"))
	}
	g := &volumeGroup{w, name, devices,
		`devices { use_devicesfile=0 filter=[` + strings.Join(append(filter, `"r|.*|"`), ",") + `] } backup { backup=0 archive=0 }`}
	g.lvm("pvcreate", devices...)
	g.lvm("vgcreate", append([]string{name}, devices...)...)
	return g
}

// lvm runs one of LVM's commands; what it says on standard error, that nothing
// will be activated, is left out.
func (g *volumeGroup) lvm(command string, args ...string) string {
	g.Helper()
	return g.tool("sh", append([]string{"-c", `exec "$0" "$@" 2>/dev/null`, command, "--driverloaded", "n", "--config", g.config}, args...)...)
}

// create makes a logical volume of so many bytes.
func (g *volumeGroup) create(lv string, size int64) {
	g.Helper()
	g.lvm("lvcreate", "-an", "-Zn", "-Wn", "--name", lv, "--size", fmt.Sprintf("%db", size), g.name)
}

// extent is where a piece of a logical volume lies.
type extent struct {
	device string
	off, n int64
}

// runs says, as LVM does, where a linear volume lies.
func (g *volumeGroup) runs(lv string) (list []extent) {
	g.Helper()
	starts := map[string]int64{}
	for line := range strings.Lines(g.lvm("pvs", "--units", "b", "--nosuffix", "--noheadings", "--separator", "|", "-o", "pv_name,pe_start")) {
		f := strings.Split(strings.TrimSpace(line), "|")
		starts[f[0]] = g.number(f[1])
	}
	for line := range strings.Lines(g.lvm("lvs", "--units", "b", "--nosuffix", "--noheadings", "--separator", "|", "-o", "vg_extent_size,seg_pe_ranges", g.name+"/"+lv)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		size := g.number(f[0])
		device, pes, _ := strings.Cut(f[1], ":")
		first, last, _ := strings.Cut(pes, "-")
		list = append(list, extent{device, starts[device] + g.number(first)*size, (g.number(last) - g.number(first) + 1) * size})
	}
	return list
}

func (g *volumeGroup) number(s string) int64 {
	g.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	g.must(err)
	return n
}

// size is that of a logical volume, in bytes.
func (g *volumeGroup) size(lv string) (n int64) {
	for _, r := range g.runs(lv) {
		n += r.n
	}
	return n
}

// fill writes the content of a file over a logical volume.
func (g *volumeGroup) fill(lv, file string) {
	g.Helper()
	f, err := os.Open(file)
	g.must(err)
	defer f.Close()
	for _, r := range g.runs(lv) {
		d, err := os.OpenFile(r.device, os.O_WRONLY, 0)
		g.must(err)
		_, err = io.Copy(io.NewOffsetWriter(d, r.off), io.LimitReader(f, r.n))
		g.must(err)
		g.must(d.Sync())
		g.must(d.Close())
	}
}

// mountAs mounts a part of an image by a driver of this host, until unmount:
// the kernel's, or, for ntfs and exfat, those of ntfs-3g and exfat-fuse.
func (w *world) mountAs(fstype, image string, p part, readOnly bool, options ...string) (dir string, unmount func()) {
	w.Helper()
	dev, detach := w.loop(image, p, readOnly)
	dir, err := os.MkdirTemp(w.dir, "mnt-")
	w.must(err)
	if readOnly {
		options = append(options, "ro")
	}
	args := []string{dev, dir}
	if len(options) > 0 {
		args = append([]string{"-o", strings.Join(options, ",")}, args...)
	}
	switch fstype {
	case "ntfs":
		w.tool("ntfs-3g", args...)
	case "exfat":
		w.tool("mount.exfat-fuse", args...)
	default:
		w.tool("mount", append([]string{"-t", fstype}, args...)...)
	}
	return dir, w.once(func() {
		err := unix.Unmount(dir, 0)
		for i := 0; errors.Is(err, unix.EBUSY) && i < 250; i++ { // another process's quick look
			time.Sleep(20 * time.Millisecond)
			err = unix.Unmount(dir, 0)
		}
		if err != nil {
			w.Errorf("unmount %s: %v", dir, err)
		}
		// The drivers in user space let go of the device only now.
		for i := 0; i < 250; i++ {
			if b, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/loop/backing_file"); err != nil || len(b) == 0 {
				return
			}
			if !held(dev) {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		detach()
	})
}

// held says whether some process has a device open.
func held(dev string) bool {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == dev {
			return true
		}
	}
	return false
}

// whole is all of an image.
func (w *world) whole(image string) part {
	w.Helper()
	st, err := os.Stat(image)
	w.must(err)
	return part{0, st.Size()}
}
