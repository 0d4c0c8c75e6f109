package guesttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// The guest's shell script and Body compute the same.
func TestBody(t *testing.T) {
	script, err := filepath.Abs("init")
	if err != nil {
		t.Fatal(err)
	}
	body := filepath.Join(t.TempDir(), "body")
	if err := os.Symlink(script, body); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 5, 199, 200, 123456} {
		out, err := exec.Command("sh", body, fmt.Sprint(n)).CombinedOutput()
		if err != nil {
			t.Fatalf("body %d: %v: %s (it needs sh and awk)", n, err, out)
		}
		if got, want := string(out), string(Body(n)); got != want {
			t.Errorf("file %d: the script writes %d bytes, first difference to ours of %d at %d", n, len(got), len(want), difference(out, Body(n)))
		}
	}
}

// tree is a disk with files 0 to last, all synced.
func tree(last int) fstest.MapFS {
	files := fstest.MapFS{}
	var list strings.Builder
	for n := 0; n <= last; n++ {
		files["files/"+fileName(n)] = &fstest.MapFile{Data: Body(n)}
		fmt.Fprintln(&list, fileName(n))
	}
	files["synced"] = &fstest.MapFile{Data: []byte(list.String())}
	return files
}

func TestCheckFiles(t *testing.T) {
	if last := CheckFiles(t, tree(7), 5); last != 7 {
		t.Errorf("the last synced file is %d, must be 7", last)
	}
	good := func(name string, change func(fstest.MapFS)) {
		files := tree(3)
		change(files)
		if last, err := checkFiles(files); err != nil || last != 3 {
			t.Errorf("%s: last file %d, %v", name, last, err)
		}
	}
	good("a file half written", func(f fstest.MapFS) { f["files/f000004"] = &fstest.MapFile{Data: Body(4)[:100]} })
	good("a name half written", func(f fstest.MapFS) { f["synced"].Data = append(f["synced"].Data, "f00"...) })

	bad := func(name, want string, change func(fstest.MapFS)) {
		files := tree(3)
		change(files)
		if _, err := checkFiles(files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, must say %q", name, err, want)
		}
	}
	bad("lost", "f000002", func(f fstest.MapFS) { delete(f, "files/f000002") })
	bad("changed", "first difference at 5", func(f fstest.MapFS) { f["files/f000001"].Data[5] ^= 1 })
	bad("cut", "f000003", func(f fstest.MapFS) { f["files/f000003"].Data = nil })
	bad("gap", "line 2", func(f fstest.MapFS) { f["synced"].Data = []byte("f000000\nf000001\nf000003\n") })
	bad("too new", "f000005", func(f fstest.MapFS) { f["files/f000005"] = &fstest.MapFile{Data: Body(5)} })
	bad("a stranger", "lost", func(f fstest.MapFS) { f["files/lost"] = &fstest.MapFile{} })
	bad("no list", "synced", func(f fstest.MapFS) { delete(f, "synced") })
}

func TestTargets(t *testing.T) {
	drives := []Drive{{Target: "vda"}, {}, {Bus: VirtioSCSI}, {Serial: "root"}}
	for range 27 {
		drives = append(drives, Drive{Bus: VirtioSCSI})
	}
	full := targets(drives)
	var names []string
	for _, d := range full {
		names = append(names, d.Target+"/"+d.Serial)
	}
	got := strings.Join(append(names[:6:6], names[len(names)-2:]...), " ")
	if want := "vda/vda vdb/vdb sda/sda vdc/root sdb/sdb sdc/sdc sdaa/sdaa sdab/sdab"; got != want {
		t.Errorf("targets are %s, must be %s", got, want)
	}
}
