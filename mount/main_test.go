package mount

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/mounttest"
	"cairn/mount/tree"
)

// childEnv names what a child process of the tests is to do.
const childEnv = "CAIRN_MOUNT_TEST_CHILD"

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		child(what)
		return
	}
	goleak.VerifyTestMain(m)
}

// child is a process of its own that mounts and says so: to be killed, or to
// run as another user.
func child(dir string) {
	tr := tree.NewPoint(testPoint(testFS()), tree.Options{OpenFS: openAs(testFS())})
	s, err := Mount(dir, tr.Root(), Options{Name: "child"})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("mounted")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it
	if err := s.Unmount(context.Background()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("unmounted")
}

// testFS is a guest with one of everything.
func testFS() *mounttest.FS {
	fs := mounttest.NewFS()
	fs.Dir("/etc")
	fs.File("/etc/hostname", "web1\n")
	fs.Symlink("/etc/absolute", "/etc/hostname")
	fs.Symlink("/relative", "etc/hostname")
	secret := fs.File("/etc/shadow", "root:x\n")
	secret.Mode, secret.UID, secret.GID = filesys.TypeRegular, 4242, 4243
	n := fs.File("/etc/one", mounttest.Pattern(100_000))
	fs.Link("/etc/two", n)
	n.Xattrs = map[string][]byte{"user.note": []byte("hello"), "user.empty": {}}
	n.Mtime = time.Date(2040, 1, 2, 3, 4, 5, 678, time.UTC)
	n.Atime = time.Date(1965, 1, 2, 3, 4, 5, 999_999_999, time.UTC)
	sparse := fs.File("/sparse", "")
	sparse.Size, sparse.Blocks = 10<<20, 16
	sparse.Data = []byte(strings.Repeat("\x00", 1<<20) + mounttest.Pattern(8192))
	sparse.Extents = []mounttest.Span{{Start: 1 << 20, End: 1<<20 + 4096}, {Start: 1<<20 + 4096, End: 1<<20 + 8192}}
	dev := fs.Add("/null", filesys.TypeChar|0o666)
	dev.Rdev = unix.Mkdev(1, 3)
	big := fs.Add("/bigdev", filesys.TypeBlock|0o600)
	big.Rdev = unix.Mkdev(0xabc, 0x12345)
	fs.Add("/fifo", filesys.TypeFIFO|0o644)
	fs.Add("/socket", filesys.TypeSocket|0o755)
	fs.Dir("/한국어")
	fs.File("/한국어/"+strings.Repeat("n", 255), "long")
	fs.File("/bad\xff\xfename", "raw bytes")
	fs.File("/new\nline", "")
	return fs
}

// testPoint has the guest on a disk without partitions.
func testPoint(*mounttest.FS) tree.Point {
	b := make([]byte, 1<<20)
	copy(b[1024+56:], "\x53\xef") // looks like ext2
	return tree.Point{
		ID: "p1", Time: mounttest.Epoch, JSON: []byte(`{"name":"p1"}`),
		Disks: []tree.Disk{{Name: "vda", Image: &mounttest.Disk{Bytes: b}}},
	}
}

func openAs(fs filesys.FS) func(io.ReaderAt, int64) (filesys.FS, error) {
	return func(io.ReaderAt, int64) (filesys.FS, error) { return fs, nil }
}

// logBuffer collects log lines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// mountPoint mounts a point until the test ends, and gives where.
func mountPoint(t testing.TB, p tree.Point, fs filesys.FS, opts Options) (*Server, string) {
	t.Helper()
	return mountTree(t, tree.NewPoint(p, tree.Options{OpenFS: openAs(fs)}), opts)
}

func mountTree(t testing.TB, tr *tree.Tree, opts Options) (*Server, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	dir := t.TempDir()
	s, err := Mount(dir, tr.Root(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Unmount(ctx); err != nil {
			t.Error(err)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, dir
}

// guest mounts testFS and gives the directory of its files.
func guest(t testing.TB, fs filesys.FS) string {
	_, dir := mountPoint(t, testPoint(nil), fs, Options{Name: "web1@latest"})
	return dir + "/volumes/vda"
}

// sh runs a shell command with $1, $2, … set. Its working directory is outside
// of any mount, see the package comment on deadlocks.
func sh(t testing.TB, script string, args ...string) string {
	t.Helper()
	out, err := exec.Command("bash", append([]string{"-euo", "pipefail", "-c", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", script, args, err, out)
	}
	return string(out)
}

func needTool(t testing.TB, tool, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if _, err := os.Stat(filepath.Join("/usr/sbin", tool)); err != nil {
			t.Fatalf("this test needs %s: install the package %s", tool, pkg)
		}
	}
}
