package guesttest

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Boot is what a guest boots from: paths of a kernel and an initramfs.
type Boot struct{ Kernel, Initrd string }

// Kit returns copies of the kernel and the initramfs that .ci/guest made, in a
// directory that lives as long as the test: libvirt gives the files of a domain
// to its own user, who cannot look into a home directory.
func Kit(tb testing.TB) Boot {
	tb.Helper()
	from := os.Getenv("CAIRN_GUEST_DIR")
	if from == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			tb.Fatalf("where is the guest: %v: set CAIRN_GUEST_DIR", err)
		}
		from = filepath.Join(cache, "cairn-guest")
	}
	to := Dir(tb)
	boot := Boot{Kernel: to + "/vmlinuz", Initrd: to + "/initrd"}
	for _, path := range []string{boot.Kernel, boot.Initrd} {
		if err := copyFile(path, filepath.Join(from, filepath.Base(path))); err != nil {
			tb.Fatalf("no guest to boot: %v: run .ci/guest", err)
		}
	}
	return boot
}

// Dir returns a new directory that is gone when the test ends. Unlike that of
// TempDir, its path is short enough for sockets in it, and the users of libvirt's
// QEMU may enter it.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "cairn-vm-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("leftover: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	for up := dir; up != filepath.Dir(up); up = filepath.Dir(up) {
		info, err := os.Stat(up)
		if err != nil {
			tb.Fatal(err)
		}
		if info.Mode()&0o001 == 0 {
			tb.Fatalf("libvirt's QEMU runs as a user of its own and cannot enter %s: set TMPDIR to a directory that all may enter", up)
		}
	}
	return dir
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// toolPackages says which Debian package a missing tool is in.
var toolPackages = map[string]string{
	"virsh":              "libvirt-clients",
	"qemu-system-x86_64": "qemu-system-x86",
	"qemu-img":           "qemu-utils",
	"mkfs.ext4":          "e2fsprogs",
	"e2fsck":             "e2fsprogs",
	"dumpe2fs":           "e2fsprogs",
	"debugfs":            "e2fsprogs",
}

// tool finds a program, also where Debian hides those of the administrator.
func tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err != nil {
			path, err = exec.LookPath(dir + name)
		}
	}
	if err != nil {
		tb.Fatalf("%s is not installed: install the package %s", name, toolPackages[name])
	}
	return path
}

// run runs a tool to its end and returns its standard output. A failure is the
// test's.
func run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), tool(tb, name), args...)
	out, err := cmd.Output()
	if err != nil {
		words := ""
		if e, ok := err.(*exec.ExitError); ok {
			words = string(e.Stderr)
		}
		tb.Fatalf("%s %q: %v\n%s%s", name, args, err, out, words)
	}
	return string(out)
}
