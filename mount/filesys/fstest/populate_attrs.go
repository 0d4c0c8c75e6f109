package fstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Special makes devices, pipes, sockets, and files of unusual modes.
func (p *Tree) Special() {
	d := p.Dir("special")
	node := func(name string, mode uint32, major, minor uint32) {
		p.Check(unix.Mknod(p.Path(d+"/"+name), mode|0o600, int(unix.Mkdev(major, minor))))
	}
	node("fifo", unix.S_IFIFO, 0, 0)
	node("socket", unix.S_IFSOCK, 0, 0)
	node("null", unix.S_IFCHR, 1, 3)
	node("disk", unix.S_IFBLK, 8, 17)
	node("none", unix.S_IFCHR, 0, 0)
	node("new major", unix.S_IFBLK, 259, 1)
	node("new minor", unix.S_IFCHR, 4, 70000)
	largest := p.DeviceMax
	if largest[1] == 0 {
		largest = [2]uint32{4095, 1<<20 - 1}
	}
	node("largest", unix.S_IFCHR, largest[0], largest[1])
	for _, mode := range []uint32{0, 0o777, 0o4755, 0o2755, 0o1777, 0o7000} {
		name := fmt.Sprintf("%s/mode %04o", d, mode)
		p.File(name, 1)
		p.Check(unix.Chmod(p.Path(name), mode))
	}
	p.Check(unix.Chmod(p.Path(p.Dir(d+"/sticky")), 0o3777))
}

// Times makes files with times at the limits of formats.
func (p *Tree) Times() {
	d := p.Dir("times")
	for i, sec := range []int64{-1 << 31, -1<<31 + 1, -1, 0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 4102444800,
		1<<33 - 1, 1 << 33, 3 << 32, 15032385535} {
		for j, ns := range []int64{0, 1, 999999999} {
			name := fmt.Sprintf("%s/%d %d", d, i, j)
			p.File(name, 1)
			at := []unix.Timespec{{Sec: sec, Nsec: ns}, {Sec: -sec, Nsec: 999999999 - ns}}
			p.Check(unix.UtimesNanoAt(unix.AT_FDCWD, p.Path(name), at, unix.AT_SYMLINK_NOFOLLOW))
		}
	}
}

// Owners makes files with owners at the limits of formats.
func (p *Tree) Owners() {
	d := p.Dir("owners")
	for _, id := range []int{0, 1, 1000, 65535, 65536, 100000, 1<<31 - 1, 1 << 31, 1<<32 - 2} {
		name := fmt.Sprintf("%s/%d", d, id)
		p.File(name, 1)
		p.Check(os.Lchown(p.Path(name), id, 1<<32-2-id))
	}
}

// Xattrs makes files with extended attributes and access control lists.
func (p *Tree) Xattrs() {
	d := p.Dir("xattrs")
	set := func(name, attr string, value []byte) {
		p.Helper()
		if err := unix.Lsetxattr(p.Path(d+"/"+name), attr, value, 0); err != nil {
			p.Fatalf("set %s (%d bytes) of %s: %v", attr, len(value), name, err)
		}
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 20, 60, 90, 100, 101, 102, 103, 104, 200, 700} {
		name := fmt.Sprintf("size %d", n)
		p.File(d+"/"+name, 10)
		set(name, "user.value", p.Bytes(int64(n)))
	}
	p.File(d+"/many", 10)
	for i := range 12 {
		set("many", fmt.Sprintf("user.attribute number %d", i), p.Bytes(int64(i)))
	}
	p.File(d+"/all kinds", 10)
	set("all kinds", "user.note", []byte("a note"))
	set("all kinds", "trusted.secret", []byte("for root"))
	set("all kinds", "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	set("all kinds", "user."+strings.Repeat("n", 250), []byte("long name"))
	for i := range 3 { // equal attributes share a block
		name := fmt.Sprintf("shared %d", i)
		p.File(d+"/"+name, 10)
		set(name, "user.shared", bytes.Repeat([]byte("shared"), 100))
	}
	p.Check(os.Symlink("nowhere", p.Path(d+"/symlink")))
	set("symlink", "trusted.on a symlink", []byte("value"))
	p.Check(os.Symlink(strings.Repeat("far", 30), p.Path(d+"/slow symlink")))
	set("slow symlink", "trusted.big", p.Bytes(500))
	p.Check(os.Symlink("short", p.Path(d+"/symlink with block")))
	set("symlink with block", "trusted.big", p.Bytes(500))
	p.Check(unix.Mknod(p.Path(d+"/device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	set("device", "trusted.on a device", []byte("value"))

	p.File(d+"/acl", 10)
	set("acl", "system.posix_acl_access", acl(1, 6, 0, 2, 4, 1000, 2, 7, 70000, 4, 4, 0, 8, 2, 1<<31, 16, 7, 0, 32, 0, 0))
	p.Dir(d + "/acl dir")
	set("acl dir", "system.posix_acl_default", acl(1, 7, 0, 4, 5, 0, 8, 5, 100, 16, 5, 0, 32, 5, 0))
	set("acl dir", "system.posix_acl_access", acl(1, 7, 0, 2, 1, 5, 4, 5, 0, 16, 5, 0, 32, 1, 0))
	p.File(d+"/acl dir/heir", 10)
	p.Dir(d + "/acl dir/heir dir")

	for _, n := range []int{2000, 3900, 5000, 20000, 60000} {
		if n <= p.XattrMax {
			name := fmt.Sprintf("large %d", n)
			p.File(d+"/"+name, 10)
			set(name, "user.large", p.Bytes(int64(n)))
			set(name, "user.small", []byte("next to it"))
		}
	}
}

// acl makes an access control list in the form of setxattr out of tag,
// permissions and id, repeatedly. Ids count only for named users and groups.
func acl(v ...uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for ; len(v) > 0; v = v[3:] {
		id := v[2]
		if v[0] != 2 && v[0] != 8 {
			id = 1<<32 - 1
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(v[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(v[1]))
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	return b
}
