package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cairn/client"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

const (
	// cleanUpFor bounds how long what a crash left behind keeps an agent from its
	// work.
	cleanUpFor = 2 * time.Minute
	// cleanUpEvery is how often it is tried again during a session, besides
	// whenever machines have changed: the hypervisor may have come back.
	cleanUpEvery = 30 * time.Second
)

// errNotConnected is what the source hears of recovery points as long as there
// is no server to ask.
var errNotConnected = errors.New("the agent is not connected to the server yet")

// cleanUp has the source remove what an earlier process left behind, until there
// is nothing left to do. With offline, the server is not asked for points: what
// depends on them waits for the next time.
func (a *agent) cleanUp(ctx context.Context, offline error) {
	c, ok := a.Source.(source.Cleaner)
	if !ok || a.clean {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cleanUpFor)
	defer cancel()
	err := c.CleanUp(ctx, func(ctx context.Context, machine, checkpoint string) (bool, error) {
		if offline != nil {
			return false, offline
		}
		return a.committed(ctx, machine, checkpoint)
	})
	a.clean = err == nil
	switch {
	case err == nil || ctx.Err() != nil && context.Cause(ctx) == errStopped:
	case offline != nil && errors.Is(err, offline):
		a.Log.Info("clean-up goes on when the server can be asked", "err", err)
	default:
		a.Log.Error("clean up what an earlier process left behind; trying again", "err", err)
	}
}

// committed says whether the newest point of a machine was made with a
// checkpoint. That of an older point would be of no use: a backup builds on the
// newest.
func (a *agent) committed(ctx context.Context, machine, checkpoint string) (bool, error) {
	m, err := a.c.Hosts.GetMachine(ctx, &cairnv1.GetMachineRequest{Name: a.host + "/machines/" + machine})
	switch {
	case client.Reason(err) == cairnv1.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("machine %s: %w", machine, err)
	case m.GetMachine().GetProtectedItem() == "":
		return false, nil
	}
	resp, err := a.c.Points.ListRecoveryPoints(ctx, &cairnv1.ListRecoveryPointsRequest{Parent: m.GetMachine().GetProtectedItem(), PageSize: 1})
	switch {
	case client.Reason(err) == cairnv1.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("newest point of machine %s: %w", machine, err)
	}
	ps := resp.GetRecoveryPoints()
	return len(ps) > 0 && checkpoint != "" && ps[0].GetCheckpoint() == checkpoint, nil
}
