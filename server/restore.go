package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

// safetyRetention is how long the point is kept that a restore in place makes of
// what it replaces.
const safetyRetention = 30 * 24 * time.Hour

// Restore starts a job that brings disks or a machine back. It is queued until
// the agent of its host takes it, and holds its point until it ends.
func (s *recoveryPointService) Restore(_ context.Context, r *pb.RestoreRequest) (*pb.RestoreResponse, error) {
	var f fields
	n := f.point("name", r.Name)
	f.restoreHost(n, r)
	f.restoreTarget(r)
	f.requestID(r.RequestId)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	return once(s.Server, n.Subscription, r.RequestId, pb.RecoveryPointService_Restore_FullMethodName, r, v, new(pb.RestoreResponse),
		func(k keep) (*pb.RestoreResponse, error) {
			resp := new(pb.RestoreResponse)
			resp.Job, err = s.startRestore(v, n, r, "", func(tx *catalog.Tx, j *pb.Job) error {
				resp.Job = j
				return k.inCatalog(tx, resp)
			})
			if err != nil {
				return nil, err
			}
			return resp, nil
		})
}

// startRestore makes the job of a restore, after checking that it can be done.
// The request's fields were checked.
func (s *Server) startRestore(v *Vault, n PointName, r *pb.RestoreRequest, retryOf string, also func(*catalog.Tx, *pb.Job) error) (*pb.Job, error) {
	// From here on the point stays: the lease keeps it until there is a job, and
	// that to its end; see closePoint.
	lease, _, err := s.data.leases.take(n, "", "restore", defaultPointLease)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.data.leases.release(n, lease) }() // it may have run out
	spec, err := s.restoreSpec(v, n, r)
	if err != nil {
		return nil, err
	}
	spec.RetryOf, spec.Also = retryOf, also
	return s.jobs.Create(spec)
}

// restoreSpec describes the job of a restore.
func (s *Server) restoreSpec(v *Vault, n PointName, r *pb.RestoreRequest) (job.Spec, error) {
	var none job.Spec
	p, _, err := v.point(n)
	if err != nil {
		return none, err
	}
	r = proto.CloneOf(r)
	r.RequestId = ""
	tasks := []string{"Restore data"} // until the agent says what it does
	switch t := r.Target.(type) {
	case *pb.RestoreRequest_NewMachine:
		if t.NewMachine.Instant {
			t.NewMachine.Start = true
			tasks = []string{"Start machine", "Restore data"}
		}
		err = needDefinition(p)
	case *pb.RestoreRequest_InPlace:
		tasks = []string{"Take safety point", "Restore data"}
		if err = needDefinition(p); err != nil {
			break
		}
		if e := s.vaultProblem(v); e != nil { // it takes the safety point
			err = e
		}
	case *pb.RestoreRequest_Disks:
		err = needDisks(p, t.Disks)
	}
	if err != nil {
		return none, err
	}
	if r.Host, err = s.restoringHost(v, p, r); err != nil {
		return none, err
	}
	return job.Spec{
		Vault: v.Name.String(), Operation: pb.JobOperation_JOB_OPERATION_RESTORE,
		ProtectedItem: n.ItemName.String(), Machine: p.Machine, RecoveryPoint: p.Name,
		Tasks: tasks, Restore: r,
	}, nil
}

// needDefinition refuses to restore a machine of which only disks are known.
func needDefinition(p *pb.RecoveryPoint) error {
	if len(p.MachineDefinition) > 0 {
		return nil
	}
	return newError(pb.ErrorReason_ERROR_REASON_RESTORE_UNSUPPORTED,
		"recovery point %q holds no definition of its machine, as its host backed up image files; restore its disks instead", p.Name).
		with("recovery_point", p.Name)
}

// needDisks checks that the disks to restore are in the point, and that there is
// a place for each.
func needDisks(p *pb.RecoveryPoint, to *pb.RestoreDisks) error {
	there := make(map[string]bool)
	var have []string
	for _, d := range p.Disks {
		there[d.Target] = true
		have = append(have, d.Target)
	}
	want := to.Targets
	if len(want) == 0 {
		want = have
	}
	for _, t := range append(sortedKeys(to.Volumes), want...) {
		if !there[t] {
			return newError(pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND,
				"recovery point %q has no disk %s; it has: %s", p.Name, quote(t), strings.Join(have, ", ")).
				with("recovery_point", p.Name).with("disk", t).with("disks", strings.Join(have, ","))
		}
	}
	if to.Directory != "" {
		return nil
	}
	for _, t := range want {
		if to.Volumes[t] == "" {
			return invalidField("disks.directory", "must be given for disk %s, which volumes does not name", quote(t))
		}
	}
	return nil
}

// restoringHost is the host that restores: the one that is named, or the
// machine's. Errors: HOST_NOT_FOUND, REGION_MISMATCH, INVALID_FIELD.
func (s *Server) restoringHost(v *Vault, p *pb.RecoveryPoint, r *pb.RestoreRequest) (string, error) {
	own, _, _ := strings.Cut(p.Machine, "/machines/")
	host := r.Host
	if host == "" {
		host = own
	}
	if r.GetInPlace() != nil && host != own {
		return "", invalidField("host", "is %s; a restore in place is done by the machine's own host, %q", quote(host), own)
	}
	h, err := s.cat.Host(host)
	if errors.Is(err, catalog.ErrNotFound) {
		e := newError(pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND, "host %q does not exist", host).with("name", host)
		if r.Host == "" {
			e.Message = fmt.Sprintf("host %q, which the machine was on, does not exist any more; name another one", host)
		}
		return "", e
	}
	if err != nil {
		return "", err
	}
	if region := v.stored().Region; h.Region != region {
		return "", newError(pb.ErrorReason_ERROR_REASON_REGION_MISMATCH,
			"host %q is in region %q, vault %q in %q; restore on a host in the vault's region", host, h.Region, v.Name, region).
			with("host_region", h.Region).with("vault_region", region)
	}
	return host, nil
}

// restoreWork describes a restore to the agent that is about to run it.
func (s *Server) restoreWork(j *pb.Job, r *pb.RestoreRequest) (*pb.RestoreWork, error) {
	w := &pb.RestoreWork{RecoveryPoint: j.RecoveryPoint, Machine: j.Machine}
	switch t := proto.CloneOf(r).Target.(type) {
	case *pb.RestoreRequest_NewMachine:
		w.Target = &pb.RestoreWork_NewMachine{NewMachine: t.NewMachine}
	case *pb.RestoreRequest_Disks:
		w.Target = &pb.RestoreWork_Disks{Disks: t.Disks}
	case *pb.RestoreRequest_InPlace:
		w.Target = &pb.RestoreWork_InPlace{InPlace: t.InPlace}
		var err error
		if w.SafetyBackup, err = s.backupWork(j); err != nil {
			return nil, err
		}
		// Whatever can be had of what is about to be replaced is worth keeping:
		// the machine is off then, or does not even start any more.
		w.SafetyBackup.MinimumConsistency = pb.ConsistencyClass_CONSISTENCY_CLASS_UNSPECIFIED
	}
	return w, nil
}
