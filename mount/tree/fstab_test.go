package tree

import (
	"errors"
	"io"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/mounttest"
	"cairn/mount/volume"
)

// TestGuestPath: a path of the running guest is on the volume that the guest's
// own fstab mounts there.
func TestGuestPath(t *testing.T) {
	root, home, sub := mounttest.NewFS(), mounttest.NewFS(), mounttest.NewFS()
	root.Dir("/etc")
	root.File("/etc/fstab", strings.Join([]string{
		"# comment", "/dev/sda1 / ext4 defaults 0 1", "UUID=0a0b /home ext4 defaults 0 2", "/dev/sdb /var/lib\\040x btrfs rw,subvol=@lib 0 0",
		"/dev/gone /gone ext4", "/dev/usb /media/usb ext4 noauto,user", "proc /proc proc", "broken",
	}, "\n"))
	fss := []filesys.FS{root, home, sub}
	b := make([]byte, 4*partSize)
	b[510], b[511] = 0x55, 0xaa
	d := disk(part{0x83, ext}, part{0x83, func(b []byte) { ext(b); b[1024+104], b[1024+105] = 0x0a, 0x0b }})
	vdb := &mounttest.Disk{Bytes: make([]byte, partSize)}
	ext(vdb.Bytes)
	next := 0
	tr := NewPoint(Point{Disks: []Disk{{Name: "vda", Image: d}, {Name: "vdb", Image: vdb}}}, Options{
		OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { next++; return fss[next-1], nil },
	})
	vols, err := tr.Volumes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vols { // in this order
		if _, err := v.FS(); err != nil {
			t.Fatal(err)
		}
	}
	vols[1].Part.Content.UUID = "0A0B"
	for p, want := range map[string]struct {
		at  string
		own bool
	}{
		"/":                {"/volumes/vda1", false},
		"/etc/fstab":       {"/volumes/vda1/etc/fstab", false},
		"/home":            {"/volumes/vda2", true},
		"/home/ann/notes":  {"/volumes/vda2/ann/notes", true},
		"/homework":        {"/volumes/vda1/homework", false},
		"home/../home/ann": {"/volumes/vda2/ann", true},
		"/var/lib x/db":    {"/volumes/vdb/@lib/db", true},
		"/gone/file":       {"", true},
		"/media/usb/file":  {"", false}, // perhaps not mounted
	} {
		if at, own, err := tr.GuestPath(ctx, p); err != nil || at != want.at || own != want.own {
			t.Errorf("%s is %q, of its own: %t, %v, want %+v", p, at, own, err, want)
		}
	}
	// Another view of a file system is no other system.
	sub.Dir("/@")
	sub.Dir("/@/etc")
	sub.File("/@/etc/fstab", "")
	vols[2].Made = volume.Subvolume
	if got, own, err := tr.GuestPath(ctx, "/etc"); err != nil || got != "/volumes/vda1/etc" || own {
		t.Errorf("with another subvolume: %q, %t, %v", got, own, err)
	}
	home.Dir("/etc")
	home.File("/etc/fstab", "")
	if got, own, err := tr.GuestPath(ctx, "/etc"); err != nil || got != "" || own {
		t.Errorf("with two systems: %q, %t, %v", got, own, err)
	}
}

func TestFstabNames(t *testing.T) {
	entry := func(name, uuid, label string) *Volume {
		return &Volume{Entry: &volume.Entry{Name: name, Part: volume.Volume{Content: volume.Content{Kind: volume.Ext4, UUID: uuid, Label: label}}}}
	}
	vols := []*Volume{entry("vda1", "u-1", "data"), entry("my--vg-root", "u-2", "data"), entry("md-home", "u-3", ""), entry("md0", "", "")}
	for spec, want := range map[string]string{
		"/dev/vda1": "vda1", "/dev/xvda1": "vda1", "/dev/hda2": "", "/dev/mapper/my--vg-root": "my--vg-root", "/dev/my-vg/root": "my--vg-root",
		"/dev/md/home": "md-home", "/dev/md0": "md0", `UUID="U-3"`: "md-home", "/dev/disk/by-uuid/u-1": "vda1", "LABEL=data": "", "UUID=": "", "none": "",
	} {
		got := ""
		if v := named(spec, vols); v != nil {
			got = v.Name
		}
		if got != want {
			t.Errorf("%s is %q, want %q", spec, got, want)
		}
	}
}

// TestUnreadableFstab: where a path is cannot be told; the message has what to do.
func TestUnreadableFstab(t *testing.T) {
	vdb := &mounttest.Disk{Bytes: make([]byte, partSize)}
	ext(vdb.Bytes)
	fs := mounttest.NewFS()
	fs.Dir("/etc")
	fs.File("/etc/fstab", "x")
	tr := NewPoint(Point{Disks: []Disk{{Name: "vdb", Image: vdb}}}, Options{
		OpenFS: func(io.ReaderAt, int64) (filesys.FS, error) { return noOpen{fs}, nil },
	})
	if _, _, err := tr.GuestPath(ctx, "/home/ann"); !errors.Is(err, filesys.ErrCorrupt) || !strings.Contains(err.Error(), "/volumes/vdb/home/ann") {
		t.Error(err)
	}
}

type noOpen struct{ *mounttest.FS }

func (noOpen) Open(uint64) (filesys.File, error) { return nil, filesys.ErrCorrupt }
