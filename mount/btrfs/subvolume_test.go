package btrfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/filesys/fstest"
)

// subvolumes makes a file system as distributions lay it out: subvolumes side
// by side and within each other, snapshots, and a default that is not the top
// level.
func subvolumes(t testing.TB) *volume {
	t.Helper()
	v := mkfs(t, 1, 130, "")
	root, unmount := v.mount(t, false, "")
	path := func(name string) string { return filepath.Join(root, name) }
	for _, name := range []string{"@", "@home", "@/var", "@/var/lib", "@/.snapshots"} {
		subvolume(t, "create", path(name))
		writeFile(t, path(name+"/file"), []byte(name))
	}
	writeFile(t, path("@/etc/fstab"), text(3000))
	must(t, os.Mkdir(path("@/.snapshots/1"), 0o755))
	subvolume(t, "snapshot", path("@"), path("@/.snapshots/1/snapshot"))
	writeFile(t, path("@/etc/fstab"), text(5000))
	subvolume(t, "snapshot", "-r", path("@"), path("@/.snapshots/2"))
	subvolume(t, "snapshot", path("@home"), path("renamed"))
	must(t, os.Rename(path("renamed"), path("@/etc/home of yesterday")))
	subvolume(t, "create", path("deleted"))
	commit(t, root)
	subvolume(t, "delete", path("deleted"))
	subvolume(t, "delete", "-c", path("@/var/lib"))
	subvolume(t, "set-default", path("@/.snapshots/1/snapshot"))
	unmount()
	return v
}

func TestSubvolumes(t *testing.T) {
	v := subvolumes(t)
	fs := v.open(t)
	// The kernel's numbers of different subvolumes are the same, and so not
	// compared; nor are the times of the empty directories that it makes up.
	ignore := fstest.Ignore{Inodes: true, Names: []string{".snapshots", "var"}}

	kernel, unmount := v.mount(t, true, "")
	fstest.Compare(t, fs, kernel, ignore)
	unmount()
	list, err := fs.Subvolumes()
	must(t, err)
	var paths []string
	for _, s := range list {
		paths = append(paths, s.Path)
		if s.Default != (s.Path == "@/.snapshots/1/snapshot") || s.ReadOnly != (s.Path == "@/.snapshots/2") || s.ID == 0 ||
			s.Created.IsZero() != (s.Path == "") && s.Path != "" {
			t.Errorf("%+v", s)
		}
		if snapshot := strings.Contains(s.Path, ".snapshots/") || strings.HasSuffix(s.Path, "yesterday"); s.Snapshot != snapshot {
			t.Errorf("%+v", s)
		}
		sub, err := fs.Sub(s.ID)
		must(t, err)
		kernel, unmount := v.mount(t, true, "subvol=/"+s.Path)
		fstest.Compare(t, sub, kernel, fstest.Ignore{Inodes: true, Times: true})
		if s.Path != "" && s.Path != "@" { // where those names lead somewhere
			fstest.Compare(t, sub, kernel, ignore)
		}
		unmount()
		fstest.Exercise(t, sub, 2000)
	}
	want := []string{"", "@", "@home", "@/var", "@/.snapshots", "@/.snapshots/1/snapshot", "@/.snapshots/2", "@/etc/home of yesterday"}
	if !slices.Equal(paths, want) {
		t.Errorf("subvolumes %q, want %q", paths, want)
	}
	if _, err := fs.Sub(4711); !errors.Is(err, filesys.ErrNotExist) {
		t.Errorf("an absent subvolume: %v", err)
	}
}

// TestDeadEntries: what a snapshot has of the subvolumes in its original is
// empty directories.
func TestDeadEntries(t *testing.T) {
	fs := subvolumes(t).open(t)
	for _, name := range []string{"var", ".snapshots"} {
		ino := walk(t, fs, name)
		a, err := fs.Attr(ino)
		if err != nil || a.Mode != filesys.TypeDir|0o755 || a.Size != 0 || a.Ino != ino {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		must(t, fs.ReadDir(ino, 0, func(e filesys.DirEntry) bool { t.Errorf("%s has %q", name, e.Name); return true }))
		if _, err := fs.Lookup(ino, "file"); !errors.Is(err, filesys.ErrNotExist) {
			t.Errorf("lookup in %s: %v", name, err)
		}
		if p, err := fs.Parent(ino); err != nil || p != fs.Root() {
			t.Errorf("parent of %s: %d, %v", name, p, err)
		}
		if names, err := fs.Names(ino); err != nil || len(names) != 1 || names[0] != (filesys.Name{Parent: fs.Root(), Name: name}) {
			t.Errorf("names of %s: %v, %v", name, names, err)
		}
	}
}

// TestNames: from every inode lead its names back.
func TestNames(t *testing.T) {
	v := subvolumes(t)
	dir, unmount := v.mount(t, false, "subvolid=5")
	must(t, os.Mkdir(filepath.Join(dir, "many"), 0o755))
	for i := range 400 { // more than the first kind of reference has room for
		must(t, os.Link(filepath.Join(dir, "@/file"), filepath.Join(dir, "@", strings.Repeat("n", 200)+string(rune('a'+i%26))+string(rune('a'+i/26)))))
	}
	unmount()
	top, err := v.open(t).Sub(btrfs.TopLevel)
	must(t, err)
	count := 0
	var visit func(dir uint64)
	visit = func(dir uint64) {
		must(t, top.ReadDir(dir, 0, func(e filesys.DirEntry) bool {
			count++
			names, err := top.Names(e.Ino)
			if err != nil || !slices.Contains(names, filesys.Name{Parent: dir, Name: e.Name}) {
				t.Errorf("%d %q in %d: %v, %v", e.Ino, e.Name, dir, names, err)
			}
			if e.Type == filesys.TypeDir {
				visit(e.Ino)
			}
			return true
		}))
	}
	visit(top.Root())
	if count < 420 {
		t.Errorf("%d names", count)
	}
}
