package agent

import (
	"context"
	"errors"
	"testing"

	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

type committedFunc = func(context.Context, string, string) (bool, error)

// TestCleanUp: guests are thawed before there is a server; what depends on
// recovery points is asked again with every session until it is done; no job
// begins before that.
func TestCleanUp(t *testing.T) {
	f := twoDisks(t)
	var calls []string
	var answers []bool
	ask := func(ctx context.Context, committed committedFunc, machine, checkpoint string) error {
		yes, err := committed(ctx, machine, checkpoint)
		answers = append(answers, yes)
		return err
	}
	f.clean = append(f.clean,
		func(ctx context.Context, committed committedFunc) error {
			calls = append(calls, "offline")
			if _, err := committed(ctx, "m", "cp1"); !errors.Is(err, errNotConnected) {
				t.Errorf("without a server: %v", err)
			}
			return errNotConnected
		},
		func(ctx context.Context, committed committedFunc) error {
			calls = append(calls, "unknown machine")
			return ask(ctx, committed, "m", "cp1") // not protected yet
		})
	w := newWorld(t, f)
	w.backedUp()
	if len(calls) != 2 || len(answers) != 1 || answers[0] {
		t.Errorf("calls %q, answers %v", calls, answers)
	}
	w.backedUp()
	w.stopAgent()
	calls, answers = nil, nil
	done := make(chan struct{})
	f.clean = append(f.clean,
		func(context.Context, committedFunc) error {
			calls = append(calls, "offline")
			return errors.New("not yet")
		},
		func(ctx context.Context, committed committedFunc) error {
			calls = append(calls, "online")
			return errors.Join(ask(ctx, committed, "m", "cp2"), ask(ctx, committed, "m", "cp1"), ask(ctx, committed, "m", "cp9"), ask(ctx, committed, "x", "cp1"), errors.New("try again"))
		},
		func(context.Context, committedFunc) error { close(done); return nil },
		func(context.Context, committedFunc) error { t.Error("called though nothing is left to do"); return nil })
	w.startAgent()
	f.mu.Lock()
	changed := f.changed
	f.mu.Unlock()
	changed()
	<-done
	w.stopServer()
	w.startServer()
	w.backedUp() // in a new session
	if len(calls) != 2 || len(answers) != 4 || !answers[0] || answers[1] || answers[2] || answers[3] {
		t.Errorf("calls %q, answers %v", calls, answers)
	}
}

// TestMachineReport: what the source knows of a machine reaches the server.
func TestMachineReport(t *testing.T) {
	a := &agent{host: testHost}
	for _, test := range []struct {
		m       source.Machine
		state   cairnv1.MachineState
		agent   cairnv1.GuestAgentState
		problem cairnv1.ErrorReason
	}{
		{source.Machine{Problem: "bad"}, cairnv1.MachineState_MACHINE_STATE_IMAGE, 0, cairnv1.ErrorReason_ERROR_REASON_IMAGE_UNREADABLE},
		{source.Machine{State: source.StateRunning, Agent: source.AgentConnected}, cairnv1.MachineState_MACHINE_STATE_RUNNING, cairnv1.GuestAgentState_GUEST_AGENT_STATE_CONNECTED, 0},
		{source.Machine{State: source.StateCrashed, Agent: source.AgentUnreachable, HypervisorID: "u", Problem: "crashed"},
			cairnv1.MachineState_MACHINE_STATE_CRASHED, cairnv1.GuestAgentState_GUEST_AGENT_STATE_UNREACHABLE, cairnv1.ErrorReason_ERROR_REASON_MACHINE_STATE},
		{source.Machine{State: source.StatePaused, Agent: source.AgentNotConfigured}, cairnv1.MachineState_MACHINE_STATE_PAUSED, cairnv1.GuestAgentState_GUEST_AGENT_STATE_NOT_CONFIGURED, 0},
		{source.Machine{State: source.StateStopped, HypervisorID: "u", Problem: "no"}, cairnv1.MachineState_MACHINE_STATE_OFF, 0, cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED},
	} {
		m := a.machine(test.m)
		if m.GetState() != test.state || m.GetGuestAgent() != test.agent || m.GetProblem().GetReason() != test.problem || m.GetHypervisorId() != test.m.HypervisorID {
			t.Errorf("%+v becomes %v", test.m, m)
		}
	}
}
