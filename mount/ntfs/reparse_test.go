package ntfs_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/ntfs"
)

// TestLinks: links and junctions can be followed within the volume, wherever it
// is mounted.
func TestLinks(t *testing.T) {
	links := []struct {
		path, target string
		junction     bool
		flags        uint32
		want         string
	}{
		{"A/j1", `\??\C:\A\Bcd`, true, 0, "../A/Bcd"},
		{"A/j2", `\??\c:\a\bCD\`, true, 0, "../A/Bcd/"},
		{"A/j3", `\??\D:\nope\x`, true, 0, "D:/nope/x"},
		{"A/j4", `\??\Volume{12345678-0000-0000-0000-000000000000}\`, true, 0, "Volume{12345678-0000-0000-0000-000000000000}/"},
		{"A/Bcd/j5", `\??\C:\`, true, 0, "../.."},
		{"j6", `\??\C:\`, true, 0, "."},
		{"A/s1", `\??\C:\A\Bcd\file`, false, 0, "../A/Bcd/File"},
		{"A/s2", `bcd\FILE`, false, 1, "Bcd/File"},
		{"A/s3", `..\nope\FILE`, false, 1, "../nope/FILE"},
		{"A/s4", `\a\bcd\FILE`, false, 1, "../A/Bcd/File"},
		{"A/s5", `\??\D:\nope\FILE`, false, 0, "D:/nope/FILE"},
		{"A/s6", `..\a\.\bcd\..\Bcd\FILE`, false, 1, "../A/./Bcd/../Bcd/File"},
		{"A/s7", `\??\UNC\server\share\f`, false, 0, "//server/share/f"},
		{"A/s8", `\nope`, false, 1, "/nope"},
		{"s9", `a`, false, 1, "A"},
		{"s10", `A\j1\file`, false, 1, "A/j1/file"}, // what lies behind a link is not looked at
		{"A/exact", `\??\C:\A\x`, true, 0, "../A/x"},
	}
	image := mkntfs(t, 16<<20)
	dir, unmount := mount(t, image, "")
	must(t, os.MkdirAll(dir+"/A/Bcd/e", 0o755))
	must(t, os.WriteFile(dir+"/A/Bcd/File", nil, 0o644))
	must(t, os.WriteFile(dir+"/A/x", nil, 0o644))
	must(t, os.WriteFile(dir+"/A/X", nil, 0o644))
	for _, l := range links {
		if l.junction {
			must(t, os.Mkdir(dir+"/"+l.path, 0o755))
			setReparse(t, dir+"/"+l.path, 0xA0000003, junctionData(l.target))
		} else {
			must(t, os.WriteFile(dir+"/"+l.path, nil, 0o644))
			setReparse(t, dir+"/"+l.path, 0xA000000C, symlinkData(l.target, l.flags))
		}
	}
	unmount()
	fs := openImage(t, image)
	for _, l := range links {
		ino := walk(t, fs, l.path)
		got, err := fs.Readlink(ino)
		if err != nil || got != l.want {
			t.Errorf("%s to %s is %q, %v, want %q", l.path, l.target, got, err, l.want)
		}
		if a, err := fs.Attr(ino); err != nil || a.Mode != filesys.TypeSymlink|0o777 || a.Size != int64(len(l.want)) {
			t.Errorf("%s: %+v, %v", l.path, a, err)
		}
	}
}

// TestLinuxFiles: what the Windows Subsystem for Linux makes, by ntfs-3g's hand,
// with owners and modes of its own.
func TestLinuxFiles(t *testing.T) {
	image := mkntfs(t, 16<<20)
	dir, unmount := mount(t, image, "special_files=wsl")
	must(t, os.Symlink("some/where", dir+"/l"))
	must(t, unix.Mknod(dir+"/c", unix.S_IFCHR|0o644, int(unix.Mkdev(4, 70000))))
	must(t, unix.Mknod(dir+"/b", unix.S_IFBLK|0o644, int(unix.Mkdev(259, 3))))
	must(t, unix.Mknod(dir+"/p", unix.S_IFIFO|0o644, 0))
	must(t, unix.Mknod(dir+"/s", unix.S_IFSOCK|0o644, 0))
	ea := func(pairs ...any) (b []byte) {
		for i := 0; i < len(pairs); i += 2 {
			name, v := pairs[i].(string), le.AppendUint32(nil, uint32(pairs[i+1].(int)))
			e := le.AppendUint32(nil, 0)
			e = append(e, 0, byte(len(name)))
			e = le.AppendUint16(e, uint16(len(v)))
			e = append(append(append(e, name...), 0), v...)
			for len(e)%4 != 0 {
				e = append(e, 0)
			}
			le.PutUint32(e, uint32(len(e)))
			b = append(b, e...)
		}
		return b
	}
	must(t, os.WriteFile(dir+"/f", []byte("x"), 0o644))
	must(t, unix.Setxattr(dir+"/f", "system.ntfs_ea", ea("$LXUID", 1000, "$LXGID", 100000, "$LXMOD", 0o104751), 0))
	must(t, os.Mkdir(dir+"/d", 0o755))
	must(t, unix.Setxattr(dir+"/d", "system.ntfs_ea", ea("$LXUID", 5, "$LXMOD", 0o041700), 0))
	unmount()
	fs := openImage(t, image)
	for name, want := range map[string]filesys.Attr{
		"l": {Mode: filesys.TypeSymlink | 0o777, Size: 10},
		"c": {Mode: filesys.TypeChar | 0o644, Rdev: unix.Mkdev(4, 70000)},
		"b": {Mode: filesys.TypeBlock | 0o644, Rdev: unix.Mkdev(259, 3)},
		"p": {Mode: filesys.TypeFIFO | 0o644},
		"s": {Mode: filesys.TypeSocket | 0o644},
		"f": {Mode: filesys.TypeRegular | 0o4751, UID: 1000, GID: 100000, Size: 1},
		"d": {Mode: filesys.TypeDir | 0o1700, UID: 5},
	} {
		a, err := fs.Attr(walk(t, fs, name))
		got := filesys.Attr{Mode: a.Mode, Rdev: a.Rdev, UID: a.UID, GID: a.GID, Size: a.Size}
		if err != nil || got != want {
			t.Errorf("%s is %+v, %v, want %+v", name, got, err, want)
		}
	}
	if got := content(t, fs, "f"); string(got) != "x" {
		t.Errorf("content %q", got)
	}
	if got := list(t, fs, walk(t, fs, "d")); len(got) > 0 {
		t.Errorf("entries %q", got)
	}
	if target, err := fs.Readlink(walk(t, fs, "l")); err != nil || target != "some/where" {
		t.Errorf("target %q, %v", target, err)
	}
}

// TestNFSFiles: what Windows' NFS server makes.
func TestNFSFiles(t *testing.T) {
	kind := func(name string, rest ...byte) []byte {
		return append(append([]byte(name), make([]byte, 8-len(name))...), rest...)
	}
	files := map[string]struct {
		data []byte
		want filesys.Attr
	}{
		"link":   {kind("LNK\x01", utf16le("a/대상")...), filesys.Attr{Mode: filesys.TypeSymlink | 0o777, Size: 8}},
		"char":   {kind("CHR", 5, 0, 0, 0, 1, 0, 0, 0), filesys.Attr{Mode: filesys.TypeChar | 0o777, Rdev: unix.Mkdev(5, 1)}},
		"block":  {kind("BLK", 8, 0, 0, 0, 17, 0, 0, 0), filesys.Attr{Mode: filesys.TypeBlock | 0o777, Rdev: unix.Mkdev(8, 17)}},
		"fifo":   {kind("FIFO"), filesys.Attr{Mode: filesys.TypeFIFO | 0o777}},
		"socket": {kind("SOCK"), filesys.Attr{Mode: filesys.TypeSocket | 0o777}},
	}
	image := mkntfs(t, 16<<20)
	dir, unmount := mount(t, image, "")
	for name, f := range files {
		must(t, os.WriteFile(dir+"/"+name, nil, 0o644))
		setReparse(t, dir+"/"+name, 0x80000014, f.data)
	}
	unmount()
	fs := openImage(t, image)
	for name, f := range files {
		a, err := fs.Attr(walk(t, fs, name))
		if got := (filesys.Attr{Mode: a.Mode, Rdev: a.Rdev, Size: a.Size}); err != nil || got != f.want {
			t.Errorf("%s is %+v, %v, want %+v", name, got, err, f.want)
		}
	}
}

// TestRefused: what cannot be read says what it is; what only looks strange is
// read.
func TestRefused(t *testing.T) {
	image := mkntfs(t, 16<<20)
	dir, unmount := mount(t, image, "efs_raw")
	reparse := map[uint32]string{0x80000013: "deduplication", 0x80000007: "single-instance", 0x8000001B: "store app",
		0x9000001C: "projected", 0x80000018: "container", 0x80001234: "0x80001234"}
	names := map[string]string{}
	add := func(name, why string) string {
		names[name] = why
		must(t, os.WriteFile(dir+"/"+name, []byte("content"), 0o644))
		return dir + "/" + name
	}
	for tag, why := range reparse {
		setReparse(t, add(why, why), tag, make([]byte, 40))
	}
	cloud := add("placeholder", "in the cloud")
	setReparse(t, cloud, 0x9000301A, make([]byte, 40))
	must(t, unix.Setxattr(cloud, "system.ntfs_attrib", le.AppendUint32(nil, 0x1020), 0))
	setReparse(t, add("WIM", "WIM file"), 0x80000017, []byte{1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	setReparse(t, add("WOF", "algorithm 9"), 0x80000017, []byte{1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0})

	here := dir + "/here"
	must(t, os.WriteFile(here, []byte("content"), 0o644))
	setReparse(t, here, 0x9000401A, make([]byte, 40))
	must(t, os.Mkdir(dir+"/dir", 0o755))
	must(t, os.WriteFile(dir+"/dir/inside", []byte("content"), 0o644))
	setReparse(t, dir+"/dir", 0x9000401A, make([]byte, 40))
	must(t, os.WriteFile(dir+"/efs", noise[:10000], 0o644))
	unmount()
	b, err := os.ReadFile(image)
	must(t, err)
	// Encrypted: the flag of the data attribute, which has 10000 bytes.
	sizes := le.AppendUint64(le.AppendUint64(nil, 10000), 10000)
	at := bytes.Index(b, sizes)
	if at < 0 {
		t.Fatal("the attribute is not found")
	}
	b[at-48+13] |= 0x40
	names["efs"] = "EFS"
	fs, err := ntfs.Open(bytes.NewReader(b), int64(len(b)), filesys.Options{})
	must(t, err)
	for name, why := range names {
		ino := walk(t, fs, name)
		if _, err := fs.Attr(ino); err != nil {
			t.Error(err)
		}
		if _, err := fs.Open(ino); !errors.Is(err, filesys.ErrUnsupported) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := content(t, fs, "here"); string(got) != "content" {
		t.Errorf("a placeholder with its content: %q", got)
	}
	if got := list(t, fs, walk(t, fs, "dir")); !slices.Equal(got, []string{"inside"}) {
		t.Errorf("a directory of the cloud: %q", got)
	}
}
