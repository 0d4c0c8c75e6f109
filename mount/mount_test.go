package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/mounttest"
	"cairn/mount/tree"
)

func TestProgramsReadAMount(t *testing.T) {
	needTool(t, "rsync", "rsync")
	needTool(t, "getfattr", "attr")
	g := guest(t, testFS())
	dest := t.TempDir()
	for _, tc := range []struct{ name, script, want string }{
		{"ls", `cd "$1"; ls -a`, ""},
		{"hidden entries", `cd "$1/etc"; ls -a | head -2 | tr '\n' ' '`, ". .. "},
		{"cat", `cat "$1/etc/hostname"`, "web1\n"},
		{"symlink", `cat "$1/relative"; readlink "$1/etc/absolute"`, "web1\n/etc/hostname\n"},
		{"mode and owner", `stat -c '%a %u:%g %h %s' "$1/etc/shadow" "$1/etc/one"`, "0 4242:4243 1 7\n644 0:0 2 100000\n"},
		{"far times", `TZ=UTC stat -c '%x|%y|%w' "$1/etc/one"`,
			"1965-01-02 03:04:05.999999999 +0000|2040-01-02 03:04:05.000000678 +0000|2024-02-29 12:34:56.123456789 +0000\n"},
		{"hard links", `[ "$1/etc/one" -ef "$1/etc/two" ] && find "$1" -samefile "$1/etc/one" -printf '%f '`, "one two "},
		{"devices", `stat -c '%F %t:%T' "$1/null" "$1/bigdev" "$1/fifo" "$1/socket"`,
			"character special file 1:3\nblock special file abc:12345\nfifo 0:0\nsocket 0:0\n"},
		{"xattrs", `getfattr --absolute-names -d -n user.note --only-values "$1/etc/one"; getfattr -d "$1/etc/two" 2>/dev/null | grep -c user`, "hello2\n"},
		{"sparse copy", `cp --sparse=auto "$1/sparse" "$2/sparse"; cmp "$1/sparse" "$2/sparse"; stat -c %b "$2/sparse"`, "16\n"},
		{"find", `find "$1" | wc -l`, "18\n"},
		{"tar", `tar -C "$1" --sparse -cf - . 2>/dev/null | tar -tf - | wc -l`, "16\n"}, // not the socket
		{"rsync", `rsync -aHX --specials "$1/" "$2/rsync/"; diff -r --no-dereference "$1/etc" "$2/rsync/etc"; [ "$2/rsync/etc/one" -ef "$2/rsync/etc/two" ]`, ""},
		{"raw disk", `stat -c '%s %a' "$1/../../disks/vda.raw"; cmp -n 1048576 "$1/../../disks/vda.raw" "$1/../../disks/vda.raw"`, "1048576 444\n"},
		{"statfs", `stat -f -c '%s %b %f %a %c %d %l' "$1/etc"`, "4096 262144 131072 65536 1000 900 255\n"},
		{"mount table", `findmnt -n -o SOURCE,FSTYPE,OPTIONS "$(dirname "$(dirname "$1")")"`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := sh(t, tc.script, g, dest)
			if tc.want != "" && got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if tc.name == "mount table" {
				for _, want := range []string{"web1@latest", "fuse.cairn", "ro", "nosuid", "nodev"} {
					if !strings.Contains(got, want) {
						t.Errorf("no %q in %q", want, got)
					}
				}
			}
		})
	}
}

func TestNothingCanBeWritten(t *testing.T) {
	g := guest(t, testFS())
	for what, err := range map[string]error{
		"create":  os.WriteFile(g+"/x", nil, 0o644),
		"write":   os.WriteFile(g+"/etc/hostname", nil, 0o644),
		"mkdir":   os.Mkdir(g+"/d", 0o755),
		"remove":  os.Remove(g + "/etc/hostname"),
		"rename":  os.Rename(g+"/relative", g+"/r"),
		"chmod":   os.Chmod(g+"/etc/hostname", 0o777),
		"symlink": os.Symlink("x", g+"/s"),
		"xattr":   unix.Setxattr(g+"/etc/hostname", "user.x", []byte("x"), 0),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Open(g + "/null"); !errors.Is(err, syscall.EACCES) {
		t.Errorf("open a device: %v", err)
	}
}

func TestHoles(t *testing.T) {
	g := guest(t, testFS())
	f, err := os.Open(g + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spans, err := mounttest.Spans(int(f.Fd()), 10<<20)
	if err != nil || len(spans) != 1 || spans[0] != (mounttest.Span{Start: 1 << 20, End: 1<<20 + 8192}) {
		t.Errorf("data at %v, %v", spans, err)
	}
	for _, tc := range []struct {
		off    int64
		whence int
		want   int64
		err    error
	}{
		{0, unix.SEEK_HOLE, 0, nil},
		{1<<20 + 5, unix.SEEK_DATA, 1<<20 + 5, nil},
		{1<<20 + 5, unix.SEEK_HOLE, 1<<20 + 8192, nil},
		{2 << 20, unix.SEEK_DATA, 0, unix.ENXIO},
		{10 << 20, unix.SEEK_HOLE, 0, unix.ENXIO},
		{10<<20 - 1, unix.SEEK_HOLE, 10<<20 - 1, nil},
	} {
		got, err := unix.Seek(int(f.Fd()), tc.off, tc.whence)
		if err != tc.err || err == nil && got != tc.want {
			t.Errorf("seek %d whence %d: %d, %v; want %d, %v", tc.off, tc.whence, got, err, tc.want, tc.err)
		}
	}
}

// Large directories come whole through every way of listing, also in the middle
// and again from the kernel's cache.
func TestLargeDirectory(t *testing.T) {
	fs := mounttest.NewFS()
	const n = 2000
	for i := range n {
		fs.File(fmt.Sprintf("/file-with-a-longer-name-%05d", i), "x")
	}
	g := guest(t, fs)
	for range 2 {
		f, err := os.Open(g)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for {
			names, err := f.Readdirnames(100)
			for _, name := range names {
				if seen[name] {
					t.Fatalf("%q comes twice", name)
				}
				seen[name] = true
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		if len(seen) != n {
			t.Errorf("%d names, want %d", len(seen), n)
		}
	}
	if got := strings.TrimSpace(sh(t, `ls -l "$1" | wc -l; find "$1" -type f -size 1c | wc -l`, g)); got != "2001\n2000" {
		t.Errorf("ls and find count %q", got)
	}
	// Seek back into the middle with a directory offset.
	fd, err := unix.Open(g, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	var offsets []int64
	var first []string
	for range 10 {
		off, _ := unix.Seek(fd, 0, io.SeekCurrent)
		k, err := unix.Getdents(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		_, _, names := unix.ParseDirent(buf[:k], 1, nil)
		if len(names) > 0 {
			offsets, first = append(offsets, off), append(first, names[0])
		}
	}
	for i := len(offsets) - 1; i >= 0; i-- {
		if _, err := unix.Seek(fd, offsets[i], io.SeekStart); err != nil {
			t.Fatal(err)
		}
		k, err := unix.Getdents(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, names := unix.ParseDirent(buf[:k], 1, nil); names[0] != first[i] {
			t.Errorf("at offset %d: %q, was %q", offsets[i], names[0], first[i])
		}
	}
}

func TestParallelReaders(t *testing.T) {
	fs := testFS()
	const size = 4 << 20
	fs.File("/big", mounttest.Pattern(size))
	g := guest(t, fs)
	want := mounttest.Pattern(size)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			fd, err := unix.Open(g+"/big", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			buf := make([]byte, 10_000)
			for k := range 5 {
				off := int64((i*7919 + k*104729) % (size - len(buf)))
				n, err := unix.Pread(fd, buf, off)
				if err != nil || n != len(buf) || string(buf) != want[off:off+int64(n)] {
					t.Errorf("reader %d at %d: %d, %v", i, off, n, err)
					return
				}
				var st unix.Stat_t
				if err := unix.Stat(g+"/etc/one", &st); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// A block that cannot be vouched for is EIO and one line in the log that names
// it; what lies around it can still be read.
func TestCorruption(t *testing.T) {
	fs := testFS()
	lost := errors.New("block 0f1e2d3c of disk vda does not match its digest")
	data := []byte(mounttest.Pattern(1 << 20))
	n := fs.File("/damaged", "")
	n.Size, n.Blocks = 1<<20, 2048
	n.Reader = readerFunc(func(p []byte, off int64) (int, error) {
		end := off + int64(len(p))
		if off < 600_000 && end > 500_000 {
			k := 0
			if off < 500_000 {
				k = copy(p, data[off:500_000]) // a part was read before the damage
			}
			return k, lost
		}
		return copy(p, data[off:]), nil
	})
	fs.File("/etc/inode", "").Err = fmt.Errorf("inode 77: bad checksum: %w", errors.New("file system is corrupt"))
	var log logBuffer
	_, dir := mountPoint(t, testPoint(nil), fs, Options{Log: log.logger()})
	g := dir + "/volumes/vda"
	f, err := os.Open(g + "/damaged")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 4096)
	for _, off := range []int64{0, 400_000, 700_000, 1<<20 - 4096} {
		if k, err := f.ReadAt(buf, off); err != nil || string(buf[:k]) != string(data[off:off+4096]) {
			t.Errorf("sound bytes at %d: %d, %v", off, k, err)
		}
	}
	for _, off := range []int64{499_712, 550_000} {
		if _, err := f.ReadAt(buf, off); !errors.Is(err, syscall.EIO) {
			t.Errorf("damaged bytes at %d: %v", off, err)
		}
	}
	if _, err := os.ReadFile(g + "/damaged"); !errors.Is(err, syscall.EIO) {
		t.Errorf("read of the whole: %v", err)
	}
	if got := strings.Count(log.String(), "0f1e2d3c"); got != 1 {
		t.Errorf("%d lines name the block:\n%s", got, &log)
	}
	if !strings.Contains(log.String(), "/volumes/vda/damaged") {
		t.Errorf("no path in the log:\n%s", &log)
	}
	// A directory with a damaged inode lists all names.
	if got := sh(t, `ls "$1/etc"; ls -l "$1/etc/inode" 2>&1 || true`, g); !strings.Contains(got, "inode\n") || !strings.Contains(got, "Input/output error") {
		t.Errorf("ls: %s", got)
	}
	if got := strings.Count(log.String(), "inode 77"); got != 1 {
		t.Errorf("%d lines name the inode:\n%s", got, &log)
	}
}

type readerFunc func(p []byte, off int64) (int, error)

func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// A reader that gives less than it should is not believed.
func TestShortRead(t *testing.T) {
	fs := testFS()
	n := fs.File("/short", "")
	n.Size = 100_000
	n.Reader = readerFunc(func(p []byte, off int64) (int, error) { return len(p) / 2, io.EOF })
	g := guest(t, fs)
	if _, err := os.ReadFile(g + "/short"); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
}

// With AllowOther the guest's permission bits count.
func TestAllowOther(t *testing.T) {
	_, dir := mountPoint(t, testPoint(nil), testFS(), Options{AllowOther: true})
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // t.TempDir is private
		t.Fatal(err)
	}
	as := func(uid uint32, path string) (string, error) {
		cmd := exec.Command("/bin/cat", dir+"/volumes/vda"+path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := as(4242, "/etc/hostname"); err != nil || out != "web1\n" {
		t.Errorf("another user reads a public file: %q, %v", out, err)
	}
	if out, err := as(4242, "/etc/shadow"); err == nil {
		t.Errorf("another user reads a private file: %q", out)
	}
	if b, err := os.ReadFile(dir + "/volumes/vda/etc/shadow"); err != nil || string(b) != "root:x\n" {
		t.Errorf("root reads it: %q, %v", b, err)
	}
}

func TestMapOwner(t *testing.T) {
	_, dir := mountPoint(t, testPoint(nil), testFS(), Options{MapOwner: true})
	if got := sh(t, `stat -c '%u:%g' "$1/volumes/vda/etc/shadow"`, dir); got != "0:0\n" {
		t.Errorf("owner %s", got)
	}
}

// A mounted item follows its points as they come and go.
func TestMountedItem(t *testing.T) {
	var mu sync.Mutex
	refs := []tree.Ref{{ID: "a", Time: mounttest.Epoch}}
	tr := tree.NewItem(tree.Item{
		Name: "web1", Refresh: time.Millisecond,
		List: func(context.Context) ([]tree.Ref, error) {
			mu.Lock()
			defer mu.Unlock()
			return refs, nil
		},
		Open: func(context.Context, string) (tree.Point, error) { return testPoint(nil), nil },
	}, tree.Options{OpenFS: openAs(testFS())})
	_, dir := mountTree(t, tr, Options{})
	if got := sh(t, `ls "$1"; cat "$1/latest/volumes/vda/etc/hostname"; cat "$1/nope" 2>&1 || true`, dir); !strings.HasPrefix(got, "2024-02-29T12-34-56Z\nlatest\nweb1\n") {
		t.Errorf("got %q", got)
	}
	mu.Lock()
	refs = append(refs, tree.Ref{ID: "b", Time: mounttest.Epoch.Add(time.Hour)})
	mu.Unlock()
	want := "2024-02-29T12-34-56Z\n2024-02-29T13-34-56Z\nlatest\n2024-02-29T13-34-56Z\n"
	deadline := time.Now().Add(5 * time.Second)
	for {
		got := sh(t, `ls "$1"; readlink "$1/latest"`, dir)
		if got == want {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}
