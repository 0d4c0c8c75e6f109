//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/mount/mounttest"
)

// everyGuest makes one machine of several disks on which there is something of
// all that people run, and gives for every volume the tree that its own driver
// shows. What comes of the trees' closing is over when the test ends.
type everyGuest struct {
	*world
	dir   string // the machine's images
	trees map[string]reference
}

// reference is what a driver of this host shows of a volume, and what cannot be
// held against Cairn's reader there.
type reference struct {
	dir     string
	options mounttest.DiffOptions
}

func (w *world) everyGuest(machine string) *everyGuest {
	w.Helper()
	g := &everyGuest{w, w.images + "/" + machine, map[string]reference{}}
	w.must(os.Mkdir(g.dir, 0o700))
	g.linux()
	g.windows()
	g.raid()
	g.stick()
	g.secret()
	return g
}

// linux: EFI, boot, and a volume group over a partition and a second disk, with xfs
// on a volume that lies on both.
func (g *everyGuest) linux() {
	vda, vdb := g.dir+"/vda.raw", g.dir+"/vdb.raw"
	g.fillRandom(vda, 560*mib, 1)
	g.fillRandom(vdb, 200*mib, 2)
	parts := g.partition(vda, "label: gpt\nsize=64MiB, type=uefi\nsize=64MiB\nsize=400MiB, type=lvm\n")

	// The kernel has no FAT: what goes in by mtools comes out by Cairn.
	dev, detach := g.loop(vda, parts[0], false)
	g.tool("mkfs.fat", "-F", "32", "-n", "EFI", dev)
	files := g.path("efi")
	for name, text := range map[string]string{"EFI/BOOT/BOOTX64.EFI": strings.Repeat("code", 100_000), "EFI/debian/Größe 한국어.cfg": "x", "empty": ""} {
		g.must(os.MkdirAll(filepath.Dir(files+"/"+name), 0o755))
		g.must(os.WriteFile(files+"/"+name, []byte(text), 0o644))
	}
	// What FAT can hold of times are even seconds.
	g.tool("find", files, "-exec", "touch", "-d", "2026-11-20 22:00:02 UTC", "{}", "+")
	g.tool("env", "LC_ALL=C.UTF-8", "TZ=UTC", "mcopy", "-s", "-m", "-i", dev, files+"/EFI", files+"/empty", "::")
	detach()
	g.trees["vda1/EFI"] = reference{files + "/EFI", mounttest.DiffOptions{Atime: true, Ctime: true, Blocks: true, Holes: true, Dirs: true, Owners: true, Xattrs: true}}

	g.mkfs(vda, parts[1], "-L", "boot")
	dir, unmount := g.mountAs("ext4", vda, parts[1], false)
	g.oddFiles(dir+"/odd", 100)
	unmount()

	pv1, detach1 := g.loop(vda, parts[2], false)
	pv2, detach2 := g.loop(vdb, g.whole(vdb), false)
	vg := g.newGroup("guest", pv1, pv2)
	vg.create("root", 480*mib)
	vg.create("swap", 16*mib)
	root := g.path("root.xfs")
	g.fillRandom(root, vg.size("root"), 3)
	g.tool("mkfs.xfs", "-q", "-f", "-K", root)
	dir, unmount = g.mountAs("xfs", root, g.whole(root), false)
	g.realFiles(dir, 100*mib)
	g.oddFiles(dir+"/odd", 5000)
	g.must(os.MkdirAll(dir+"/etc", 0o755))
	g.must(os.WriteFile(dir+"/etc/fstab", []byte("/dev/mapper/guest-root / xfs defaults 0 1\nLABEL=boot /boot ext4 defaults 0 2\n"), 0o644))
	unmount()
	vg.fill("root", root)
	swap := g.path("swap.img")
	g.fillRandom(swap, vg.size("swap"), 4)
	g.tool("mkswap", swap)
	vg.fill("swap", swap)
	detach1()
	detach2()

	boot, _ := g.mountAs("ext4", vda, parts[1], true)
	g.trees["vda2"] = reference{boot, mounttest.DiffOptions{}}
	dir, _ = g.mountAs("xfs", root, g.whole(root), true)
	g.trees["guest-root"] = reference{dir, mounttest.DiffOptions{}}
}

// windows: NTFS as ntfs-3g shows it.
func (g *everyGuest) windows() {
	vdc := g.dir + "/vdc.raw"
	g.fillRandom(vdc, 220*mib, 5)
	parts := g.partition(vdc, "label: gpt\nstart=1MiB, size=200MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7, name=\"Basic data partition\"\n")
	dev, detach := g.loop(vdc, parts[0], false)
	g.tool("mkntfs", "-q", "-Q", "-L", "Windows", "-p", "2048", "-H", "0", "-S", "0", dev)
	detach()
	dir, unmount := g.mountAs("ntfs", vdc, parts[0], false, "compression", "streams_interface=xattr")
	g.windowsFiles(dir)
	unmount()
	dir, _ = g.mountAs("ntfs", vdc, parts[0], true, "streams_interface=xattr")
	g.trees["vdc1"] = reference{dir, mounttest.DiffOptions{Atime: true, Dirs: true, Blocks: true, Holes: true}}
}

func (g *everyGuest) windowsFiles(dir string) {
	g.Helper()
	users := dir + "/Users/Ann"
	for _, d := range []string{users + "/Documents", users + "/Many", dir + "/Windows/System32", dir + "/Compressed"} {
		g.must(os.MkdirAll(d, 0o755))
	}
	g.must(os.WriteFile(users+"/Documents/Bericht 한국어.docx", bytes.Repeat([]byte("report "), 30_000), 0o644))
	for i := range 2000 {
		g.must(os.WriteFile(fmt.Sprintf("%s/Many/file %d.txt", users, i), []byte(strings.Repeat("x", i)), 0o644))
	}
	for i := range 700 {
		g.must(os.Remove(fmt.Sprintf("%s/Many/file %d.txt", users, i*2)))
	}
	g.must(os.Link(users+"/Documents/Bericht 한국어.docx", dir+"/linked.docx"))
	g.tool("setfattr", "-n", "user.Zone.Identifier", "-v", "[ZoneTransfer]", users+"/Documents/Bericht 한국어.docx")
	g.tool("setfattr", "-h", "-n", "system.ntfs_attrib_be", "-v", "0x00000800", dir+"/Compressed")
	g.must(os.WriteFile(dir+"/Compressed/log.txt", bytes.Repeat([]byte("the same line again and again\n"), 40_000), 0o644))
	f, err := os.Create(dir + "/sparse.vhd")
	g.must(err)
	_, err = f.WriteAt([]byte("end"), 60<<20)
	g.must(err)
	g.must(f.Close())
}

// raid: btrfs as a mirror over two disks, compressed, with subvolumes.
func (g *everyGuest) raid() {
	vdd, vde := g.dir+"/vdd.raw", g.dir+"/vde.raw"
	g.fillRandom(vdd, 256*mib, 6)
	g.fillRandom(vde, 256*mib, 7)
	dev1, _ := g.loop(vdd, g.whole(vdd), false)
	dev2, _ := g.loop(vde, g.whole(vde), false)
	g.tool("mkfs.btrfs", "-q", "-f", "-K", "-d", "raid1", "-m", "raid1", dev1, dev2)
	g.tool("btrfs", "device", "scan", dev1, dev2)
	dir := g.path("btrfs")
	g.must(os.Mkdir(dir, 0o700))
	g.tool("mount", "-t", "btrfs", "-o", "compress=zstd", dev1, dir)
	umount := g.once(func() { g.tool("umount", dir) })
	g.tool("btrfs", "-q", "subvolume", "create", dir+"/@home")
	g.realFiles(dir+"/files", 60*mib)
	g.oddFiles(dir+"/@home/odd", 500)
	g.tool("btrfs", "-q", "subvolume", "snapshot", "-r", dir+"/@home", dir+"/snapshot")
	g.must(os.WriteFile(dir+"/@home/later", []byte("after the snapshot"), 0o644))
	umount()
	g.tool("mount", "-t", "btrfs", "-o", "ro", dev1, dir)
	g.once(func() { g.tool("umount", dir) })
	g.trees["vdd"] = reference{dir, mounttest.DiffOptions{Dirs: true, Blocks: true}}
}

// stick: exFAT as exfat-fuse shows it.
func (g *everyGuest) stick() {
	vdf := g.dir + "/vdf.raw"
	g.fillRandom(vdf, 64*mib, 8)
	g.tool("mkfs.exfat", "-L", "STICK", vdf)
	dir, unmount := g.mountAs("exfat", vdf, g.whole(vdf), false)
	g.must(os.MkdirAll(dir+"/DCIM/한국어", 0o755))
	for i := range 300 {
		g.must(os.WriteFile(fmt.Sprintf("%s/DCIM/picture %d.jpg", dir, i), bytes.Repeat([]byte{byte(i)}, i*300), 0o644))
	}
	unmount()
	dir, _ = g.mountAs("exfat", vdf, g.whole(vdf), true, "fmask=0133", "dmask=0022")
	g.trees["vdf"] = reference{dir, mounttest.DiffOptions{Atime: true, Ctime: true, Blocks: true, Holes: true, Dirs: true, Owners: true, Xattrs: true}}
}

const passphrase = "correct horse battery staple"

// secret: ext4 inside of LUKS, of which cryptsetup makes the header and QEMU the cipher text.
func (g *everyGuest) secret() {
	inside := g.path("inside.raw")
	g.fillRandom(inside, 48*mib, 9)
	g.mkfs(inside, g.whole(inside))
	dir, unmount := g.mountAs("ext4", inside, g.whole(inside), false)
	g.oddFiles(dir+"/odd", 50)
	unmount()
	key := g.path("key")
	g.must(os.WriteFile(key, []byte(passphrase), 0o600))
	// QEMU would measure this machine first, which fails on a busy one.
	vdg := g.dir + "/vdg.raw"
	g.fillRandom(vdg, 52*mib, 10)
	g.tool("cryptsetup", "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--batch-mode", "--key-file", key, vdg)
	g.tool("qemu-img", "convert", "-n", "-f", "raw", "--object", "secret,id=k,file="+key, inside, "--target-image-opts", "driver=luks,key-secret=k,file.filename="+vdg)
	dir, _ = g.mountAs("ext4", inside, g.whole(inside), true)
	g.trees["vdg_crypt"] = reference{dir, mounttest.DiffOptions{}}
}

// TestAnyFile: of a machine with everything that people run, every volume, mounted
// from a point, equals what its own driver shows; what cannot be shown says why.
func TestAnyFile(t *testing.T) {
	w := newWorld(t)
	g := w.everyGuest("any")
	w.startServer()
	w.startAgent()
	w.setUp()
	w.protect("any")
	w.backUp("any")

	m := w.mount("any@latest", "--key-file", "vdg="+w.path("key"))
	want := []string{"guest-root", "guest-swap.SWAP.txt", "vda1", "vda2", "vda3.LVM2.txt", "vdb.LVM2.txt", "vdc1", "vdd", "vde.BTRFS.txt", "vdf", "vdg.LUKS.txt", "vdg_crypt"}
	var got []string
	entries, err := os.ReadDir(m.dir + "/volumes")
	w.must(err)
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("volumes %q, want %q", got, want)
	}
	for _, name := range slices.Sorted(maps.Keys(g.trees)) {
		ref := g.trees[name]
		r := w.sameBut(ref.dir, m.dir+"/volumes/"+name, ref.options)
		proved(t, "%s equals its own driver's mount: %d names, %d MiB", name, r.Entries, r.Bytes/mib)
	}
	m.end()

	// Without the key the volume is named, with the way to open it.
	if out := w.cairn("cp", "any@latest:/volumes/vdg.UNREADABLE.txt", "-"); !strings.Contains(out, "--key-file") {
		t.Errorf("the locked volume says %q", out)
	}
	wrong := w.path("wrong")
	w.must(os.WriteFile(wrong, []byte("wrong"), 0o600))
	if out := w.cairn("cp", "--key-file", wrong, "any@latest:/volumes/vdg.UNREADABLE.txt", "-"); !strings.Contains(out, "no key slot opens with the key file wrong") {
		t.Errorf("with a wrong key it says %q", out)
	}
	w.refused(2, []string{"--key-file", "no such file"}, "ls", "--key-file", w.path("none"), "any@latest")
	proved(t, "an encrypted volume opens with its key only, and says so")

	// Paths of the running guest, through its fstab; a file over all of it.
	if out := w.cairn("ls", "any@latest:/boot/odd"); !strings.Contains(out, "size-4097") {
		t.Errorf("ls /boot/odd: %s", out)
	}
	w.cairn("cp", "-a", "any@latest:/odd", w.path("copied"))
	r := w.sameBut(g.trees["guest-root"].dir+"/odd", w.path("copied"), mounttest.DiffOptions{Ctime: true, Atime: true, Dirs: true, Blocks: true})
	proved(t, "cairn cp -a of a tree on xfs over two disks: %d names as they were", r.Entries)
}
