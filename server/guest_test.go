package server

import (
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
)

// What the simulations share: a clock that the test sets, and machines whose
// disks change with it.

// clock is a virtual clock: it stands until it is set.
type clock struct{ ns atomic.Int64 }

func newClock(t time.Time) *clock { c := new(clock); c.Set(t); return c }

func (c *clock) Now() time.Time { return time.Unix(0, c.ns.Load()).UTC() }

func (c *clock) Set(t time.Time) { c.ns.Store(t.UnixNano()) }

// guest is the simulated machine of that name. What its disk holds at any time
// follows from the name, so that a test knows of every recovery point what must
// be in it, whoever made it.
type guest string

// disk is the guest's disk as it is at some time. One block changes every hour,
// one every third day, one every week, one is there on every other day, and one is
// the same for all guests.
func (g guest) disk(at time.Time) *testDisk {
	seed := uint64(0)
	for _, b := range []byte(g) {
		seed = seed*131 + uint64(b)
	}
	hour := uint64(at.Unix() / 3600)
	d := newTestDisk("vda", 13*blockSize-512)
	d.fill(seed^hour<<20, 0).fill(seed^hour/72<<40, 3).fill(seed^hour/168<<44, 6).fill(12, 12)
	if hour/24%2 == 0 {
		d.fill(seed, 9)
	}
	return d
}

// backUpGuest does the work of a backup's assignment as an agent does it, and
// makes a point of the guest's disk as it is at some time. It leaves it to the
// caller to report the end.
func (w *world) backUpGuest(as *pb.JobAssignment, at time.Time) (*pb.RecoveryPoint, error) {
	work := as.GetBackup()
	if work == nil {
		return nil, fmt.Errorf("%s is no backup", as.Job.Name)
	}
	g := guest(work.Machine)
	disk, base := g.disk(at), (*testDisk)(nil)
	if work.BaseRecoveryPoint != "" {
		p, err := w.points.GetRecoveryPoint(w.ctx, &pb.GetRecoveryPointRequest{Name: work.BaseRecoveryPoint})
		if err != nil {
			return nil, err
		}
		base = g.disk(p.RecoveryPoint.SnapshotTime.AsTime())
	}
	if _, err := w.reportJob(as, inProgress, func(r *pb.ReportJobRequest) {
		r.Tasks = []*pb.JobTask{{Title: "Take Snapshot", State: completed}, {Title: "Transfer data to vault", State: inProgress}}
	}); err != nil {
		return nil, err
	}
	up, err := w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{
		Parent: work.ProtectedItem, Job: as.Job.Name, LeaseToken: as.LeaseToken, BaseRecoveryPoint: work.BaseRecoveryPoint,
		Disks: []*pb.UploadDisk{{Target: disk.target, Size: disk.size, SourceFormat: "raw"}},
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.trySendMissing(up.UploadToken, disk, disk.indexes()); err != nil {
		return nil, err
	}
	m, err := w.writeMap(up.UploadToken, disk, base)
	if err != nil {
		return nil, err
	}
	r, err := w.blocks.CommitUpload(w.ctx, &pb.CommitUploadRequest{
		UploadToken: up.UploadToken, SnapshotTime: timestamppb.New(at), RootDigests: [][]byte{m.RootDigest},
		Consistency: pb.ConsistencyClass_CONSISTENCY_CLASS_FILE_SYSTEM_CONSISTENT, MachineTitle: string(g),
	})
	return r.GetRecoveryPoint(), err
}

// checkGuest reads a point and compares it with what its machine's disk was.
func (w *world) checkGuest(p *pb.RecoveryPoint) {
	w.t.Helper()
	w.checkBytes(p, guest(p.Machine).disk(p.SnapshotTime.AsTime()))
}

// pointsOf lists all points of an item, oldest first.
func (w *world) pointsOf(item string) (ps []*pb.RecoveryPoint) {
	w.t.Helper()
	for token := ""; ; {
		r := must[*pb.ListRecoveryPointsResponse](w.t)(w.points.ListRecoveryPoints(w.ctx, &pb.ListRecoveryPointsRequest{Parent: item, PageSize: 1000, PageToken: token}))
		for _, p := range r.RecoveryPoints {
			ps = append([]*pb.RecoveryPoint{p}, ps...)
		}
		if token = r.NextPageToken; token == "" {
			return ps
		}
	}
}

// jobsOf lists all jobs of vault v1, or those of an item, oldest first.
func (w *world) jobsOf(item string, states ...pb.JobState) (js []*pb.Job) {
	w.t.Helper()
	for token := ""; ; {
		r := must[*pb.ListJobsResponse](w.t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{
			Parent: vault, PageSize: 1000, PageToken: token, Filter: &pb.JobFilter{ProtectedItem: item, States: states},
		}))
		for _, j := range r.Jobs {
			js = append([]*pb.Job{j}, js...)
		}
		if token = r.NextPageToken; token == "" {
			return js
		}
	}
}
