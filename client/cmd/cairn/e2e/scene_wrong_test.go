//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

// What people get wrong is refused, with a message that says what and how to
// go on, and the right exit status.
func TestWrongInputs(t *testing.T) {
	w := newWorld(t)
	im := func(name string) string { return filepath.Join(w.images, name) }
	w.fillRandom(im("web1.raw"), 4*mib, 1)
	w.must(os.Mkdir(im("dir.raw"), 0o700))
	w.must(os.Mkdir(im("db"), 0o700))
	w.fillRandom(im("db/system.raw"), 1*mib, 2)
	w.fillRandom(im("db/scratch.raw"), 1*mib, 3)
	w.fillRandom(w.path("data"), 8*mib, 4)
	for _, name := range []string{"corrupt", "cut"} {
		w.tool("qemu-img", "convert", "-O", "qcow2", w.path("data"), im(name+".qcow2"))
	}
	w.must(os.Remove(w.path("data")))
	w.fillRandom(w.path("web2.raw"), 2*mib, 5)
	w.startServer("--region", "eu1,eu2")
	w.startAgent()

	w.refused(1, []string{`"BAD_ID"`, "lower-case"}, "vault", "create", "BAD_ID")
	w.refused(1, []string{`"mars"`, "eu1", "eu2", "hint: "}, "vault", "create", "v", "--region", "mars")
	w.refused(1, []string{"nope", "does not exist", "cairn vault list"}, "policy", "create", "p", "--vault", "nope")
	w.refused(1, []string{"nope", "does not exist"}, "vault", "show", "nope")
	proved(t, "bad ids, unknown regions and missing vaults are refused")

	w.setUp()
	w.refused(1, []string{"vaults/main", "exists"}, "vault", "create", "main")
	w.cairn("vault", "create", "far", "--region", "eu2")
	w.cairn("policy", "create", "nightly", "--vault", "far")
	w.awaitMachine("web1")
	w.refused(1, []string{"web1", "eu1", "eu2"}, "protect", "web1", "--vault", "far", "--policy", "nightly")
	w.refused(1, []string{`"nothere"`, "cairn machine list"}, "protect", "nothere", "--vault", "main", "--policy", "nightly")
	w.refused(1, []string{"nope", "cairn policy list"}, "protect", "web1", "--vault", "main", "--policy", "nope")
	w.protect("web1")
	w.refused(1, []string{"web1", "protected already", "vaults/main/protectedItems/web1"}, "protect", "web1", "--vault", "main", "--policy", "nightly", "--item", "again")
	w.refused(1, []string{`"nodisk"`, "scratch", "system"}, "protect", "db", "--vault", "main", "--policy", "nightly", "--exclude-disk", "nodisk")
	w.refused(1, []string{"no point", "cairn point list web1"}, "mount", "web1@latest", w.path("images"))
	proved(t, "a machine protected twice, in another region, or with disks it does not have is refused")

	w.codes()
	proved(t, "the API says so with the right codes and reasons")

	// Images that are not what they seem.
	w.protect("dir")
	w.refused(1, []string{"dir.raw", "a directory, not an image"}, "backup", "dir", "--wait")
	w.protect("corrupt")
	w.damage(im("corrupt.qcow2"), 40, []byte{0xff, 0xff, 0xff, 0xff, 0xff})
	w.badImage("corrupt", "corrupt.qcow2")
	w.protect("cut")
	w.must(os.Truncate(im("cut.qcow2"), 3*mib+1000))
	w.badImage("cut", "cut.qcow2")
	w.protect("db", "--exclude-disk", "scratch")
	w.must(os.Remove(im("db/system.raw")))
	j := w.backUpBadly("db")
	if j.State != "JOB_STATE_FAILED" || j.Error == nil || j.Error.Message == "" || j.Error.Remedy == "" {
		t.Errorf("a machine whose disk is gone: %v", j)
	}
	proved(t, "a directory for an image, a corrupt and a truncated qcow2 and a disk that is gone fail with reason and remedy")

	// Mount points, restores, names.
	w.backUp("web1")
	w.refused(1, []string{"not empty"}, "mount", "web1@latest", w.images)
	w.refused(1, []string{"does not exist"}, "mount", "web1@latest", w.path("nowhere"))
	w.refused(1, []string{"not a directory"}, "mount", "web1@latest", im("web1.raw"))
	w.refused(1, []string{`"vdz"`, "vda"}, "restore", "disk", "web1@latest", "vdz", "--to", w.path("to"))
	w.refused(2, []string{"web1@latest"}, "point", "show", "web1")
	w.refused(2, []string{"--format"}, "restore", "disk", "web1@latest", "--to", w.path("to"), "--format", "vhd")
	w.refused(1, []string{"no connection", "no such file", "cairnd running"}, "--server", "unix:"+w.path("nobody"), "vault", "list")
	proved(t, "mount points that are not empty or not there, unknown disks and formats, and a server that is not there are refused")

	// Nothing tells of a raw image what it should be: cut, it is a smaller disk,
	// and the job warns.
	for _, size := range []int64{1*mib + 512, 6 * mib} {
		w.must(os.Truncate(im("web1.raw"), size))
		j := w.backUpBadly("web1")
		state, warnings := "JOB_STATE_COMPLETED", 0
		if size < 6*mib {
			state, warnings = "JOB_STATE_COMPLETED_WITH_WARNINGS", 1
		}
		if j.State != state || len(j.Warnings) != warnings || warnings == 1 && j.Warnings[0].Reason != "ERROR_REASON_DISK_LAYOUT_CHANGED" {
			t.Errorf("an image resized to %d bytes: %s, %+v", size, j.State, j.Warnings)
		}
		w.cairn("restore", "disk", "web1@latest", "--to", w.path("resized"))
		w.identical(im("web1.raw"), w.path("resized/vda.raw"))
		w.must(os.RemoveAll(w.path("resized")))
	}
	proved(t, "a raw image that was truncated, or grew, is backed up as what it is now; the job warns of the first")

	// A second server on the same data; a second agent takes over from the first.
	other := w.tryServer("--data", w.data, "--socket", w.path("s2"))
	if other.status != 1 || !strings.Contains(other.stderr, "another cairnd") {
		t.Errorf("a second server: %+v", other)
	}
	first := w.agent
	w.startAgent()
	if code := first.exited(30 * time.Second); code != 1 || !strings.Contains(first.said.String(), "another agent took over") {
		t.Errorf("the first agent ended with %d: %s", code, first.said)
	}
	w.verified("web1")
	proved(t, "a second server for the same data ends with status 1; so does an agent whose host another one took over")
}

// codes makes wrong calls and looks at what programs see of the answers.
func (w *world) codes() {
	w.Helper()
	c, err := client.Dial(w.address)
	w.must(err)
	defer c.Close()
	ctx := w.Context()
	const sub = "subscriptions/default"
	item := &cairnv1.ProtectedItem{Machine: sub + "/hosts/h1/machines/web1", Policy: sub + "/vaults/main/policies/nightly"}
	calls := []struct {
		what   string
		call   func() error
		code   codes.Code
		reason cairnv1.ErrorReason
	}{
		{"bad id", func() error {
			_, err := c.Vaults.CreateVault(ctx, &cairnv1.CreateVaultRequest{Parent: sub, VaultId: "BAD_ID"})
			return err
		}, codes.InvalidArgument, cairnv1.ErrorReason_ERROR_REASON_INVALID_NAME},
		{"bad name", func() error {
			_, err := c.Vaults.GetVault(ctx, &cairnv1.GetVaultRequest{Name: "vaults/main"})
			return err
		}, codes.InvalidArgument, cairnv1.ErrorReason_ERROR_REASON_INVALID_NAME},
		{"unknown region", func() error {
			_, err := c.Vaults.CreateVault(ctx, &cairnv1.CreateVaultRequest{Parent: sub, VaultId: "v", Vault: &cairnv1.Vault{Region: "mars"}})
			return err
		}, codes.InvalidArgument, cairnv1.ErrorReason_ERROR_REASON_UNKNOWN_REGION},
		{"missing vault", func() error {
			_, err := c.Vaults.GetVault(ctx, &cairnv1.GetVaultRequest{Name: sub + "/vaults/nope"})
			return err
		}, codes.NotFound, cairnv1.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND},
		{"vault made twice", func() error {
			_, err := c.Vaults.CreateVault(ctx, &cairnv1.CreateVaultRequest{Parent: sub, VaultId: "main"})
			return err
		}, codes.AlreadyExists, cairnv1.ErrorReason_ERROR_REASON_ALREADY_EXISTS},
		{"machine protected twice", func() error {
			_, err := c.Items.ProtectMachine(ctx, &cairnv1.ProtectMachineRequest{Parent: sub + "/vaults/main", ProtectedItemId: "again", ProtectedItem: item})
			return err
		}, codes.AlreadyExists, cairnv1.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED},
		{"missing point", func() error {
			_, err := c.Points.GetRecoveryPoint(ctx, &cairnv1.GetRecoveryPointRequest{Name: sub + "/vaults/main/protectedItems/web1/recoveryPoints/p1"})
			return err
		}, codes.NotFound, cairnv1.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND},
		{"later version's call", func() error {
			conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
			w.must(err)
			defer conn.Close()
			return conn.Invoke(ctx, "/cairn.v1.VaultService/PaintVault", &cairnv1.GetVaultRequest{}, new(cairnv1.GetVaultResponse))
		}, codes.Unimplemented, cairnv1.ErrorReason_ERROR_REASON_NOT_IMPLEMENTED},
	}
	for _, x := range calls {
		if err := x.call(); client.Code(err) != x.code || client.Reason(err) != x.reason {
			w.Errorf("%s: %v, %v; want %v, %v: %v", x.what, client.Code(err), client.Reason(err), x.code, x.reason, err)
		}
	}
}

// badImage says that a backup fails because of the image, however far it gets.
func (w *world) badImage(machine, file string) {
	w.Helper()
	r := w.try("backup", machine, "--wait")
	if r.status != 1 || !strings.Contains(r.stderr, file) {
		w.Errorf("backup of %s: status %d: %s", machine, r.status, r.stderr)
	}
	if len(r.stderr) > 1000 {
		w.Errorf("backup of %s: says too much: %s", machine, r.stderr)
	}
	if len(w.points(machine)) != 0 {
		w.Errorf("%s has a point", machine)
	}
}

func (w *world) damage(path string, off int64, bytes []byte) {
	w.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	w.must(err)
	_, err = f.WriteAt(bytes, off)
	w.must(err)
	w.must(f.Close())
}

// The server's disk is full: the backup fails and says so, what is there can be
// read, and with room it goes on.
func TestStoreFull(t *testing.T) {
	w := newWorld(t)
	w.must(os.Mkdir(w.data, 0o700))
	w.must(unix.Mount("tmpfs", w.data, "tmpfs", 0, "size=600m,mode=0700"))
	w.Cleanup(func() { w.must(unix.Unmount(w.data, 0)) })
	image := filepath.Join(w.images, "web1.raw")
	w.fillRandom(image, 64*mib, 1)
	w.startServer()
	w.startAgent()
	w.setUp()
	w.protect("web1")
	w.backUp("web1")
	w.copyFile(image, w.path("first"))

	w.fillRandom(w.data+"/ballast", 380*mib, 2)
	w.fillRandom(image, 64*mib, 3)
	j := w.backUpBadly("web1")
	if j.State != "JOB_STATE_FAILED" || j.Error == nil || j.Error.Reason != "ERROR_REASON_STORE_FULL" || j.Error.Remedy == "" {
		t.Fatalf("backup to a full disk: %v", j)
	}
	w.cairn("restore", "disk", "web1@latest", "--to", w.path("restored"))
	w.identical(w.path("first"), w.path("restored/vda.raw"))
	w.verified("web1")
	proved(t, "%v; the point before is readable and verifies", j)

	w.must(os.Remove(w.data + "/ballast"))
	var retried job
	w.json(&retried, "job", "retry", last(j.Name), "--wait")
	if retried.State != "JOB_STATE_COMPLETED" {
		t.Errorf("with room again: %v", retried)
	}
	w.verified("web1")
	proved(t, "with room again, without a restart, the retry of the job is %s", retried.State)
	w.agent.stop()
	w.server.stop()
}

// A vault that a later version has written: the server serves the others.
func TestNewerStore(t *testing.T) {
	w := newWorld(t)
	w.fillRandom(filepath.Join(w.images, "web1.raw"), 4*mib, 1)
	w.startServer()
	w.startAgent()
	w.setUp()
	w.protect("web1")
	w.backUp("web1")
	w.cairn("vault", "create", "other")
	w.server.stop()

	formats, err := filepath.Glob(w.data + "/vaults/*/FORMAT")
	w.must(err)
	version := regexp.MustCompile(`(?m)^version: \d+$`)
	var old []byte
	var path string
	for _, f := range formats {
		b, err := os.ReadFile(f)
		w.must(err)
		if _, err := os.Stat(filepath.Join(filepath.Dir(f), "index")); err != nil || !version.Match(b) {
			t.Fatalf("%s: %q, %v", f, b, err)
		}
		if points, _ := filepath.Glob(filepath.Dir(f) + "/blocks/*.sst"); len(points) > 0 {
			path, old = f, b
		}
	}
	if path == "" {
		t.Fatalf("no vault with blocks among %v", formats)
	}
	w.must(os.WriteFile(path, version.ReplaceAll(old, []byte("version: 99")), 0o600))
	w.startServer()
	var list []struct {
		Name, State string
		Problem     *problem
	}
	w.json(&list, "vault", "list")
	if len(list) != 2 {
		t.Fatalf("vaults: %v", list)
	}
	for _, v := range list {
		switch {
		case last(v.Name) == "other" && v.State != "VAULT_STATE_ACTIVE":
			t.Errorf("the other vault is %s", v.State)
		case last(v.Name) == "main" && (v.State != "VAULT_STATE_UNAVAILABLE" || v.Problem == nil ||
			v.Problem.Reason != "ERROR_REASON_STORE_TOO_NEW" || !strings.Contains(v.Problem.Message, "99")):
			j, _ := json.Marshal(v)
			t.Errorf("the newer vault: %s", j)
		}
	}
	w.refused(1, []string{"99"}, "point", "list", "main/web1")
	w.refused(1, []string{"99"}, "backup", "main/web1")
	proved(t, "a vault of a newer format: the server serves the other vaults; this one is UNAVAILABLE and says why")

	w.server.stop()
	w.must(os.WriteFile(path, old, 0o600))
	w.startServer()
	w.backUp("web1")
	w.verified("web1")
	proved(t, "with its own version back, it is as it was")
}
