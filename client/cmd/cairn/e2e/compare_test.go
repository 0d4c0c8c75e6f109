//go:build e2e

package e2e

import (
	"bytes"
	"io"
	"os"
	"strings"

	"cairn/mount/mounttest"
)

// mounted is a running cairn mount.
type mounted struct {
	dir string
	end func()
}

// mount runs cairn mount on a point or an item.
func (w *world) mount(what string, flags ...string) mounted {
	w.Helper()
	dir, err := os.MkdirTemp(w.dir, "mnt-")
	w.must(err)
	p := w.start("mount of "+what, "mounted at", cairnExe, append([]string{"mount", what, dir}, flags...)...)
	return mounted{dir, w.once(func() {
		p.stop()
		if code := p.ProcessState.ExitCode(); code != 0 {
			w.Errorf("cairn mount %s: status %d after SIGTERM: %s", what, code, p.said)
		}
		w.notMounted(dir)
	})}
}

func (w *world) notMounted(dir string) {
	w.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	w.must(err)
	if strings.Contains(string(b), " "+dir+" ") {
		w.Errorf("%s is still mounted", dir)
	}
}

// same compares two directories in every name, byte, mode, owner, time, link,
// attribute and hole.
func (w *world) same(kernel, cairn string) mounttest.DiffResult {
	w.Helper()
	return w.sameBut(kernel, cairn, mounttest.DiffOptions{})
}

// sameBut compares two directories in all that options do not overlook.
func (w *world) sameBut(kernel, cairn string, options mounttest.DiffOptions) mounttest.DiffResult {
	w.Helper()
	res, err := mounttest.Diff(kernel, cairn, options)
	if err != nil {
		w.Errorf("compare %s with %s: %v", kernel, cairn, err)
	}
	for _, d := range res.Differences {
		w.Errorf("%s: %s", cairn, d)
	}
	return res
}

// differingBlocks counts the aligned blocks of 64 KiB in which two files of the
// same length differ.
func (w *world) differingBlocks(a, b string) (blocks int64) {
	w.Helper()
	const size = 64 << 10
	fa, err := os.Open(a)
	w.must(err)
	defer fa.Close()
	fb, err := os.Open(b)
	w.must(err)
	defer fb.Close()
	pa, pb := make([]byte, size), make([]byte, size)
	for {
		na, erra := io.ReadFull(fa, pa)
		nb, errb := io.ReadFull(fb, pb)
		if !bytes.Equal(pa[:na], pb[:nb]) {
			blocks++
		}
		if erra != nil || errb != nil {
			if na != nb {
				w.Fatalf("%s and %s are not of the same length", a, b)
			}
			return blocks
		}
	}
}

// identical says that two files have the same bytes.
func (w *world) identical(a, b string) {
	w.Helper()
	if n := w.differingBlocks(a, b); n != 0 {
		w.Errorf("%s and %s differ in %d blocks of 64 KiB", a, b, n)
	}
}
