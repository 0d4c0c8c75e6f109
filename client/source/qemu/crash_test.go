package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"cairn/client/source"
)

// childEnv holds "dir|state|since|phase|guard" for a child that takes a snapshot of
// machine web and stops in a phase, to be killed there.
const childEnv = "CAIRN_QEMU_TEST_CHILD"

// phases are those of Options.reached.
var phases = []string{"session", "server", "prepared", "take", "taken"}

func child() {
	f := strings.Split(os.Getenv(childEnv), "|")
	s, err := New(Options{Dir: f[0], Reserve: 1, Guard: f[4] != ""})
	if err != nil {
		panic(err)
	}
	s.state = f[1]
	stop := func(phase string) {
		if phase == f[3] {
			fmt.Println("here")
			select {}
		}
	}
	s.reached = stop
	snap, err := s.Snapshot(context.Background(), "web", source.SnapshotOptions{Since: f[2]})
	if err != nil {
		panic(err)
	}
	fmt.Println(snap.Info().Checkpoint)
	stop("open")
	if err := snap.Keep(context.Background()); err != nil {
		panic(err)
	}
	stop("kept")
	os.Exit(0)
}

// crash runs a child up to a phase and kills it. It returns the child's
// checkpoint, if it got that far.
func crash(t *testing.T, b *testbed, since, phase string) (checkpoint string) {
	t.Helper()
	return crashGuarded(t, b, since, phase, "")
}

func crashGuarded(t *testing.T, b *testbed, since, phase, guard string) (checkpoint string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{b.dir, b.state, since, phase, guard}, "|"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "here" {
			return checkpoint
		}
		checkpoint = lines.Text()
	}
	t.Fatalf("the child did not reach %s", phase)
	return ""
}

// Wherever the process is killed, the next one finds all that is left, and the
// next backup is right.
func TestKilledInEachPhase(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "raw")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	base := v.want(0)
	first := b.keep(b.take(v, source.SnapshotOptions{}))
	v.write(0, 2*mib, mib, 2)
	for _, phase := range append(phases, "open") {
		crash(t, b, first, phase)
		asked := ""
		no := func(_ context.Context, machine, checkpoint string) (bool, error) {
			asked = machine + " " + checkpoint
			return false, nil
		}
		if err := b.CleanUp(t.Context(), no); err != nil {
			t.Fatalf("%s: %v", phase, err)
		}
		if !strings.HasPrefix(asked, "web cairn-") {
			t.Errorf("%s: asked of %q", phase, asked)
		}
		b.clean(v, first, 2)
		snap := b.take(v, source.SnapshotOptions{Since: first, Continues: true})
		incremental(t, v, snap, 0, base, mib)
		b.drop(snap)
	}
}

// What was committed stays, and what came before goes; also when the answer can
// be had only later.
func TestKilledAfterCommit(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2", "raw")
	b := newSource(t, v)
	v.write(0, 0, mib, 1)
	checkpoint := b.keep(b.take(v, source.SnapshotOptions{}))
	for _, phase := range []string{"open", "kept"} {
		v.write(0, 2*mib, mib, 2)
		base := v.want(0)
		checkpoint = crash(t, b, checkpoint, phase)
		away := errors.New("the server is away")
		err := b.CleanUp(t.Context(), func(context.Context, string, string) (bool, error) { return false, away })
		if phase == "open" {
			if !errors.Is(err, away) {
				t.Errorf("the answer is missing: %v", err)
			}
			err = b.CleanUp(t.Context(), func(_ context.Context, _, c string) (bool, error) { return c == checkpoint, nil })
		}
		if err != nil {
			t.Errorf("%s: %v", phase, err)
		}
		b.clean(v, checkpoint, 2)
		v.write(0, 4*mib, mib, 3)
		snap := b.take(v, source.SnapshotOptions{Since: checkpoint, Continues: true})
		incremental(t, v, snap, 0, base, mib)
		b.drop(snap)
	}
}

// A snapshot that lives is nobody's leftover.
func TestCleanUpLeavesTheLiving(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	snap := b.take(v, source.SnapshotOptions{})
	if err := b.CleanUp(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	full(t, v, snap, 0)
	b.clean(v, b.keep(snap), 1)
}

// The machine ended after the crash, and its descriptor went.
func TestKilledAndMachineGone(t *testing.T) {
	t.Parallel()
	v := newVM(t, "web", "qcow2")
	b := newSource(t, v)
	crash(t, b, "", "open")
	v.kill()
	if err := os.Remove(b.dir + "/web.json"); err != nil {
		t.Fatal(err)
	}
	if err := b.CleanUp(t.Context(), func(context.Context, string, string) (bool, error) { return false, nil }); err != nil {
		t.Error(err)
	}
	b.files()
}
