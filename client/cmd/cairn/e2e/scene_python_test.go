//go:build e2e

package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// python runs a program of testdata/python with the Debian packages for gRPC.
func (w *world) python(program string, args ...string) string {
	w.Helper()
	dir, err := filepath.Abs("../testdata/python")
	w.must(err)
	cmd := exec.Command("/usr/bin/python3", append([]string{"-B", filepath.Join(dir, program), w.address}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("%s (it needs python3-grpcio and python3-grpc-tools): %v\n%s", program, err, out)
	}
	return string(out)
}

// Another language drives the whole API, and the data plane refuses what is
// wrong with the right code and reason.
func TestPython(t *testing.T) {
	w := newWorld(t)
	image := filepath.Join(w.images, "web1.raw")
	w.fillRandom(image, 20*mib+512, 1)
	w.startServer()
	w.startAgent()
	w.awaitMachine("web1")
	out := w.python("whole_way.py", "web1", image)
	proved(t, "from Python: vault, policy, protect, back up, watch, %s", strings.TrimSpace(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]))
	out = w.python("data_plane.py", "subscriptions/default/vaults/python/protectedItems/web1")
	for line := range strings.Lines(out) {
		proved(t, "from Python: %s", strings.TrimSpace(line))
	}
	w.verified("web1")
}
