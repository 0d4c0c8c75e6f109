//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Other languages drive the whole API by nothing but the .proto files. Their
// programs, in testdata/python and testdata/node, are examples for users, and are
// set up here as their comments tell users.

// language is how programs of a language are run.
type language struct {
	vault   string // what its example calls the vault, and its directory in testdata
	program string // its example
	command []string
}

// python makes the stubs with the Debian packages for gRPC.
func (w *world) python() language {
	w.Helper()
	top, gen := w.repository(), w.path("gen")
	w.must(os.Mkdir(gen, 0o700))
	files, err := filepath.Glob(top + "/proto/cairn/v1/*.proto")
	w.must(err)
	args := append([]string{"-m", "grpc_tools.protoc", "-I", top + "/proto", "-I", top + "/client/cmd/cairn/testdata",
		"--python_out=" + gen, "--grpc_python_out=" + gen}, files...)
	w.tool("/usr/bin/python3", append(args, "errors.proto")...)
	return language{"python", "whole_way.py", []string{"env", "PYTHONPATH=" + gen, "/usr/bin/python3", "-B"}}
}

// node installs the packages that package-lock.json names into a copy of
// testdata/node, so that nothing comes into the repository.
func (w *world) node() language {
	w.Helper()
	top := w.repository()
	w.tool("cp", "-r", top+"/client/cmd/cairn/testdata", w.path("programs"))
	w.tool("npm", "--prefix", w.path("programs/node"), "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	return language{"node", w.path("programs/node/whole_way.js"), []string{"env", "CAIRN_PROTO=" + top + "/proto", "node"}}
}

// repository gives its top directory.
func (w *world) repository() string {
	w.Helper()
	top, err := filepath.Abs("../../../..")
	w.must(err)
	return top
}

// program gives the command line of a program.
func (w *world) program(l language, program string, args ...string) []string {
	if !filepath.IsAbs(program) {
		program = filepath.Join(w.repository(), "client/cmd/cairn/testdata", l.vault, program)
	}
	return append(append(slices.Clone(l.command), program), args...)
}

// listening starts the server on its unix socket and on a loopback port too, and
// gives the address of that.
func (w *world) listening() string {
	w.Helper()
	w.startServer("--listen", "127.0.0.1:0")
	const prefix = "serving on 127.0.0.1:"
	if !w.server.said.wait(prefix, w.server.ended, time.Minute) {
		w.Fatalf("no port in what the server said: %s", w.server.said)
	}
	_, rest, _ := strings.Cut(w.server.said.String(), prefix)
	port, _, _ := strings.Cut(rest, "\n")
	return "127.0.0.1:" + port
}

// wholeWay runs a language's example over TCP. While it follows its job, which no
// agent has taken yet, the server is killed, and another one has to be watched from
// the beginning; then the connection breaks until the job has ended, and the watch
// has to go on where it was.
func (w *world) wholeWay(l language) {
	w.Helper()
	image := filepath.Join(w.images, "web1.raw")
	w.fillRandom(image, 20*mib+512, 1)
	relay := w.newRelay(w.listening())
	w.startAgent()
	w.awaitMachine("web1")
	w.agent.stop()

	line := w.program(l, l.program, relay.Addr().String(), "web1", image)
	const queued = "job: JOB_STATE_QUEUED\nall that was there has come, up to revision "
	p := w.start(l.vault, queued, line[0], line[1:]...)
	says := func(text string) {
		w.Helper()
		if !p.said.wait(text, p.ended, time.Minute) {
			w.Fatalf("%s does not say %q: %s", l.program, text, p.said)
		}
	}
	w.server.kill()
	says("the watch broke off")
	target := w.listening()
	relay.to(target)
	says("behind revision 0\n" + queued)
	relay.to("")
	w.startAgent()
	w.awaitPoint("web1")
	relay.to(target)
	if status := p.exited(2 * time.Minute); status != 0 {
		w.Fatalf("%s: status %d: %s", l.program, status, p.said)
	}

	vault := "subscriptions/default/vaults/" + l.vault
	said := p.said.String()
	at := 0
	for _, want := range []string{
		`VAULT_NOT_FOUND: ` + vault,
		`INVALID_FIELD: policy\.schedule\.daily\.time\.hours .*from 0 to 23`,
		`protected: ` + vault + `/protectedItems/web1 - Warning \(Initial backup pending\)`,
		`MACHINE_ALREADY_PROTECTED: ` + vault + `/protectedItems/web1`,
		`BACKUP_IN_PROGRESS: ` + vault + `/jobs/.*`,
		`job: JOB_STATE_QUEUED`,
		`the watch broke off; going on behind revision [1-9]\d*`,
		`the watch broke off; going on behind revision 0`,
		`job: JOB_STATE_QUEUED`,
		`the watch broke off; going on behind revision [1-9]\d*`,
		`job: JOB_STATE_COMPLETED`,
		`read back: ` + vault + `/protectedItems/web1/recoveryPoints/.* 20972032 bytes, sha256 [0-9a-f]{64}`,
	} {
		found := regexp.MustCompile(`(?m)^` + want + `$`).FindStringIndex(said[at:])
		if found == nil {
			w.Fatalf("no line %q, or not there, in:\n%s", want, said)
		}
		proved(w, "%s", said[at+found[0]:at+found[1]])
		at += found[1]
	}
	if strings.Count(said, "behind revision 0\n") != 1 {
		w.Errorf("the watch did not go on where it was after the connection broke:\n%s", said)
	}
	w.verified("web1")
}

// awaitPoint waits until an item has a point.
func (w *world) awaitPoint(item string) {
	w.Helper()
	for range 600 {
		if len(w.points(item)) > 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.Fatalf("item %s has no point", item)
}

// Python drives the whole API, and the data plane refuses what is wrong with the
// right code and reason.
func TestPython(t *testing.T) {
	w := newWorld(t)
	python := w.python()
	w.wholeWay(python)
	line := w.program(python, "data_plane.py", w.address, "subscriptions/default/vaults/python/protectedItems/web1")
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("data_plane.py: %v\n%s", err, out)
	}
	for l := range strings.Lines(string(out)) {
		proved(t, "%s", strings.TrimSpace(l))
	}
	w.verified("web1")
}

// Node drives the whole API.
func TestNode(t *testing.T) {
	w := newWorld(t)
	w.wholeWay(w.node())
}
