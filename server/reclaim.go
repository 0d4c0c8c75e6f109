package server

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

// reclaimed is the record of a vault's last reclaim that succeeded.
type reclaimed struct {
	Time           time.Time `json:"time"` // when it ended
	Job            string    `json:"job"`
	GarbageBlocks  int64     `json:"garbage_blocks"`
	GarbageBytes   int64     `json:"garbage_bytes"`
	ReclaimedBytes int64     `json:"reclaimed_bytes"`
}

// vaultReclaim is what is known of a vault's reclaims.
type vaultReclaim struct {
	mu    sync.Mutex // held while a job is made, so taken before job.Manager's
	job   string     // that runs, dry or not
	tried time.Time  // when the last one began that the server started and that failed
	// clean is where the store stood when the last one began that succeeded: what
	// was there then has no garbage.
	clean cleanState
}

type cleanState struct {
	store              *blockstore.Store // which counts anew when it is opened anew
	deleted, abandoned uint64
}

func cleanNow(st *blockstore.Store) cleanState {
	c := st.Changes()
	return cleanState{st, c.Deleted, c.Abandoned}
}

// lastReclaim gives the last reclaim that succeeded; ok is false if there was
// none. The caller keeps the store open.
func (v *Vault) lastReclaim() (r reclaimed, ok bool, err error) {
	b, err := v.Store.Record(reclaimedRecord)
	if errors.Is(err, blockstore.ErrNotFound) {
		return r, false, nil
	}
	if err == nil {
		err = catalog.DecodeJSON(b, &r)
	}
	return r, err == nil, err
}

// ReclaimVault starts a job, in the server, that gives the space of blocks back
// that no point needs.
func (s *vaultService) ReclaimVault(_ context.Context, r *pb.ReclaimVaultRequest) (*pb.ReclaimVaultResponse, error) {
	var f fields
	n := f.vault("name", r.Name)
	f.requestID(r.RequestId)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n)
	if err != nil {
		return nil, err
	}
	defer release()
	return once(s.Server, n.Subscription, r.RequestId, pb.VaultService_ReclaimVault_FullMethodName, r, v, new(pb.ReclaimVaultResponse),
		func(k keep) (*pb.ReclaimVaultResponse, error) {
			// A full vault is what this is for.
			if e := s.vaultProblem(v); e != nil && e.Reason != pb.ErrorReason_ERROR_REASON_STORE_FULL && !r.DryRun {
				return nil, e
			}
			j, err := s.startReclaim(v, r.DryRun, false, func(tx *catalog.Tx, j *pb.Job) error {
				return k.inCatalog(tx, &pb.ReclaimVaultResponse{Job: j})
			})
			if err != nil {
				return nil, err
			}
			return &pb.ReclaimVaultResponse{Job: j}, nil
		})
}

// startReclaim makes the job, and also what is to be durable with it. Error:
// RECLAIM_IN_PROGRESS.
func (s *Server) startReclaim(v *Vault, dry, auto bool, also func(*catalog.Tx, *pb.Job) error) (*pb.Job, error) {
	release, err := v.use() // the job's own
	if err != nil {
		return nil, err
	}
	v.reclaim.mu.Lock()
	defer v.reclaim.mu.Unlock()
	if v.reclaim.job != "" {
		release()
		return nil, newError(pb.ErrorReason_ERROR_REASON_RECLAIM_IN_PROGRESS,
			"vault %q is being reclaimed already, by %q; wait for the end of that job, or cancel it", v.Name, v.reclaim.job).
			with("name", v.Name.String()).with("job", v.reclaim.job)
	}
	tasks := []string{"Mark what is needed", "Remove what is not"}
	if dry {
		tasks = tasks[:1]
	}
	j, err := s.jobs.Start(job.Spec{
		Vault: v.Name.String(), Operation: pb.JobOperation_JOB_OPERATION_RECLAIM,
		Tasks: tasks, DryRun: dry, Scheduled: auto, Also: also,
	}, func(run *job.Run) (err error) {
		err = errors.New("reclaim did not come to its end") // should it panic
		began := s.opts.Now()
		defer func() {
			v.reclaim.mu.Lock()
			v.reclaim.job = ""
			if auto && err != nil {
				v.reclaim.tried = began
			}
			v.reclaim.mu.Unlock()
			release()
			if auto {
				s.reclaiming.Store(false)
			}
			s.poke(choreReclaim) // another vault may be due
		}()
		return s.reclaimVault(run, v, dry)
	})
	if err != nil {
		release()
		return nil, err
	}
	v.reclaim.job = j.Name
	return j, nil
}

// endReclaim cancels a job and waits for its end, if it is a RECLAIM: what is about
// to go as a whole need not be reclaimed. It says whether it has ended.
func (s *Server) endReclaim(ctx context.Context, name string) bool {
	j, err := s.jobs.Get(name)
	if err != nil || j.Operation != pb.JobOperation_JOB_OPERATION_RECLAIM {
		return errors.Is(err, job.ErrNotFound)
	}
	if _, err := s.jobs.Cancel(name); err != nil && !errors.As(err, new(*job.StateError)) {
		return false
	}
	return s.jobs.Await(ctx, name) == nil
}

// reclaimVault is the job.
func (s *Server) reclaimVault(run *job.Run, v *Vault, dry bool) error {
	clean := cleanNow(v.Store)
	progress := func(p blockstore.ReclaimProgress) {
		run.Update(func(j *pb.Job) { s.showReclaim(j, p) })
	}
	r, err := v.Store.Reclaim(run.Context(), blockstore.ReclaimOptions{DryRun: dry, Progress: progress})
	freed := max(0, r.FreedBytes)
	run.Update(func(j *pb.Job) {
		j.Stats.GarbageBlocks, j.Stats.GarbageBytes = int64(r.GarbageBlocks), int64(r.GarbageBytes)
		if !dry {
			j.Stats.ReclaimedBytes = freed
		}
		if err == nil {
			j.Outcome = reclaimOutcome(r, dry)
		}
	})
	switch {
	case errors.Is(err, context.Canceled) && run.Context().Err() != nil:
		return context.Cause(run.Context())
	case errors.Is(err, blockstore.ErrCorrupt):
		return reclaimDamage(v.Name, err)
	case err != nil || dry:
		return err
	}
	b, err := catalog.EncodeJSON(reclaimed{
		Time: s.opts.Now(), Job: run.Name(),
		GarbageBlocks: int64(r.GarbageBlocks), GarbageBytes: int64(r.GarbageBytes), ReclaimedBytes: freed,
	})
	if err == nil {
		err = v.Store.Apply(s.ctx, blockstore.Mutation{Key: reclaimedRecord, Value: b})
	}
	if err != nil {
		return err
	}
	v.reclaim.mu.Lock()
	defer v.reclaim.mu.Unlock()
	v.reclaim.clean = clean
	return nil
}

// showReclaim shows progress in the job's tasks.
func (s *Server) showReclaim(j *pb.Job, p blockstore.ReclaimProgress) {
	now := timestamppb.New(s.opts.Now())
	begin := func(t *pb.JobTask) {
		if t.State != pb.JobState_JOB_STATE_IN_PROGRESS {
			t.State, t.StartTime = pb.JobState_JOB_STATE_IN_PROGRESS, now
		}
	}
	mark := j.Tasks[0]
	of := func(what string) string {
		return fmt.Sprintf("%s of %s %s", humanize.Comma(int64(p.Done)), humanize.Comma(int64(p.Total)), what)
	}
	switch p.Phase {
	case blockstore.ReclaimMarking:
		begin(mark)
		mark.Detail = of("recovery points")
	case blockstore.ReclaimCounting:
		begin(mark)
		mark.Detail = of("blocks counted")
	case blockstore.ReclaimRemoving, blockstore.ReclaimWriting:
		remove := j.Tasks[1]
		if mark.State == pb.JobState_JOB_STATE_IN_PROGRESS {
			mark.State, mark.EndTime = pb.JobState_JOB_STATE_COMPLETED, now
		}
		begin(remove)
		if p.Phase == blockstore.ReclaimRemoving {
			remove.Detail = of("blocks removed")
		} else {
			remove.Detail, remove.DoneBytes, remove.TotalBytes = "giving space back", int64(p.Done), int64(p.Total)
		}
	}
	j.Stats.GarbageBlocks, j.Stats.GarbageBytes = int64(p.Report.GarbageBlocks), int64(p.Report.GarbageBytes)
}

// reclaimOutcome says what came of it.
func reclaimOutcome(r blockstore.ReclaimReport, dry bool) string {
	freed := humanize.IBytes(uint64(max(0, r.FreedBytes)))
	blocks := plural(r.GarbageBlocks, "block")
	var b strings.Builder
	switch {
	case r.GarbageBlocks == 0 && r.FreedBytes <= 0:
		b.WriteString("nothing to remove: every block is needed")
	case dry:
		fmt.Fprintf(&b, "%s would come back: nothing needs %s (%s)", freed, blocks, humanize.IBytes(r.GarbageBytes))
	default:
		fmt.Fprintf(&b, "%s freed: %s removed (%s), %s dropped, %d written anew", freed, blocks, humanize.IBytes(r.GarbageBytes),
			plural(uint64(r.TablesDropped), "table"), r.TablesWritten)
	}
	if r.LeftBytes > 0 {
		fmt.Fprintf(&b, "; %s are left for later, in tables with little of it", humanize.IBytes(r.LeftBytes))
	}
	if r.TablesFailed > 0 {
		fmt.Fprintf(&b, "; %s could not be written anew, the server's log says why: the next reclaim tries again", plural(uint64(r.TablesFailed), "table"))
	}
	return b.String()
}

// reclaimDamage says that it is not known what is needed.
func reclaimDamage(n VaultName, err error) error {
	e := newError(pb.ErrorReason_ERROR_REASON_DATA_CORRUPT, "vault %q: what its recovery points need cannot be told, so nothing more was removed: %s", n, firstLine(err)).
		with("name", n.String()).because(err)
	if c := new(blockstore.CorruptError); errors.As(err, &c) {
		if c.Digest != block.Zero {
			_ = e.with("digest", c.Digest.String())
		}
		if c.Point != "" {
			_ = e.with("recovery_point", n.pointOfStore(c.Point).String())
		}
	}
	return e
}

// reclaimRetry is when a reclaim that failed is tried again, and the least time
// between two of a vault that is full.
const reclaimRetry = time.Hour

// reclaimDue is the chore that starts the reclaim of vaults: of each when
// Options.ReclaimEvery has passed since the last one, or since it was made, and it
// may have garbage. One runs at a time, as it keeps the disk busy.
func (s *Server) reclaimDue(_ context.Context, now time.Time) (next time.Time, err error) {
	var errs []error
	for _, v := range s.vaults.all() {
		release, unavailable := v.use()
		if unavailable != nil {
			continue
		}
		switch at := s.reclaimTime(v); {
		case at.IsZero():
		case at.After(now):
			if next.IsZero() || at.Before(next) {
				next = at
			}
		case s.reclaiming.CompareAndSwap(false, true):
			j, err := s.startReclaim(v, false, true, nil)
			if err != nil {
				s.reclaiming.Store(false)
				errs = append(errs, fmt.Errorf("reclaim %s: %w", v.Name, err))
			} else {
				s.auditSelf(auditReclaim, v.Name.String(), j.Name)
			}
		}
		release()
	}
	return next, errors.Join(errs...)
}

// reclaimTime is when a vault is due; zero if it has nothing to reclaim, or is
// being reclaimed.
func (s *Server) reclaimTime(v *Vault) time.Time {
	v.reclaim.mu.Lock()
	running, tried, clean := v.reclaim.job != "", v.reclaim.tried, v.reclaim.clean
	v.reclaim.mu.Unlock()
	if running || clean == cleanNow(v.Store) {
		return time.Time{}
	}
	every := s.opts.ReclaimEvery
	if e := s.vaultProblem(v); e != nil {
		if e.Reason != pb.ErrorReason_ERROR_REASON_STORE_FULL {
			return time.Time{}
		}
		every = min(every, reclaimRetry)
	}
	last, ok, err := v.lastReclaim()
	if err != nil {
		s.log.Error("record of a vault's last reclaim not read: it is reclaimed anew", "vault", v.Name.String(), "error", err)
	}
	if !ok {
		last.Time = v.stored().CreateTime.AsTime()
	}
	at := last.Time.Add(every)
	if again := tried.Add(reclaimRetry); !tried.IsZero() && again.After(at) {
		at = again
	}
	return at
}
