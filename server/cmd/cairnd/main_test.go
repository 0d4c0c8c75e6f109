package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	pb "cairn/proto/cairn/v1"
)

// The test program is also cairnd, when it is told so.
func TestMain(m *testing.M) {
	if os.Getenv("CAIRND_TEST_MAIN") != "" {
		main()
	}
	os.Exit(m.Run())
}

func command(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), "CAIRND_TEST_MAIN=1")
	return cmd
}

// process is a running cairnd.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Reader
	err   bytes.Buffer
	errMu sync.Mutex
}

func (d *process) Write(p []byte) (int, error) {
	d.errMu.Lock()
	defer d.errMu.Unlock()
	return d.err.Write(p)
}

func (d *process) stderr() string {
	d.errMu.Lock()
	defer d.errMu.Unlock()
	return d.err.String()
}

// start runs cairnd; it is killed at the end of the test if it still runs.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	d := &process{t: t, cmd: command(args...)}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = d
	d.lines = bufio.NewReader(out)
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.cmd.Process.Kill(); d.cmd.Wait() })
	return d
}

// address waits for the next "serving on" line.
func (d *process) address() string {
	d.t.Helper()
	line, err := d.lines.ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "cairnd: serving on ")
	if err != nil || !ok {
		d.t.Fatalf("first line %q, %v, errors: %s", line, err, d.stderr())
	}
	return addr
}

// stop sends a signal and waits for the end.
func (d *process) stop(sig os.Signal) error {
	d.cmd.Process.Signal(sig)
	return d.cmd.Wait()
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if path, ok := strings.CutPrefix(addr, "unix:"); ok {
				return net.Dial("unix", path)
			}
			return net.Dial("tcp", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestServesOnSocket(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	d := start(t, "--data", data)
	addr := d.address()
	if addr != "unix:"+data+"/cairnd.sock" {
		t.Errorf("serving on %s", addr)
	}
	for path, mode := range map[string]os.FileMode{data: 0o700, data + "/cairnd.sock": 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, %v, want %v", path, info.Mode(), err, mode)
		}
	}
	conn := dial(t, addr)
	r, err := pb.NewVaultServiceClient(conn).CreateVault(t.Context(), &pb.CreateVaultRequest{Parent: "subscriptions/default", VaultId: "v1"})
	if err != nil || r.Vault.Region != "local" {
		t.Fatalf("%v, %v", r, err)
	}
	for _, service := range []string{"", "cairn.v1.VaultService"} {
		h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, h, err)
		}
	}
	st, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	l, err := st.Recv()
	if text := fmt.Sprint(l); err != nil || !strings.Contains(text, "cairn.v1.BlockService") || !strings.Contains(text, "grpc.channelz.v1.Channelz") {
		t.Errorf("services %v, %v", l, err)
	}

	// The directory is taken, and so is the socket.
	for _, args := range [][]string{{"--data", data}, {"--data", t.TempDir(), "--socket", data + "/cairnd.sock"}} {
		out, err := command(args...).CombinedOutput()
		if code(err) != 1 || !strings.Contains(string(out), "another cairnd uses") && !strings.Contains(string(out), "is listening there already") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Errorf("stopped with %v: %s", err, d.stderr())
	}
	if _, err := os.Stat(data + "/cairnd.sock"); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// What a killed server leaves does not keep the next from starting.
func TestKilled(t *testing.T) {
	data := t.TempDir()
	d := start(t, "--data", data)
	conn := dial(t, d.address())
	if _, err := pb.NewVaultServiceClient(conn).CreateVault(t.Context(), &pb.CreateVaultRequest{Parent: "subscriptions/default", VaultId: "v1"}); err != nil {
		t.Fatal(err)
	}
	_ = d.stop(syscall.SIGKILL)
	if _, err := os.Stat(data + "/cairnd.sock"); err != nil {
		t.Fatal(err)
	}
	d = start(t, "--data", data)
	v, err := pb.NewVaultServiceClient(dial(t, d.address())).GetVault(t.Context(), &pb.GetVaultRequest{Name: "subscriptions/default/vaults/v1"})
	if err != nil || v.Vault.State != pb.VaultState_VAULT_STATE_ACTIVE {
		t.Errorf("%v, %v", v, err)
	}
	if names, _ := filepath.Glob(data + "/.c*"); len(names) != 0 {
		t.Errorf("%v is left", names)
	}
	if err := d.stop(os.Interrupt); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestServesOnPort(t *testing.T) {
	data := t.TempDir()
	d := start(t, "--data", data, "--listen", "localhost:0", "--region", "west,east")
	addr := d.address()
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host != "127.0.0.1" || port == "0" {
		t.Errorf("serving on %s", addr)
	}
	r, err := pb.NewVaultServiceClient(dial(t, addr)).ListRegions(t.Context(), &pb.ListRegionsRequest{})
	if err != nil || fmt.Sprint(r.Regions, r.DefaultRegion) != "[east west]west" {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := os.Stat(data + "/cairnd.sock"); !os.IsNotExist(err) {
		t.Errorf("there is a socket as well: %v", err)
	}
	// A watch does not keep the server from stopping, and is told why it ends.
	w, err := pb.NewJobServiceClient(dial(t, addr)).WatchJobs(t.Context(), &pb.WatchJobsRequest{Parent: "subscriptions/default"})
	if err == nil {
		_, err = w.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if _, err := w.Recv(); err == nil || !strings.Contains(err.Error(), "the server is stopping") {
		t.Errorf("watch ended with %v", err)
	}
}

func TestLocalAgent(t *testing.T) {
	images := t.TempDir()
	if err := os.WriteFile(images+"/web1.raw", bytes.Repeat([]byte("cairn"), 100000), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, "--data", t.TempDir(), "--local-agent", "--images", images, "--host", "rack1")
	conn := dial(t, d.address())
	if line, err := d.lines.ReadString('\n'); err != nil || line != "cairnd: host rack1 is connected\n" {
		t.Fatalf("line %q, %v: %s", line, err, d.stderr())
	}
	const sub = "subscriptions/default"
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v; %s", err, d.stderr())
		}
	}
	_, err := pb.NewVaultServiceClient(conn).CreateVault(ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v1"})
	check(err)
	_, err = pb.NewPolicyServiceClient(conn).CreatePolicy(ctx, &pb.CreatePolicyRequest{Parent: sub + "/vaults/v1", PolicyId: "p"})
	check(err)
	items := pb.NewProtectedItemServiceClient(conn)
	it, err := items.ProtectMachine(ctx, &pb.ProtectMachineRequest{Parent: sub + "/vaults/v1", ProtectedItem: &pb.ProtectedItem{
		Machine: sub + "/hosts/rack1/machines/web1", Policy: sub + "/vaults/v1/policies/p"}})
	check(err)
	_, err = items.BackUp(ctx, &pb.BackUpRequest{Name: it.ProtectedItem.Name})
	check(err)
	w, err := pb.NewJobServiceClient(conn).WatchJobs(ctx, &pb.WatchJobsRequest{Parent: sub, Filter: &pb.JobFilter{Operations: []pb.JobOperation{pb.JobOperation_JOB_OPERATION_BACKUP}}})
	check(err)
	for {
		e, err := w.Recv()
		check(err)
		if e.Job.GetEndTime() != nil {
			if e.Job.State != pb.JobState_JOB_STATE_COMPLETED {
				t.Errorf("job %v", e.Job)
			}
			break
		}
	}
	begin := time.Now()
	if err := d.stop(syscall.SIGTERM); err != nil {
		t.Errorf("stopped with %v: %s", err, d.stderr())
	}
	if took := time.Since(begin); took > 8*time.Second { // not the whole grace
		t.Errorf("stopping took %v", took)
	}
}

func code(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return 0
}

func TestWrongUsage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(foreign+"/letter", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	newer := t.TempDir()
	if err := os.WriteFile(newer+"/FORMAT", []byte("cairn data\nversion: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	for _, c := range []struct {
		status int
		says   string
		args   []string
	}{
		{2, "--data", nil},
		{2, "unknown flag", []string{"--date", "x"}},
		{2, "unexpected argument", []string{"serve"}},
		{2, "loopback", []string{"--data", "x", "--listen", "0.0.0.0:7401"}},
		{2, "loopback", []string{"--data", "x", "--listen", ":7401"}},
		{2, "loopback", []string{"--data", "x", "--listen", "192.0.2.1:7401"}},
		{2, "loopback", []string{"--data", "x", "--listen", "example.org:7401"}},
		{2, "HOST:PORT", []string{"--data", "x", "--listen", "localhost"}},
		{2, "no port", []string{"--data", "x", "--listen", "localhost:99999"}},
		{2, "--local-agent", []string{"--data", "x", "--images", "x"}},
		{2, "--images", []string{"--data", "x", "--local-agent"}},
		{2, "--local-agent", []string{"--data", "x", "--libvirt", "qemu:///system"}},
		{2, "--local-agent", []string{"--data", "x", "--qemu", "x"}},
		{2, "--local-agent", []string{"--data", "x", "--state", "x"}},
		{2, "--local-agent", []string{"--data", "x", "--freeze-limit", "3s"}},
		{2, "--freeze-limit", []string{"--data", "x", "--local-agent", "--images", "x", "--freeze-limit", "-3s"}},
		{2, "--freeze-limit", []string{"--data", "x", "--local-agent", "--images", "x", "--freeze-limit", "soon"}},
		{2, "--region", []string{"--data", "x", "--region", "a,,b"}},
		{2, "--grace", []string{"--data", "x", "--grace", "-1s"}},
		{2, "--jobs-per-vault", []string{"--data", "x", "--jobs-per-vault", "-1"}},
		{2, "--jobs-per-host", []string{"--data", "x", "--jobs-per-host", "-1"}},
		{2, "--spread", []string{"--data", "x", "--spread", "-1s"}},
		{1, "Not A Region", []string{"--data", t.TempDir(), "--region", "Not A Region"}},
		{1, "not a directory", []string{"--data", file}},
		{1, "letter", []string{"--data", foreign}},
		{1, "newer", []string{"--data", newer}},
		{1, "another kind", []string{"--data", t.TempDir(), "--socket", file}},
		{1, "longer than the system allows", []string{"--data", t.TempDir(), "--socket", long}},
		{1, "no such", []string{"--data", t.TempDir(), "--local-agent", "--images", file + "x"}},
		{1, "no such", []string{"--data", t.TempDir(), "--local-agent", "--qemu", file + "x"}},
		{1, "xen:///system", []string{"--data", t.TempDir(), "--local-agent", "--libvirt", "xen:///system"}},
	} {
		out, err := command(c.args...).CombinedOutput()
		if code(err) != c.status || !strings.Contains(string(out), c.says) {
			t.Errorf("%v: %v: %s", c.args, err, out)
		}
	}
}
