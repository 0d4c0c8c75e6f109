package guesttest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// QEMUVM is a QEMU process that nothing manages. It is killed when its test ends.
type QEMUVM struct {
	*Guest
	QMPSocket   string // path of the control socket, for one client at a time
	AgentSocket string // path of the guest agent's socket, likewise
	Drives      []Drive
	PID         int

	cmd   *exec.Cmd
	ended chan struct{}
}

// QEMU starts a machine and returns when its sockets are there; the guest is not
// ready yet. Drive vda is the block node "disk-vda" and the device "vda".
func QEMU(tb testing.TB, spec Spec) *QEMUVM {
	tb.Helper()
	dir := Dir(tb)
	vm := &QEMUVM{QMPSocket: dir + "/qmp", AgentSocket: dir + "/agent", Drives: targets(spec.Drives), ended: make(chan struct{})}
	shell := dir + "/shell"
	vm.Guest = &Guest{tb: tb, serialLog: dir + "/serial.log", ask: vm.askAgent,
		channel: func() (string, error) { return shell, nil }}

	boot := Kit(tb)
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc,accel=tcg,usb=off", "-cpu", "max",
		"-smp", "1", "-m", fmt.Sprint(spec.memory()), "-no-reboot",
		"-kernel", boot.Kernel, "-initrd", boot.Initrd, "-append", spec.commandLine(),
		"-chardev", "file,id=serial,path=" + vm.serialLog, "-serial", "chardev:serial",
		"-device", "virtio-serial-pci,id=ports", "-device", "virtio-scsi-pci,id=scsi",
		"-chardev", "socket,id=shell,server=on,wait=off,path=" + shell,
		"-device", "virtserialport,chardev=shell,name=" + shellPort,
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + vm.QMPSocket, "-mon", "chardev=qmp,mode=control",
	}
	if spec.Agent != AgentMissing {
		args = append(args, "-chardev", "socket,id=agent,server=on,wait=off,path="+vm.AgentSocket,
			"-device", "virtserialport,chardev=agent,name="+agentPort)
	}
	scsi := 0
	for _, d := range vm.Drives {
		node, err := json.Marshal(map[string]any{"driver": d.Format, "node-name": "disk-" + d.Target, "discard": "unmap",
			"file": map[string]any{"driver": "file", "filename": d.Path, "discard": "unmap"}})
		if err != nil {
			tb.Fatal(err)
		}
		device := fmt.Sprintf("drive=disk-%s,id=%s,serial=%s", d.Target, d.Target, d.Serial)
		if d.Bus == VirtioSCSI {
			device = fmt.Sprintf("scsi-hd,bus=scsi.0,scsi-id=%d,%s", scsi, device)
			scsi++
		} else {
			device = "virtio-blk-pci," + device
		}
		args = append(args, "-blockdev", string(node), "-device", device)
	}
	vm.start(tb, dir, args)
	return vm
}

// memory is in MiB.
func (s Spec) memory() int {
	if s.Memory == 0 {
		return 256
	}
	return s.Memory
}

func (vm *QEMUVM) start(tb testing.TB, dir string, args []string) {
	tb.Helper()
	words, err := os.Create(dir + "/stderr")
	if err != nil {
		tb.Fatal(err)
	}
	defer words.Close()
	vm.cmd = exec.Command(tool(tb, "qemu-system-x86_64"), args...)
	vm.cmd.Stdout, vm.cmd.Stderr = words, words
	// If this test is killed, nothing stays behind. The kernel kills the child
	// when the thread that started it ends, so that thread is kept.
	vm.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := vm.cmd.Start()
		started <- err
		if err == nil {
			vm.cmd.Wait()
		}
		close(vm.ended)
	}()
	if err := <-started; err != nil {
		tb.Fatal(err)
	}
	vm.PID = vm.cmd.Process.Pid
	tb.Cleanup(vm.Kill)
	ctx, cancel := context.WithTimeout(tb.Context(), shellLimit)
	defer cancel()
	vm.await(ctx, "the sockets of QEMU", func() bool {
		select {
		case <-vm.ended:
			said, _ := os.ReadFile(words.Name())
			tb.Fatalf("QEMU ended: %s", strings.TrimSpace(string(said)))
		default:
		}
		_, err := os.Stat(vm.QMPSocket) // the last one that it makes
		return err == nil
	})
}

// Kill kills the process and returns when nothing is left of it.
func (vm *QEMUVM) Kill() {
	vm.disconnect()
	vm.cmd.Process.Kill()
	<-vm.ended
}

// Ended is closed when the process is gone.
func (vm *QEMUVM) Ended() <-chan struct{} { return vm.ended }

// askAgent has the agent execute one command. It connects for that and
// disconnects, so that somebody else can talk to the agent afterwards.
func (vm *QEMUVM) askAgent(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", vm.AgentSocket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()

	// Answers to whoever was here before may come first: a number of our own
	// says where ours begin.
	sync := rand.Int64N(1 << 50)
	if _, err := fmt.Fprintf(conn, "{\"execute\":\"guest-sync\",\"arguments\":{\"id\":%d}}\n", sync); err != nil {
		return "", err
	}
	lines := bufio.NewReader(conn)
	for asked := false; ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return "", err
		}
		var answer struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			return "", fmt.Errorf("guest agent's answer %q: %w", line, err)
		}
		switch {
		case asked && answer.Error != nil:
			return "", errors.New(answer.Error.Desc)
		case asked:
			return line, nil
		case string(answer.Return) == fmt.Sprint(sync):
			asked = true
			if _, err := fmt.Fprintln(conn, command); err != nil {
				return "", err
			}
		}
	}
}
