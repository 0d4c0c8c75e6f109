package rpc

import "context"

// JobType is what kind of job a domain has, or had: virDomainJobType.
type JobType int

const (
	JobNone      JobType = 0
	JobBounded   JobType = 1 // under way; its end can be told
	JobUnbounded JobType = 2 // under way, until somebody ends it: a backup in pull mode
	JobCompleted JobType = 3
	JobFailed    JobType = 4
	JobCancelled JobType = 5
)

// Names in JobStats.Params and Event.Params that callers look at. There are
// more: VIR_DOMAIN_JOB_… in libvirt-domain.h.
const (
	JobOperation     = "operation" // JobOperationBackup, …
	JobSuccess       = "success"   // bool; of a job that ended
	JobErrorMessage  = "errmsg"    // text; of a job that failed
	JobDiskTotal     = "disk_total"
	JobDiskProcessed = "disk_processed"
	JobTempUsed      = "disk_temp_used"  // bytes of scratch space in use
	JobTempTotal     = "disk_temp_total" // bytes of scratch space

	JobOperationBackup = 9
)

// JobStats is the state of a domain's job.
type JobStats struct {
	Type   JobType
	Params Params
}

// JobStats returns the state of the job that is running, of Type JobNone if
// none is. With completed it returns the job that ended last instead, once:
// the daemon forgets it then.
func (c *Conn) JobStats(ctx context.Context, dom Domain, completed bool) (s JobStats, err error) {
	var flags uint32
	if completed {
		flags = 1
	}
	err = c.call(ctx, procDomainJobStats, dom.Name, args().domain(dom).u32(flags), func(d *decoder) {
		s.Type, s.Params = JobType(d.i32()), d.params(maxJobParams)
	})
	return s, err
}

const maxJobParams = 64

// AbortJob ends a domain's job; this is how a backup in pull mode ends, also
// in good order. If none is running: ErrOperationInvalid. The job may take a
// moment to end: EventJobCompleted tells.
func (c *Conn) AbortJob(ctx context.Context, dom Domain) error {
	return c.call(ctx, procDomainAbortJob, dom.Name, args().domain(dom), nil)
}

// BlockJobType is what a block job does: virDomainBlockJobType.
type BlockJobType int

const (
	BlockJobPull         BlockJobType = 1
	BlockJobCopy         BlockJobType = 2
	BlockJobCommit       BlockJobType = 3
	BlockJobActiveCommit BlockJobType = 4
	BlockJobBackup       BlockJobType = 5
)

// BlockJob is the state of a disk's block job.
type BlockJob struct {
	Type      BlockJobType
	Bandwidth uint64 // bytes per second; 0 is no limit
	// Cur of End has been done, in bytes or some other unit. A copy or an
	// active commit that has reached its end goes on until it is ended.
	Cur, End uint64
}

// bandwidthBytes says that a bandwidth is in bytes, not in MiB, per second.
const bandwidthBytes = 1 << 6

// RebaseFlags change BlockRebase.
type RebaseFlags uint32

const (
	RebaseShallow  RebaseFlags = 1 << 0 // copy only the top of the chain
	RebaseReuse    RebaseFlags = 1 << 1 // the destination exists
	RebaseCopyRaw  RebaseFlags = 1 << 2 // the destination is raw
	RebaseCopy     RebaseFlags = 1 << 3 // copy to base, instead of pulling up to it
	RebaseRelative RebaseFlags = 1 << 4 // keep relative names of backing files
	RebaseCopyDev  RebaseFlags = 1 << 5 // the destination is a block device
)

// BlockPull starts to move the data of all backing files into the top of a
// disk, by target. bandwidth is in bytes per second, 0 for no limit.
func (c *Conn) BlockPull(ctx context.Context, dom Domain, disk string, bandwidth uint64) error {
	a := args().domain(dom).str(disk).u64(bandwidth).u32(bandwidthBytes)
	return c.call(ctx, procBlockPull, dom.Name, a, nil)
}

// BlockRebase is BlockPull down to the backing file base, which stays ("" for
// all of them); with RebaseCopy it copies the disk to base.
func (c *Conn) BlockRebase(ctx context.Context, dom Domain, disk, base string, bandwidth uint64, flags RebaseFlags) error {
	a := args().domain(dom).str(disk).opt(base).u64(bandwidth).u32(uint32(flags) | bandwidthBytes)
	return c.call(ctx, procBlockRebase, dom.Name, a, nil)
}

// BlockJobAbortFlags change BlockJobAbort.
type BlockJobAbortFlags uint32

const (
	BlockJobAsync BlockJobAbortFlags = 1 << 0 // do not wait for the end
	BlockJobPivot BlockJobAbortFlags = 1 << 1 // switch to the copy
)

// BlockJobAbort ends a disk's block job.
func (c *Conn) BlockJobAbort(ctx context.Context, dom Domain, disk string, flags BlockJobAbortFlags) error {
	return c.call(ctx, procBlockJobAbort, dom.Name, args().domain(dom).str(disk).u32(uint32(flags)), nil)
}

// BlockJob returns the state of a disk's block job; found is false if it has
// none. A backup in pull mode counts as none.
func (c *Conn) BlockJob(ctx context.Context, dom Domain, disk string) (job BlockJob, found bool, err error) {
	const bytes = 1 << 0
	err = c.call(ctx, procBlockJobInfo, dom.Name, args().domain(dom).str(disk).u32(bytes), func(d *decoder) {
		found = d.i32() != 0
		job = BlockJob{Type: BlockJobType(d.i32()), Bandwidth: d.u64(), Cur: d.u64(), End: d.u64()}
	})
	return job, found, err
}
