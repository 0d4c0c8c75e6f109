package extract

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/mounttest"
)

// What no sane guest holds must not lead out of the destination, hang, or stop
// the rest.
func TestHostileGuest(t *testing.T) {
	outside := t.TempDir()
	fs := mounttest.NewFS()
	fs.Dir("/d")
	d := fs.Get("/d")
	// A symlink that leads out, then a directory of the same name with a file.
	fs.Symlink("/d/evil", outside)
	evil := fs.Dir("/d/evil2")
	fs.File("/d/evil2/pwned", "pwned")
	d.Entries[1].Name = "evil"
	// Names that are paths.
	payload := fs.File("/d/payload", "pwned")
	for i, name := range []string{"../escape", "..", ".", "", "a/b", "nul\x00", "/abs"} {
		d.Entries = append(d.Entries, filesys.DirEntry{Name: name, Ino: payload.Ino, Type: filesys.TypeRegular, Next: uint64(i + 1)})
	}
	// Directories that contain themselves, and one under two names.
	d.Entries = append(d.Entries,
		filesys.DirEntry{Name: "self", Ino: d.Ino, Type: filesys.TypeDir, Next: 50},
		filesys.DirEntry{Name: "again", Ino: evil.Ino, Type: filesys.TypeDir, Next: 51})
	// Sizes that no disk holds, symlinks without a target, broken inodes.
	fs.File("/d/huge", "").Size = 1<<63 - 1
	fs.Symlink("/d/notarget", "")
	fs.File("/d/broken", "").Err = filesys.ErrCorrupt
	fs.File("/d/unreadable", "x").ReadErr = errors.New("block 1234 does not match its digest")
	fs.File("/d/"+strings.Repeat("n", 300), "")
	fs.File("/d/zz-last", "fine")
	fs.Get("/d/huge").Extents = []mounttest.Span{}

	dest := t.TempDir()
	var rep report
	res, err := Copy(ctx, []Source{source(t, guest(fs), "/d")}, dest, Options{Archive: true, Report: rep.add})
	if !errors.Is(err, ErrIncomplete) || res.Failed < 12 {
		t.Errorf("%+v, %v", res, err)
	}
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("something got out: %v", names)
	}
	if names, _ := os.ReadDir(filepath.Dir(dest)); len(names) != 2 { // outside and dest
		t.Errorf("beside the destination: %v", names)
	}
	if b, _ := os.ReadFile(dest + "/d/zz-last"); string(b) != "fine" {
		t.Error("the rest was not copied")
	}
	for _, want := range []string{"does not match its digest", "directory with two names", "cannot be a file's name"} {
		if !strings.Contains(rep.String(), want) {
			t.Errorf("no %q in\n%s", want, &rep)
		}
	}
	if _, err := os.Lstat(dest + "/d/unreadable"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a part of an unreadable file was left: %v", err)
	}
	leftovers(t, dest)
}

// A symlink that lies at the destination, before or put there meanwhile, is not
// followed.
func TestHostileDestination(t *testing.T) {
	outside, dest := t.TempDir(), t.TempDir()
	fs := mounttest.NewFS()
	fs.Dir("/d")
	fs.Dir("/d/sub")
	fs.File("/d/sub/file", "x")
	fs.File("/d/sub/victim", "y")
	if err := os.Mkdir(dest+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dest+"/d/sub"); err != nil {
		t.Fatal(err)
	}
	for _, force := range []bool{false, true} {
		if _, err := Copy(ctx, []Source{source(t, guest(fs), "/d")}, dest, Options{Recursive: true, Force: force}); !errors.Is(err, ErrIncomplete) {
			t.Errorf("through a symlink: %v", err)
		}
	}
	// Somebody swaps the directory for a symlink again and again.
	stop, swapped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Remove(dest + "/d/sub")
				_ = os.Symlink(outside, dest+"/d/sub")
				_ = os.RemoveAll(dest + "/d/sub")
			}
		}
	}()
	for range 200 {
		_, _ = Copy(ctx, []Source{source(t, guest(fs), "/d")}, dest, Options{Recursive: true, Force: true})
	}
	close(stop)
	<-swapped
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("something got out: %v", names)
	}
}
