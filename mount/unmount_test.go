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
	"syscall"
	"testing"

	"cairn/mount/mounttest"
	"cairn/mount/tree"
)

func TestUnmountWhileBusy(t *testing.T) {
	needTool(t, "fusermount3", "fuse3")
	t.Run("direct", func(t *testing.T) { unmountWhileBusy(t, Options{}) })
	t.Run("fusermount3", func(t *testing.T) { unmountWhileBusy(t, Options{helper: true}) })
}

func unmountWhileBusy(t *testing.T, opts Options) {
	fs := testFS()
	fs.File("/big", mounttest.Pattern(1<<20))
	var log logBuffer
	opts.Log = log.logger()
	s, dir := mountPoint(t, testPoint(nil), fs, opts)
	f, err := os.Open(dir + "/volumes/vda/big")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	if _, err := f.ReadAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- s.Unmount(ctx) }()
	for names := []os.DirEntry{nil}; len(names) > 0; { // until it is detached
		if names, err = os.ReadDir(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.ReadAt(buf, 500_000); err != nil || string(buf) != mounttest.Pattern(1 << 20)[500_000:501_000] {
		t.Errorf("the open file after the mount was detached: %v", err)
	}
	cancel()
	var busy *BusyError
	if err := <-result; !errors.As(err, &busy) || len(busy.Users) == 0 || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("unmount while busy: %v", err)
	}
	if !strings.Contains(log.String(), "was detached") {
		t.Errorf("log: %s", &log)
	}
	f.Close()
	s.Wait()
	if err := s.Unmount(context.Background()); err != nil {
		t.Errorf("unmount after the end: %v", err)
	}
}

func TestUnmountFromOutside(t *testing.T) {
	needTool(t, "fusermount3", "fuse3")
	for _, helper := range []bool{false, true} {
		s, dir := mountPoint(t, testPoint(nil), testFS(), Options{helper: helper})
		select {
		case <-s.Done():
			t.Fatal("done before the end")
		default:
		}
		sh(t, `cat "$1/volumes/vda/etc/hostname"; fusermount3 -u "$1"`, dir)
		s.Wait()
	}
}

func TestMountPointChecks(t *testing.T) {
	tr := tree.NewPoint(testPoint(nil), tree.Options{OpenFS: openAs(testFS())})
	tmp := t.TempDir()
	file := filepath.Join(tmp, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, taken := mountPoint(t, testPoint(nil), testFS(), Options{Name: "other"})
	link := filepath.Join(t.TempDir(), "link")
	empty := t.TempDir()
	if err := os.Symlink(empty, link); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		filepath.Join(tmp, "missing"): "does not exist; create it with: mkdir -p",
		file:                          "not a directory",
		tmp:                           `not empty (it holds "file")`,
		taken:                         "other is already mounted there; unmount it with: fusermount3 -u",
	} {
		_, err := Mount(dir, tr.Root(), Options{})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
	s, err := Mount(link, tr.Root(), Options{})
	if err != nil || s.Dir() != empty {
		t.Fatalf("through a symlink: %v", err)
	}
	if err := s.Unmount(context.Background()); err != nil {
		t.Error(err)
	}
}

// startChild runs the test binary as a process that mounts at dir.
func startChild(t *testing.T, dir string, cred *syscall.Credential) (cmd *exec.Cmd, stdin io.WriteCloser, line func() string) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	if cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line = func() string {
		var b []byte
		one := make([]byte, 1)
		for {
			if n, err := stdout.Read(one); n == 0 || err != nil || one[0] == '\n' {
				return string(b)
			}
			b = append(b, one[0])
		}
	}
	return cmd, stdin, line
}

// What served a mount was killed: the dead mount is named, with the way out.
func TestDeadMount(t *testing.T) {
	needTool(t, "fusermount3", "fuse3")
	dir := t.TempDir()
	cmd, _, line := startChild(t, dir, nil)
	if got := line(); got != "mounted" {
		t.Fatalf("child says %q", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	tr := tree.NewPoint(testPoint(nil), tree.Options{OpenFS: openAs(testFS())})
	_, err := Mount(dir, tr.Root(), Options{})
	if err == nil || !strings.Contains(err.Error(), "transport endpoint is not connected") || !strings.Contains(err.Error(), "fusermount3 -u "+dir) {
		t.Errorf("got %v", err)
	}
	sh(t, `fusermount3 -u "$1"`, dir)
	s, err := Mount(dir, tr.Root(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unmount(context.Background()); err != nil {
		t.Error(err)
	}
}

// An ordinary user mounts, reads what only root could read in the guest, and
// nobody else gets in.
func TestOrdinaryUser(t *testing.T) {
	needTool(t, "fusermount3", "fuse3")
	const nobody = 65534
	st, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm()&0o006 != 0o006 { // udev would have opened it to everyone
		if err := os.Chmod("/dev/fuse", 0o666); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod("/dev/fuse", st.Mode().Perm())
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("cairn-mount-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cred := &syscall.Credential{Uid: nobody, Gid: nobody}
	cmd, stdin, line := startChild(t, dir, cred)
	if got := line(); got != "mounted" {
		t.Fatalf("child says %q", got)
	}
	as := exec.Command("cat", dir+"/volumes/vda/etc/shadow")
	as.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := as.CombinedOutput(); err != nil || string(out) != "root:x\n" {
		t.Errorf("the user who mounted reads a file of mode 0: %q, %v", out, err)
	}
	if _, err := os.ReadDir(dir); !errors.Is(err, syscall.EACCES) {
		t.Errorf("another user gets %v", err)
	}
	stdin.Close()
	if got := line(); got != "unmounted" {
		t.Errorf("child says %q", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
