//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/client/source/guesttest"
)

// tourMark stands in README.md before the part of the tour that this host can
// follow; the part ends at the next such comment, or at the next chapter.
const tourMark = "<!-- tour: libvirt -->"

// tourBlocks reads the commands of a part of README.md that begins with mark:
// for every fenced block its lines.
func tourBlocks(t *testing.T, mark string) (blocks [][]string) {
	t.Helper()
	readme, err := os.ReadFile("../../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tour, found := strings.Cut(string(readme), mark+"\n")
	if !found {
		t.Fatalf("README.md has no %s", mark)
	}
	if end := regexp.MustCompile(`(?m)^(## |<!-- tour)`).FindStringIndex(tour); end != nil {
		tour = tour[:end[0]]
	}
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(tour, -1) {
		text := strings.ReplaceAll(m[1], "\\\n", " ")
		blocks = append(blocks, strings.Split(strings.TrimSuffix(text, "\n"), "\n"))
	}
	return blocks
}

// tourist follows the tour: every line in a shell, as it is printed.
type tourist struct {
	*live
	dir string   // where the commands are given
	env []string // of the shell
	ran string   // all commands so far
}

// staying are commands that stay until somebody presses Ctrl-C, with what they
// say when they are ready.
var staying = []struct {
	command *regexp.Regexp
	ready   string
}{
	{regexp.MustCompile(`(^|\s)cairnd\s`), "is connected"},
	{regexp.MustCompile(`(^|\s)cairn mount\s`), "mounted at"},
}

// follow gives one line to a shell. What stays is given back, for later.
func (w *tourist) follow(line string) *process {
	w.Helper()
	w.ran += line + "\n"
	if regexp.MustCompile(`^\s*(cd|export)\s`).MatchString(line) {
		w.Fatalf("%q would be forgotten by the next line: every line gets a shell of its own here", line)
	}
	for _, s := range staying {
		if s.command.MatchString(line) && !strings.Contains(line, "--background") {
			return w.start(line, s.ready, "env", append([]string{"-C", w.dir, "-i"}, append(w.env, "bash", "-c", line)...)...)
		}
	}
	cmd := exec.CommandContext(w.limit(), "bash", "-c", line)
	cmd.Dir, cmd.Env = w.dir, w.env
	var said, complained bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &complained
	err := cmd.Run()
	w.Logf("$ %s\n%s%s", line, &said, &complained)
	if err != nil {
		w.Fatalf("README.md: %s: %v", line, err)
	}
	return nil
}

// interrupt presses Ctrl-C.
func (w *tourist) interrupt(p *process) {
	w.Helper()
	w.must(syscall.Kill(-p.Process.Pid, syscall.SIGINT))
	if code := p.exited(liveLimit); code != 0 {
		w.Errorf("%s: status %d after Ctrl-C: %s", p.name, code, p.said)
	}
}

// The tour that README.md offers to whoever has a host with libvirt, to its end:
// every command as it is printed there, on a machine called web1.
func TestTour(t *testing.T) {
	blocks := tourBlocks(t, tourMark)
	w := &tourist{live: &live{world: newWorld(t)}}
	w.address = "unix:/var/lib/cairn/cairnd.sock" // what cairn knows by itself
	w.dir = w.path("home")
	w.must(os.Mkdir(w.dir, 0o700))
	w.env = []string{"PATH=" + filepath.Dir(cairnExe) + ":" + os.Getenv("PATH"), "HOME=" + w.dir, "TMPDIR=" + os.TempDir()}
	w.freshHost()
	web1, tree := w.web1()

	var server *process
	for _, block := range blocks {
		var stays []*process
		for _, line := range block {
			if strings.TrimSpace(line) == "" {
				continue
			}
			p := w.follow(line)
			switch {
			case p == nil:
			case server == nil:
				server = p
				w.awaitMachine("web1") // a person is slower than that
			default:
				stays = append(stays, p)
			}
		}
		for _, p := range stays {
			w.interrupt(p)
		}
	}
	for _, must := range []string{
		"cairnd --data /var/lib/cairn --local-agent --libvirt qemu:///system", "cairn machine list", "cairn vault create", "cairn policy create",
		"cairn protect web1", "cairn backup web1 --wait", "cairn point list web1", "cairn ls ", "cairn cp ", "cairn mount ", "cairn restore vm web1@latest",
	} {
		if !strings.Contains(w.ran, must) {
			t.Errorf("the tour does not show %q", must)
		}
	}
	commands := strings.Count(w.ran, "\n")
	proved(t, "%d commands of README.md, as printed, all succeed on a libvirt host", commands)

	// What they were for.
	w.consistent("web1@latest", "FILE_SYSTEM_CONSISTENT")
	back := 0
	w.must(filepath.WalkDir(w.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		got, err := os.ReadFile(path)
		w.must(err)
		want, err := os.ReadFile(tree + "/etc/" + e.Name())
		w.must(err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s came back with other bytes", e.Name())
		}
		back++
		return nil
	}))
	if back == 0 {
		t.Error("no file came back")
	}
	boot := bootID(web1)
	twin := guesttest.Attach(t, "web1-copy")
	twin.WaitReady(w.limit())
	twin.WaitAgent(w.limit())
	twin.Must("mkdir -p /mnt/vda1 && mount -t ext4 /dev/vda1 /mnt/vda1 && body 7 | cmp - /mnt/vda1/home/written")
	if bootID(twin) == boot || web1.State() != "running" || web1.Must("cat /mnt/vda1/home/written") == "" {
		t.Error("web1 does not run on beside its copy")
	}
	w.interrupt(server)
	if bootID(twin) == "" || twin.State() != "running" {
		t.Error("the copy needs the server")
	}
	proved(t, "%d file came back, and web1-copy runs beside web1 with its files", back)
}

// freshHost makes the directories that the tour names those of a host on which
// nobody has been yet. /var/lib is made of what is in it, but for cairn.
func (w *tourist) freshHost() {
	w.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs("/var/lib/libvirt", &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		w.Fatal("this test changes what is mounted: run it by .ci/e2e, which gives it a name space of its own")
	}
	mount := func(from, to, kind string, flags uintptr) {
		w.must(unix.Mount(from, to, kind, flags, ""))
		w.once(func() { w.must(unix.Unmount(to, unix.MNT_DETACH)) })
	}
	mount("tmpfs", "/mnt", "tmpfs", 0)
	mount("tmpfs", "/srv", "tmpfs", 0)
	lib := guesttest.Dir(w)
	entries, err := os.ReadDir("/var/lib")
	w.must(err)
	for _, e := range entries {
		if e.IsDir() && e.Name() != "cairn" {
			w.must(os.Mkdir(lib+"/"+e.Name(), 0o755))
			mount("/var/lib/"+e.Name(), lib+"/"+e.Name(), "", unix.MS_BIND|unix.MS_REC)
		}
	}
	mount(lib, "/var/lib", "", unix.MS_BIND|unix.MS_REC)
	w.must(os.MkdirAll("/var/lib/libvirt/images", 0o711))
}

// web1 boots a machine with a partitioned disk where libvirt has its disks.
// tree is what was on the disk before.
func (w *tourist) web1() (vm *guesttest.DomainVM, tree string) {
	w.Helper()
	tree = w.path("tree")
	for name, text := range map[string]string{
		"etc/fstab": "/dev/vda1 / ext4 defaults 0 1\n", "etc/hostname": "web1\n", "etc/hosts": "127.0.0.1 localhost web1\n", "home/notes": "none\n",
	} {
		w.must(os.MkdirAll(filepath.Dir(tree+"/"+name), 0o755))
		w.must(os.WriteFile(tree+"/"+name, []byte(text), 0o644))
	}
	raw := w.path("web1.raw")
	w.fillRandom(raw, 96*mib, uint64(time.Now().UnixNano()))
	parts := w.partition(raw, "label: gpt\nsize=80MiB\n")
	w.mkfs(raw, parts[0], "-d", tree)
	disk := "/var/lib/libvirt/images/web1.qcow2"
	w.tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
	w.must(os.Remove(raw))
	w.Cleanup(func() { // the directory is every test's
		left, _ := filepath.Glob("/var/lib/libvirt/images/web1*")
		for _, p := range left {
			w.must(os.Remove(p))
		}
	})

	// The kit gives machines names of its own: this one is defined anew.
	kit := guesttest.Domain(w, guesttest.Spec{NICs: 1, Drives: []guesttest.Drive{{Path: disk, Format: "qcow2"}}})
	kit.Virsh("undefine", kit.Name)
	definition := w.path("web1.xml")
	w.must(os.WriteFile(definition, []byte(strings.Replace(kit.XML, fmt.Sprintf("<name>%s</name>", kit.Name), "<name>web1</name>", 1)), 0o600))
	kit.Virsh("define", "--validate", definition)
	vm = guesttest.Attach(w, "web1")
	vm.Start()
	vm.WaitReady(w.limit())
	vm.WaitAgent(w.limit())
	vm.Must("mkdir -p /mnt/vda1 && mount -t ext4 /dev/vda1 /mnt/vda1 && body 7 >/mnt/vda1/home/written && sync")
	return vm, tree
}
