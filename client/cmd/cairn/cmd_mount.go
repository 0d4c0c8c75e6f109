package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cairn/client"
	"cairn/mount"
)

// mountedLine is what a mount prints when its tree can be used, up to the
// directory.
const mountedLine = "mounted at "

func (a *app) mountCmd() *cobra.Command {
	var o mount.Options
	var background, detached bool
	var logFile string
	var uids, gids []string
	cmd := &cobra.Command{
		Use: "mount POINT|ITEM DIR", Short: "Mount a recovery point, or all points of an item, read-only", Args: args(cobra.ExactArgs(2)),
		Long: `Mount a recovery point, or all points of an item by time, on an empty directory.

  point.json          what the point is
  disks/vda.raw       whole disks, usable with qemu-img and QEMU
  volumes/vda1/…      files of partition 1; what cannot be read says why

No kernel driver and no root touches the guest's file systems: they are read in
this process. The mount ends with Ctrl-C, umount DIR or fusermount3 -u DIR.
While programs use it, Ctrl-C takes it from the directory at once and waits for
them for 10 seconds; a second Ctrl-C does not.

When the server cannot be reached, reads wait for it, then fail (--wait).`,
	}
	f := cmd.Flags()
	f.BoolVar(&background, "background", false, "return once the tree is there; end it with umount DIR")
	f.BoolVar(&detached, "detached", false, "")
	_ = f.MarkHidden("detached") // how --background runs this command
	f.StringVar(&logFile, "log", "", "append to this file what programs see as I/O errors (default: standard error)")
	f.BoolVar(&o.AllowOther, "allow-other", false, "let other users in, as far as the guest's permissions let them")
	f.BoolVar(&o.MapOwner, "map-owner", false, "show everything as owned by you")
	f.StringArrayVar(&uids, "map-uid", nil, "show the guest's users from `GUEST:HOST[:COUNT]` as others, also in ACLs (repeatable)")
	f.StringArrayVar(&gids, "map-gid", nil, "the same for its groups, `GUEST:HOST[:COUNT]`")
	f.DurationVar(&a.wait, "wait", patience, "how long reads wait for a server that is gone before they fail")
	a.addVolumeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := idFlags(&o, uids, gids); err != nil {
			return err
		}
		if a.wait < 0 {
			return usagef("--wait %v: must not be negative", a.wait)
		}
		if background {
			passphrase, err := a.volumes.passphrase()
			if err != nil {
				return err
			}
			return inBackground(cmd.Context(), passphrase)
		}
		return a.withClient(func(ctx context.Context, c *client.Client, args []string) error {
			limitMemory()
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(100) // its blocks are no garbage: their memory is used again
			}
			if os.Getenv("GOMEMLIMIT") == "" {
				debug.SetMemoryLimit(256 << 20) // it holds blocks, metadata of volumes, and names
			}
			log := os.Stderr
			if logFile != "" {
				var err error
				if log, err = os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
					return err
				}
				defer log.Close()
			}
			o.Log = slog.New(slog.NewTextHandler(log, nil))
			return a.mount(ctx, c, args[0], args[1], o, detached)
		})(cmd, args)
	}
	return cmd
}

// idFlags reads --map-uid and --map-gid.
func idFlags(o *mount.Options, uids, gids []string) error {
	for _, f := range []struct {
		name   string
		values []string
		to     *[]mount.IDRange
	}{{"--map-uid", uids, &o.UIDs}, {"--map-gid", gids, &o.GIDs}} {
		for _, s := range f.values {
			r, err := mount.ParseIDRange(s)
			if err != nil {
				return usagef("%s %w", f.name, err)
			}
			*f.to = append(*f.to, r)
		}
	}
	if err := o.CheckIDs(); err != nil {
		return usageError{err}
	}
	return nil
}

func (a *app) mount(ctx context.Context, c *client.Client, what, dir string, o mount.Options, detached bool) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	t, err := a.openTree(ctx, c, what, "mount")
	if err != nil {
		return err
	}
	defer t.Close()
	o.Name = "cairn:" + what
	srv, err := mount.Mount(dir, t.Root(), o)
	if errors.Is(err, mount.ErrNoFUSE) {
		return hintf(err, "cairn ls and cairn cp read files without FUSE")
	}
	if err != nil {
		return err
	}
	fmt.Println(mountedLine + srv.Dir())
	if detached {
		if err := letGo(); err != nil {
			return err
		}
	}
	select {
	case <-srv.Done():
		return nil
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), unmountFor)
	defer cancel()
	go func() {
		// The first signal is what ended the other context. A second one, which
		// would end the process and leave a dead mount, ends the waiting.
		for range 2 {
			select {
			case <-signals:
			case <-ctx.Done():
				return
			}
		}
		cancel()
	}()
	return srv.Unmount(ctx)
}

// unmountFor is how long an interrupted mount waits for programs that use it.
const unmountFor = 10 * time.Second

// letGo takes standard input, output and error away from whoever started this
// process: writing to them after that one has ended would end this one.
func letGo() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := syscall.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("let go of standard output: %w", err)
		}
	}
	return nil
}

// inBackground runs this command again, without --background, as a process of
// its own, and returns when that says that the tree is there.
//
// The passphrase that was asked for, if any, goes to it on its standard input.
func inBackground(ctx context.Context, passphrase []byte) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	argv := []string{}
	for _, arg := range os.Args[1:] {
		if arg != "--background" && !strings.HasPrefix(arg, "--background=") {
			argv = append(argv, arg)
		}
	}
	cmd := exec.Command(exe, append(argv, "--detached")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives the terminal
	if passphrase != nil {
		cmd.Stdin = bytes.NewReader(append(passphrase, '\n'))
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the mount: %w", err)
	}
	said := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(stderr, 64<<10)) // ends when the process does
		said <- b
	}()
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- line
	}()
	select {
	case line := <-ready:
		if !strings.HasPrefix(line, mountedLine) {
			err := cmd.Wait()
			return backgroundError{string(bytes.TrimSpace(<-said)), err}
		}
		fmt.Print(line)
		return cmd.Process.Release()
	case <-ctx.Done():
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		return context.Cause(ctx)
	}
}

// backgroundError is how a mount in the background failed: what it printed.
type backgroundError struct {
	said string
	err  error
}

func (e backgroundError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("the mount ended: %v", e.err)
	}
	return strings.TrimPrefix(e.said, "cairn: ")
}
