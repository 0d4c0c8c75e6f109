package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
	"cairn/mount/lvm2"
	"cairn/mount/raid/raidtest"
)

// point gives disks as those of a point.
func point(f *raidtest.Fixture) (disks []Disk) {
	for i, d := range f.Disks {
		disks = append(disks, Disk{fmt.Sprintf("vd%c", 'a'+i), bytes.NewReader(d.Data), int64(len(d.Data))})
	}
	return disks
}

func (l *Layout) entry(t *testing.T, name string) *Entry {
	t.Helper()
	for _, e := range l.Entries {
		if e.Name == name {
			return e
		}
	}
	var names []string
	for _, e := range l.Entries {
		names = append(names, e.Name)
	}
	t.Fatalf("no entry %s among %q", name, names)
	return nil
}

// most is the size of what is read whole: thin volumes may be enormous.
const most = 16 << 20

// TestAssemble: what a kernel made of disks is among the entries, with the bytes
// that the kernel read; and every disk says what it is part of.
func TestAssemble(t *testing.T) {
	for _, name := range []string{"lvm-raid", "lvm-thin", "lvm-snap", "lvm-cache", "lvm-states", "md-levels", "md-older"} {
		t.Run(name, func(t *testing.T) {
			f := raidtest.Load(t, name)
			l := Assemble(point(f), Options{})
			found := map[string]bool{}
			for _, e := range l.Entries {
				if e.Made == Partition || e.Device == nil || e.Device.Size() > most {
					continue
				}
				h := sha256.New()
				if _, err := io.Copy(h, io.NewSectionReader(e.Device, 0, e.Device.Size())); err != nil {
					t.Logf("%s: %v", e.Name, err)
					continue
				}
				found[e.Name+" "+hex.EncodeToString(h.Sum(nil))] = true
				if len(e.Of) == 0 {
					t.Errorf("%s is made of nothing", e.Name)
				}
				for _, part := range e.Of {
					if p := l.entry(t, part); !slices.Contains(p.Into, e.Name) || p.HoldsFiles() {
						t.Errorf("%s is part of %s and says %q", part, e.Name, p.Into)
					}
				}
			}
			for _, v := range f.Volumes {
				if v.Size > most {
					continue
				}
				entry := v.Name
				if vg, lv, ok := strings.Cut(v.Name, "/"); ok {
					entry = lvm2.MapperName(vg, lv)
				}
				ok := false
				for key := range found {
					// Arrays have names of the kernel's in the list.
					n, sum, _ := strings.Cut(key, " ")
					ok = ok || sum == v.SHA256 && (n == entry || strings.HasPrefix(name, "md-"))
				}
				if !ok {
					t.Errorf("%s (%s) is missing", v.Name, entry)
				}
			}
		})
	}
}

// TestMissingDisk: the volumes of a group that lost a disk are listed, those that
// need it with the reason.
func TestMissingDisk(t *testing.T) {
	f := raidtest.Load(t, "lvm-raid")
	disks := point(f)
	l := Assemble(disks[1:], Options{})
	lost := 0
	for _, e := range l.Entries {
		if e.Made == LVM && e.Device == nil {
			lost++
			if e.Reason == "" || e.CanRead() {
				t.Errorf("%s cannot be read and gives no reason", e.Name)
			}
			if _, err := e.Open(filesys.Options{}); !errors.Is(err, filesys.ErrUnsupported) || err.Error() != e.Reason {
				t.Errorf("opening %s: %v", e.Name, err)
			}
		}
	}
	if lost == 0 {
		t.Error("nothing is lost with a disk")
	}
}

// TestEncrypted: a partition table inside of a LUKS volume, with the right key,
// a wrong one, one for another volume, and none.
func TestEncrypted(t *testing.T) {
	dir := fstest.TempDir(t)
	inside, crypt, key := filepath.Join(dir, "inside"), filepath.Join(dir, "crypt"), filepath.Join(dir, "key")
	b := make([]byte, 4<<20)
	copy(b[510:], "\x55\xaa")
	b[446+4] = 0x83
	binary.LittleEndian.PutUint32(b[446+8:], 2048)
	binary.LittleEndian.PutUint32(b[446+12:], 4096)
	copy(b[1<<20+1024+56:], "\x53\xef")
	for file, content := range map[string][]byte{inside: b, crypt: make([]byte, 8<<20), key: []byte("secret")} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fstest.Run(t, "cryptsetup", "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--batch-mode", "--key-file", key, crypt)
	fstest.Run(t, "qemu-img", "convert", "-n", "-f", "raw", "--object", "secret,id=k,file="+key, inside, "--target-image-opts", "driver=luks,key-secret=k,file.filename="+crypt)
	disk, err := os.ReadFile(crypt)
	if err != nil {
		t.Fatal(err)
	}
	layout := func(secrets ...Secret) *Layout {
		return Assemble([]Disk{{"vda", bytes.NewReader(disk), int64(len(disk))}}, Options{Secrets: secrets})
	}
	for _, s := range []Secret{{Bytes: []byte("secret")}, {Volume: "vda", Bytes: []byte("secret")}} {
		l := layout(Secret{Bytes: []byte("other")}, s)
		if e := l.entry(t, "vda"); e.Reason != "" || !slices.Equal(e.Into, []string{"vda_crypt"}) || e.HoldsFiles() {
			t.Errorf("the opened volume: %+v", e)
		}
		if e := l.entry(t, "vda_crypt"); e.Made != Decrypted || !slices.Equal(e.Into, []string{"vda_crypt1"}) {
			t.Errorf("its inside: %+v", e)
		}
		if e := l.entry(t, "vda_crypt1"); e.Part.Content.Kind != Ext2 || e.Device.Size() != 4096*512 || !e.CanRead() {
			t.Errorf("the partition in it: %+v", e)
		}
	}
	for want, secrets := range map[string][]Secret{
		"no key was given": nil,
		"no key slot opens with the key file a or the passphrase": {{Bytes: []byte("x"), From: "key file a"}, {Bytes: []byte("y"), From: "passphrase"}},
		"keys were given for vdb alone: --key-file vda=FILE":      {{Volume: "vdb", Bytes: []byte("secret")}},
	} {
		l := layout(secrets...)
		if e := l.entry(t, "vda"); len(l.Entries) != 1 || !strings.Contains(e.Reason, want) || e.CanRead() {
			t.Errorf("%d entries, %q, want %q", len(l.Entries), e.Reason, want)
		}
	}
}

// TestNoImage and disks that cannot be read: the others are shown.
func TestNoImage(t *testing.T) {
	l := Assemble([]Disk{{Name: "vda"}, {"vdb", badReader{bytes.NewReader(make([]byte, 1<<20)), 0, 1 << 20}, 1 << 20}, {"vdc", bytes.NewReader(at(1<<20, 1024+56, "\x53\xef")), 1 << 20}}, Options{})
	if e := l.entry(t, "vda"); e.Err == nil || e.CanRead() {
		t.Errorf("a disk without an image: %+v", e)
	}
	if e := l.entry(t, "vdb"); !errors.Is(e.Err, errLost) {
		t.Errorf("a disk that cannot be read: %+v", e)
	}
	if e := l.entry(t, "vdc"); !e.CanRead() {
		t.Errorf("a sound disk: %+v", e)
	}
}

// TestUnread: a layout says that something could not be read while it was put
// together, be it that its entries could do without.
func TestUnread(t *testing.T) {
	f := raidtest.Load(t, "lvm-raid")
	disks := point(f)
	if l := Assemble(disks, Options{}); l.Unread != nil {
		t.Errorf("all could be read: %v", l.Unread)
	}
	whole := disks[1].ReaderAt
	disks[1].ReaderAt = badReader{whole, 1 << 20, 1 << 40}
	l := Assemble(disks, Options{})
	if !errors.Is(l.Unread, errLost) {
		t.Errorf("a disk with one readable MiB: %v", l.Unread)
	}
}
