//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mountWorld is a world with a point of machine web1, whose disk, without
// partitions, has files of 16 MiB that do not shrink.
func mountWorld(t *testing.T, files int) (w *world, src string) {
	w = newWorld(t)
	src = w.path("src")
	w.must(os.Mkdir(src, 0o755))
	for i := range files {
		w.fillRandom(fmt.Sprintf("%s/file%d", src, i), 16*mib, uint64(10+i))
	}
	w.tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", src, filepath.Join(w.images, "web1.raw"), fmt.Sprint(16*files+24, "M"))
	w.startServer()
	w.startAgent()
	w.setUp()
	w.awaitMachine("web1")
	w.protect("web1")
	w.backUp("web1")
	w.agent.stop()
	return w, src
}

// startMount starts a mount whose end the scene decides.
func (w *world) startMount(what string, flags ...string) (p *process, dir string) {
	w.Helper()
	dir, err := os.MkdirTemp(w.dir, "mnt-")
	w.must(err)
	return w.start("mount of "+what, "mounted at", cairnExe, append([]string{"mount", what, dir}, flags...)...), dir
}

// TestMountOutlivesServer: programs that read while the server is restarted wait
// and get their bytes, be it of a point that was open or of one that nobody had
// entered; when it stays away they get EIO after the time that was asked for,
// and their bytes again when it is back.
func TestMountOutlivesServer(t *testing.T) {
	w, src := mountWorld(t, 4)
	point, item := w.mount("web1@latest"), w.mount("web1")
	equal := func(name string) error {
		got, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(filepath.Join(src, filepath.Base(name)))
		w.must(err)
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s has other bytes", name)
		}
		return nil
	}
	w.must(equal(point.dir + "/volumes/vda/file0"))
	latest, err := os.Readlink(item.dir + "/latest")
	w.must(err)
	for restart := range 2 { // the second by force
		if restart == 0 {
			w.server.stop()
		} else {
			w.server.kill()
		}
		var readers sync.WaitGroup
		for _, name := range []string{point.dir + "/volumes/vda/file", item.dir + "/" + latest + "/volumes/vda/file"} {
			readers.Go(func() {
				if err := equal(fmt.Sprint(name, 1+restart)); err != nil {
					t.Errorf("while the server was away: %v", err)
				}
			})
		}
		w.startServer()
		readers.Wait()
	}
	proved(t, "reads of an open point and of one just entered outlive a restart and a kill -9 of the server")

	impatient := w.mount("web1@latest", "--wait", "1s")
	if _, err := os.ReadDir(impatient.dir + "/volumes/vda"); err != nil {
		t.Error(err)
	}
	w.server.stop()
	for range 3 {
		if err := equal(impatient.dir + "/volumes/vda/file3"); !errors.Is(err, syscall.EIO) {
			t.Errorf("from a server that does not come back: %v", err)
		}
	}
	w.startServer()
	for deadline := time.Now().Add(time.Minute); ; {
		err := equal(impatient.dir + "/volumes/vda/file3")
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EIO) || time.Now().After(deadline) {
			t.Fatalf("the server is back: %v", err)
		}
	}
	// The points are held by the server that knows nothing of who held them.
	w.startAgent()
	w.backUp("web1")
	points := w.points("web1")
	w.refused(1, []string{"mount"}, "point", "delete", points[len(points)-1].Name)
	proved(t, "with --wait 1s a server that is gone is EIO, and nothing of that is remembered when it is back")
}

// TestMountEnds: every way in which people end a mount leaves an empty directory
// that can be mounted on again.
func TestMountEnds(t *testing.T) {
	w, _ := mountWorld(t, 1)
	gone := func(p *process, dir string) {
		t.Helper()
		if p != nil {
			if code := p.exited(time.Minute); code != 0 {
				t.Errorf("status %d: %s", code, p.said)
			}
		}
		w.notMounted(dir)
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("left in the directory: %v, %v", names, err)
		}
		w.must(os.Remove(dir))
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		p, dir := w.startMount("web1@latest")
		w.must(p.Process.Signal(sig))
		gone(p, dir)
	}
	for _, with := range [][]string{{"umount"}, {"umount", "-l"}, {"fusermount3", "-u"}} {
		p, dir := w.startMount("web1@latest")
		w.tool(with[0], append(with[1:], dir)...)
		gone(p, dir)
		dir, err := os.MkdirTemp(w.dir, "mnt-")
		w.must(err)
		w.cairn("mount", "web1@latest", dir, "--background")
		w.tool(with[0], append(with[1:], dir)...)
		gone(nil, dir)
	}
	proved(t, "ended by SIGINT, SIGTERM, umount, umount -l and fusermount3 -u, in front and in the background")

	p, dir := w.startMount("web1@latest")
	f, err := os.Open(dir + "/volumes/vda/file0")
	w.must(err)
	defer f.Close()
	w.must(p.Process.Signal(os.Interrupt))
	if !p.said.wait("was detached", p.ended, time.Minute) {
		t.Fatalf("a busy mount said %s", p.said)
	}
	w.notMounted(dir)
	if _, err := f.ReadAt(make([]byte, 4096), 8*mib); err != nil {
		t.Errorf("who has a file open reads on: %v", err)
	}
	again := w.start("mount again", "mounted at", cairnExe, "mount", "web1@latest", dir)
	w.must(p.Process.Signal(os.Interrupt))
	if code := p.exited(time.Minute); code != 1 || !strings.Contains(p.said.String(), "still in use by") {
		t.Errorf("after a second Ctrl-C: status %d: %s", code, p.said)
	}
	if _, err := os.ReadDir(dir + "/volumes/vda"); err != nil {
		t.Errorf("the new mount at the same place: %v", err)
	}
	w.must(again.Process.Signal(os.Interrupt))
	gone(again, dir)
	proved(t, "a busy mount is detached at once, its readers go on, and a second Ctrl-C leaves them")

	for _, wrong := range [][]string{
		{"--map-uid", "1000"}, {"--map-uid", "a:b"}, {"--map-gid", "1:2:0"}, {"--map-uid", "1:2", "--map-uid", "1:3"},
		{"--map-owner", "--map-gid", "1:2"}, {"--wait", "-1s"}, {"--wait", "soon"},
	} {
		w.refused(2, nil, append([]string{"mount", "web1@latest", w.images}, wrong...)...)
	}
	proved(t, "wrong ids and times are usage errors")
}

// TestMountByOrdinaryUser: who may open the server's socket mounts without being
// root, and has in the mount what is his by --map-uid.
func TestMountByOrdinaryUser(t *testing.T) {
	w, _ := mountWorld(t, 1)
	const nobody = 65534
	st, err := os.Stat("/dev/fuse")
	w.must(err)
	if st.Mode().Perm()&0o006 != 0o006 { // udev would have opened it to everyone
		w.must(os.Chmod("/dev/fuse", 0o666))
		defer os.Chmod("/dev/fuse", st.Mode().Perm())
	}
	w.must(os.Chmod(w.dir, 0o755))
	w.must(os.Chmod(strings.TrimPrefix(w.address, "unix:"), 0o666))
	w.must(os.Chmod(filepath.Dir(cairnExe), 0o755))
	dir := w.path("his")
	w.must(os.Mkdir(dir, 0o755))
	w.must(os.Chown(dir, nobody, nobody))
	as := func(name string, args ...string) (string, error) {
		cmd := exec.Command(name, args...)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "CAIRN_SERVER="+w.address, "HOME=/")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := as(cairnExe, "mount", "web1@latest", dir, "--background", "--map-uid", "0:65534", "--map-gid", "0:65534"); err != nil {
		t.Fatalf("mount by nobody: %v: %s", err, out)
	}
	if out, err := as("stat", "-c", "%u:%g %s", dir+"/volumes/vda/file0"); err != nil || out != fmt.Sprintln("65534:65534", 16*mib) {
		t.Errorf("his file: %v: %s", err, out)
	}
	sum, _, _ := strings.Cut(w.tool("sha256sum", w.path("src/file0")), " ")
	if out, err := as("sha256sum", dir+"/volumes/vda/file0"); err != nil || !strings.HasPrefix(out, sum+" ") {
		t.Errorf("its bytes: %v: %s", err, out)
	}
	if _, err := os.ReadDir(dir); !errors.Is(err, unix.EACCES) {
		t.Errorf("another user, root, gets %v", err)
	}
	if out, err := as("fusermount3", "-u", dir); err != nil {
		t.Errorf("unmount by nobody: %v: %s", err, out)
	}
	w.notMounted(dir)
	proved(t, "an ordinary user mounts, maps ids and unmounts")
}
