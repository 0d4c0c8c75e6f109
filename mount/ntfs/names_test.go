package ntfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
)

// TestDOSNames: they are found and not listed, and are no links of their own.
func TestDOSNames(t *testing.T) {
	fs, _ := made(t, 16, "", func(dir string) {
		must(t, os.WriteFile(dir+"/a long name.text", []byte("x"), 0o644))
		must(t, unix.Setxattr(dir+"/a long name.text", "system.ntfs_dos_name", []byte("ALONGN~1.TEX"), 0))
	})
	if got := list(t, fs, fs.Root()); !slices.Equal(got, []string{"a long name.text"}) {
		t.Errorf("root has %q", got)
	}
	ino := walk(t, fs, "ALONGN~1.TEX")
	if ino != walk(t, fs, "a long name.text") {
		t.Error("another file by its DOS name")
	}
	for _, name := range []string{"alongn~1.tex", "A long name.text"} {
		if _, err := fs.Lookup(fs.Root(), name); !errors.Is(err, filesys.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if a, err := fs.Attr(ino); err != nil || a.Nlink != 1 || a.Btime.IsZero() {
		t.Errorf("%+v, %v", a, err)
	}
	names, err := fs.Names(ino)
	if err != nil || len(names) != 1 || names[0] != (filesys.Name{Parent: fs.Root(), Name: "a long name.text"}) {
		t.Errorf("names %v, %v", names, err)
	}
	if v, err := fs.Xattr(ino, "system.ntfs_dos_name"); err != nil || string(v) != "ALONGN~1.TEX" {
		t.Errorf("DOS name %q, %v", v, err)
	}
}

// TestNames: Names is the reverse of the tree.
func TestNames(t *testing.T) {
	fs, _ := made(t, 32, "-c 1024", func(dir string) {
		fill(t, dir, 1024, false)
	})
	got, want := map[filesys.Name]uint64{}, map[filesys.Name]uint64{}
	seen := map[uint64]bool{}
	var visit func(dir uint64)
	visit = func(dir uint64) {
		must(t, fs.ReadDir(dir, 0, func(e filesys.DirEntry) bool {
			want[filesys.Name{Parent: dir, Name: e.Name}] = e.Ino
			if !seen[e.Ino] {
				seen[e.Ino] = true
				names, err := fs.Names(e.Ino)
				must(t, err)
				for _, n := range names {
					got[n] = e.Ino
				}
			}
			if e.Type == filesys.TypeDir {
				visit(e.Ino)
			}
			return true
		}))
	}
	visit(fs.Root())
	if len(want) < 500 || len(got) != len(want) {
		t.Fatalf("%d names, want %d", len(got), len(want))
	}
	for n, ino := range want {
		if got[n] != ino {
			t.Errorf("%v is %d, want %d", n, got[n], ino)
		}
	}
}

// TestXattrs: what ntfs-3g does not list but tells.
func TestXattrs(t *testing.T) {
	image := mkntfs(t, 16<<20)
	dir, unmount := mount(t, image, "")
	must(t, os.WriteFile(dir+"/f", []byte("x"), 0o644))
	must(t, os.Mkdir(dir+"/d", 0o755))
	must(t, unix.Setxattr(dir+"/f", "user.big", make([]byte, 65536), 0))
	for i := range 200 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o644))
		must(t, unix.Setxattr(fmt.Sprintf("%s/%d", dir, i), "system.ntfs_object_id", noise[i*64:][:16+i%2*48], 0))
	}
	unmount()
	fs := openImage(t, image)
	dir, _ = mount(t, image, "ro")
	for path, ino := range map[string]uint64{"f": walk(t, fs, "f"), "1": walk(t, fs, "1"), "2": walk(t, fs, "2"), "199": walk(t, fs, "199"), "d": walk(t, fs, "d"), "": fs.Root(), "$Secure": 9} {
		for _, name := range []string{"ntfs_acl", "ntfs_attrib", "ntfs_attrib_be", "ntfs_times", "ntfs_times_be", "ntfs_crtime",
			"ntfs_crtime_be", "ntfs_reparse_data", "ntfs_object_id", "ntfs_dos_name", "ntfs_ea"} {
			want := make([]byte, 65536)
			n, wantErr := unix.Lgetxattr(dir+"/"+path, "system."+name, want)
			got, err := fs.Xattr(ino, "system."+name)
			if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want[:n]) {
				t.Errorf("%q: %s is %d %x, %v, want %d %x, %v", path, name, len(got), got, err, n, want[:max(n, 0)], wantErr)
			}
		}
	}
}
