package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cairn/bench/sandbox"
)

// demo is the whole way on one small image. Server, agent and every command
// run as processes of their own, as they would really.
type demo struct {
	out       io.Writer
	image     string // the user's image, or ""
	megabytes int64
	keep      bool

	box   *sandbox.Sandbox
	steps int
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.box, err = sandbox.New(""); err != nil {
		return err
	}
	start := time.Now()
	err = d.story(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err = errors.Join(err, d.cleanUp()); err == nil {
		fmt.Fprintf(d.out, "\nDone in %s: the deleted file came back, byte for byte.\n", time.Since(start).Round(100*time.Millisecond))
	}
	return err
}

func (d *demo) story(ctx context.Context) error {
	img, err := d.makeImage(ctx)
	if err != nil {
		return err
	}
	if err := d.startAll(ctx); err != nil {
		return err
	}

	d.step("Make a vault and a policy, and protect the machine")
	for _, args := range [][]string{
		{"vault", "create", "demo"},
		{"policy", "create", "nightly", "--vault", "demo"},
		{"protect", "web1", "--vault", "demo", "--policy", "nightly"},
	} {
		if err := d.cairn(ctx, args...); err != nil {
			return err
		}
	}

	d.step("Back it up")
	first, err := d.backUp(ctx)
	if err != nil {
		return err
	}

	d.step("Delete a file inside the machine: %s (%s)", img.victim, size(int64(len(img.content))))
	if err := img.deleteVictim(ctx, d); err != nil {
		return err
	}

	d.step("Back it up again: only what changed is sent")
	second, err := d.backUp(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  The first backup sent %s for %s of data; the second %s, which is %.2f%% of that.\n",
		size(first.sent), size(first.data), size(second.sent), 100*float64(second.sent)/float64(max(1, first.sent)))
	if err := d.cairn(ctx, "point", "list", "web1"); err != nil {
		return err
	}

	d.step("Bring the file back from the first point")
	got, err := d.bringBack(ctx, img, first.point)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, img.content) {
		return fmt.Errorf("%s came back with other bytes than it had", img.victim)
	}
	fmt.Fprintf(d.out, "  %s is back: %s, identical to what was deleted.\n", img.victim, size(int64(len(got))))
	if _, err := d.box.Cairn(ctx, "ls", "web1@"+second.point+":"+img.inTree); err == nil {
		return fmt.Errorf("%s is still in the second point", img.victim)
	}
	fmt.Fprintf(d.out, "  The second point does not have it, as it should be.\n")
	return nil
}

func (d *demo) step(format string, args ...any) {
	d.steps++
	fmt.Fprintf(d.out, "\n%d. %s\n", d.steps, fmt.Sprintf(format, args...))
}

// backup is what one backup did.
type backup struct {
	point      string // id
	data, sent int64
}

func (d *demo) backUp(ctx context.Context) (backup, error) {
	if err := d.cairn(ctx, "backup", "web1", "--wait"); err != nil {
		return backup{}, err
	}
	out, err := d.box.Cairn(ctx, "job", "list", "--item", "web1", "-o", "json")
	if err != nil {
		return backup{}, err
	}
	var jobs []struct {
		RecoveryPoint string
		Operation     string
		Stats         struct {
			AllocatedBytes int64 `json:",string"`
			SentBytes      int64 `json:",string"`
		}
	}
	if err := json.Unmarshal(out, &jobs); err != nil {
		return backup{}, fmt.Errorf("read the list of jobs: %w", err)
	}
	for _, j := range jobs { // newest first
		if j.Operation == "JOB_OPERATION_BACKUP" {
			return backup{point: short(j.RecoveryPoint), data: j.Stats.AllocatedBytes, sent: j.Stats.SentBytes}, nil
		}
	}
	return backup{}, errors.New("the backup's job is not in the list of jobs")
}

// bringBack reads the deleted file through a mount, or without FUSE if the
// machine does not let us mount.
func (d *demo) bringBack(ctx context.Context, img *demoImage, point string) ([]byte, error) {
	mnt := d.mnt()
	if err := os.Mkdir(mnt, 0o700); err != nil {
		return nil, err
	}
	dest := filepath.Join(d.box.Dir, "restored")
	err := d.cairn(ctx, "mount", "web1@"+point, mnt, "--background")
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		fmt.Fprintf(d.out, "    %v\n  This machine does not let us mount through FUSE; cairn cp needs none.\n", err)
		if err := d.cairn(ctx, "cp", "web1@"+point+":"+img.inTree, dest); err != nil {
			return nil, err
		}
		return os.ReadFile(dest)
	}
	fmt.Fprintf(d.out, "  $ cp %s %s\n", filepath.Join(mnt, img.inTree), dest)
	start := time.Now()
	b, err := os.ReadFile(filepath.Join(mnt, img.inTree))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(dest, b, 0o600); err != nil {
		return nil, err
	}
	d.took(start)
	fmt.Fprintf(d.out, "  $ umount %s\n", mnt)
	return b, unmountDir(mnt)
}

// cairn runs a command as a person would, and shows it and what it printed.
func (d *demo) cairn(ctx context.Context, args ...string) error {
	fmt.Fprintf(d.out, "  $ cairn %s\n", strings.Join(args, " "))
	start := time.Now()
	out, err := d.box.Cairn(ctx, args...)
	for line := range strings.Lines(string(out)) {
		fmt.Fprintf(d.out, "    %s", line)
	}
	d.took(start)
	return err
}

func (d *demo) took(start time.Time) {
	fmt.Fprintf(d.out, "    (%s)\n", time.Since(start).Round(time.Millisecond))
}

func (d *demo) startAll(ctx context.Context) error {
	d.step("Start a private server and an agent")
	fmt.Fprintf(d.out, "  $ cairnd --data %s --socket %s &\n", d.box.Data, strings.TrimPrefix(d.box.Server, "unix:"))
	if err := d.box.StartServer(ctx); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "  $ export CAIRN_SERVER=%s\n  $ cairn agent --host demo --images %s &\n", d.box.Server, d.box.Images)
	if err := d.box.StartAgent(ctx, "demo"); err != nil {
		return err
	}
	return d.cairn(ctx, "machine", "list")
}

// mnt is where the first point is mounted.
func (d *demo) mnt() string { return filepath.Join(d.box.Dir, "mnt") }

// cleanUp ends everything in order. It never removes through a mount.
func (d *demo) cleanUp() error {
	if err := unmountDir(d.mnt()); err != nil {
		return errors.Join(err, d.box.Stop())
	}
	if d.keep {
		fmt.Fprintf(d.out, "\nEverything is left in %s\n", d.box.Dir)
		return d.box.Stop()
	}
	return d.box.Close()
}

// unmountDir unmounts dir, and does nothing if it is not a mount point.
func unmountDir(dir string) error {
	err := syscall.Unmount(dir, 0)
	if err == nil || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	if !isMounted(dir) { // an ordinary user's unmount fails either way
		return nil
	}
	out, err := exec.Command("fusermount3", "-u", "-z", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unmount %s: %w: %s", dir, err, bytes.TrimSpace(out))
	}
	return nil
}

// isMounted looks for dir in this process's table of mounts.
func isMounted(dir string) bool {
	b, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(b), " "+dir+" ")
}
