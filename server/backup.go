package server

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

// BackUp starts a backup now. It is queued until the agent of the machine's host
// takes it.
func (s *protectedItemService) BackUp(_ context.Context, r *pb.BackUpRequest) (*pb.BackUpResponse, error) {
	var f fields
	n := f.item("name", r.Name)
	until := f.time("retain_until", r.RetainUntil)
	f.requestID(r.RequestId)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	return once(s.Server, n.Subscription, r.RequestId, pb.ProtectedItemService_BackUp_FullMethodName, r, v, new(pb.BackUpResponse),
		func(k keep) (*pb.BackUpResponse, error) {
			until, err := s.retainUntil(until)
			if err != nil {
				return nil, err
			}
			spec, err := s.backupSpec(v, n)
			if err != nil {
				return nil, err
			}
			spec.RetainUntil = until
			resp := new(pb.BackUpResponse)
			spec.Also = func(tx *catalog.Tx, j *pb.Job) error {
				resp.Job = j
				return k.inCatalog(tx, resp)
			}
			if resp.Job, err = s.jobs.Create(spec); err != nil {
				return nil, err
			}
			return resp, nil
		})
}

// retainUntil checks the date until which a backup on demand is to be kept, or gives
// the default. A call that is repeated is not asked again, though the date may have
// passed meanwhile.
func (s *Server) retainUntil(until time.Time) (time.Time, error) {
	switch now := s.opts.Now(); {
	case until.IsZero():
		return now.Add(defaultRetention), nil
	case !until.After(now):
		return until, invalidField("retain_until", "%s is past; it must lie in the future", until.Format(time.RFC3339))
	case until.After(now.AddDate(99, 0, 0)):
		return until, invalidField("retain_until", "%s is more than 99 years from now", until.Format(time.RFC3339))
	}
	return until, nil
}

// backupSpec describes the job of a backup, after checking that it can be done.
func (s *Server) backupSpec(v *Vault, n ItemName) (job.Spec, error) {
	var none job.Spec
	it, err := v.item(n)
	if err != nil {
		return none, err
	}
	if err := mayBackUp(it); err != nil {
		return none, err
	}
	if err := s.backupProblem(v, it); err != nil {
		return none, err
	}
	return backupJob(v, it), nil
}

// backupProblem says why a backup of an item cannot be done now: for the vault, or
// for the machine. Errors: STORE_FULL and the like, MACHINE_GONE, the reason of the
// machine's problem.
func (s *Server) backupProblem(v *Vault, it *pb.ProtectedItem) error {
	if e := s.vaultProblem(v); e != nil {
		return e
	}
	ids, _ := splitName(it.Machine, machinePattern, false)
	m, _, err := s.machineOn(MachineName{HostName{ids[0], ids[1]}, ids[2]})
	switch {
	case err != nil:
		return err
	case m.State == pb.MachineState_MACHINE_STATE_GONE:
		return errMachineGone(m)
	case m.Problem != nil:
		e := newError(m.Problem.Reason, "machine %q cannot be backed up as it is: %s", m.Name, m.Problem.Message).
			code(codes.FailedPrecondition).with("machine", m.Name)
		for k, val := range m.Problem.Metadata {
			e = e.with(k, val)
		}
		return e
	}
	return nil
}

// backupJob describes the job of a backup.
func backupJob(v *Vault, it *pb.ProtectedItem) job.Spec {
	return job.Spec{
		Vault: v.Name.String(), Operation: pb.JobOperation_JOB_OPERATION_BACKUP,
		ProtectedItem: it.Name, Machine: it.Machine,
		Tasks: []string{"Take Snapshot", "Transfer data to vault"},
	}
}
