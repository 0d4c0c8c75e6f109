package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cairn/client"
	"cairn/client/agent"
	cairnv1 "cairn/proto/cairn/v1"
	"cairn/server/daemon"
)

// TestMain lets the test binary be the real programs, for scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cairn":  main,
		"cairnd": func() { os.Exit(daemon.Main(os.Args[1:], agent.Version, nil)) },
	})
}

// TestScripts runs testdata/*.txt: each with a directory of its own, where
// CAIRN_SERVER names a socket on which nobody listens yet. Besides the commands
// of package testscript, scripts have
//
//	serve [FLAG…]        start cairnd, wait until it serves
//	agent DIR [FLAG…]    start cairn agent for the images in DIR, as host h1,
//	                     wait until it is connected
//	unserve              end cairnd in order and wait until it has
//	image FILE DIR       make a raw image with an ext4 file system of DIR's files
//	define ITEM          make a point of item ITEM in vault main, of a machine with a
//	                     definition and a state file
//	status N CMD ARG…    run a command that must end with this exit status
//	await REGEXP CMD …   run a command again and again until it prints that
//	id NAME REGEXP       set NAME to what the group in REGEXP is in stdout
func TestScripts(t *testing.T) {
	// Debian keeps mkfs out of an ordinary PATH.
	path := os.Getenv("PATH") + ":/usr/sbin:/sbin"
	if err := os.Setenv("PATH", path); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Fatal("the scripts make images with mkfs.ext4: install e2fsprogs")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true,
		Deadline: time.Now().Add(2 * time.Minute), // for a command that hangs
		Setup: func(env *testscript.Env) error {
			// The path of a unix socket must be short.
			dir, err := os.MkdirTemp("", "cairn-")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			env.Values[stopServer{}] = new(func())
			env.Setenv("SOCKET", dir+"/s")
			env.Setenv("CAIRN_SERVER", "unix:"+dir+"/s")
			env.Setenv("TZ", "UTC")
			// Under the race detector every program would wait a second at its end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"serve": func(ts *testscript.TestScript, _ bool, args []string) {
				*ts.Value(stopServer{}).(*func()) = start(ts, "serving on", "cairnd", append([]string{"--data", ts.MkAbs("data"), "--socket", ts.Getenv("SOCKET")}, args...)...)
			},
			"unserve": func(ts *testscript.TestScript, _ bool, _ []string) { (*ts.Value(stopServer{}).(*func()))() },
			"agent": func(ts *testscript.TestScript, _ bool, args []string) {
				start(ts, "is connected", "cairn", append([]string{"agent", "--host", "h1", "--images", ts.MkAbs(args[0])}, args[1:]...)...)
			},
			"image":  image,
			"define": define,
			"status": status,
			"await":  await,
			"id":     id,
		},
	})
}

// stopServer is the key of the function that stops the script's server.
type stopServer struct{}

// start runs a program until the script ends, or until stop is called, and waits
// for a word in its output.
func start(ts *testscript.TestScript, ready, name string, args ...string) (stop func()) {
	exe, err := exec.LookPath(name) // where testscript.Main has put it
	ts.Check(err)
	out, err := os.Create(ts.MkAbs(name + ".log"))
	ts.Check(err)
	defer out.Close()
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), "CAIRN_SERVER="+ts.Getenv("CAIRN_SERVER"))
	cmd.Stdout, cmd.Stderr = out, out
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() {
		_ = cmd.Process.Signal(os.Interrupt) // fails only if it has ended
		err := <-ended
		if err != nil {
			ts.Logf("%s ended: %v", name, err)
		}
		ended <- err
	}
	ts.Defer(stop)
	for range 600 {
		text, err := os.ReadFile(out.Name())
		ts.Check(err)
		if strings.Contains(string(text), ready) {
			return stop
		}
		select {
		case err := <-ended:
			ended <- err
			ts.Fatalf("%s ended: %v: %s", name, err, text)
		case <-time.After(50 * time.Millisecond):
		}
	}
	ts.Fatalf("%s does not become ready", name)
	return nil
}

func image(ts *testscript.TestScript, _ bool, args []string) {
	file := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
	ts.Check(ts.Exec("mkfs.ext4", "-q", "-b", "1024", "-d", ts.MkAbs(args[1]), file, "4M"))
}

func define(ts *testscript.TestScript, _ bool, args []string) {
	c, err := client.Dial(ts.Getenv("CAIRN_SERVER"))
	ts.Check(err)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	up, err := c.Blocks.CreateUpload(ctx, &cairnv1.CreateUploadRequest{
		Parent: "subscriptions/default/vaults/main/protectedItems/" + args[0],
		Disks: []*cairnv1.UploadDisk{
			{Target: "vda", Size: 1 << 20, SourceFormat: "qcow2", Path: "/img/web1.qcow2"},
			{Target: "nvram", Size: 1000, Kind: cairnv1.DiskKind_DISK_KIND_NVRAM, Path: "/nv/web1.fd"},
		},
	})
	ts.Check(err)
	for _, disk := range []string{"vda", "nvram"} {
		st, err := c.Blocks.WriteDiskMap(ctx)
		ts.Check(err)
		ts.Check(st.Send(&cairnv1.WriteDiskMapRequest{Header: &cairnv1.DiskMapHeader{UploadToken: up.GetUploadToken(), Disk: disk}}))
		_, err = st.CloseAndRecv()
		ts.Check(err)
	}
	_, err = c.Blocks.CommitUpload(ctx, &cairnv1.CommitUploadRequest{
		UploadToken: up.GetUploadToken(), Consistency: cairnv1.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT,
		MachineTitle: "web 1", GuestOs: "Debian", Checkpoint: "cairn-1",
		MachineDefinition: []byte(ts.ReadFile("definition")), MachineDefinitionType: "application/xml",
		Warnings: []*cairnv1.Warning{{Reason: cairnv1.ErrorReason_ERROR_REASON_CHANGE_TRACKING_RESET, Message: "the tracking was lost"}},
	})
	ts.Check(err)
}

func status(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with status %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for range 300 {
		_ = ts.Exec(args[1], args[2:]...) // it may fail until it does not
		if want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%s does not print %q", strings.Join(args[1:], " "), args[0])
}

func id(ts *testscript.TestScript, _ bool, args []string) {
	m := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("stdout has no %s", args[1])
	}
	ts.Setenv(args[0], m[1])
	fmt.Fprintf(ts.Stdout(), "%s=%s\n", args[0], m[1])
}
