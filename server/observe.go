package server

import (
	"log/slog"
	"strings"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

// jobSeen is told of every change of a job that is shown, with the jobs' lock held:
// it counts, and logs ends.
func (s *Server) jobSeen(before, now *pb.Job) {
	if job.Ended(now.State) && (before == nil || !job.Ended(before.State)) {
		s.logEnd(now)
	}
}

// logEnd writes a line about a job that has ended.
func (s *Server) logEnd(j *pb.Job) {
	began := j.StartTime
	if began == nil {
		began = j.EndTime // cancelled before it began, say
	}
	attrs := []slog.Attr{
		slog.String("job", j.Name), slog.String("operation", operationName(j.Operation)), slog.String("state", stateName(j.State)),
		slog.Duration("took", j.EndTime.AsTime().Sub(began.AsTime())),
	}
	for _, a := range []struct{ key, value string }{
		{"item", j.ProtectedItem}, {"machine", j.Machine}, {"point", j.RecoveryPoint}, {"retry_of", j.RetryOf},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.key, a.value))
		}
	}
	for _, a := range []struct {
		key string
		n   int64
	}{
		{"read_bytes", j.Stats.GetReadBytes()}, {"new_bytes", j.Stats.GetNewBytes()}, {"sent_bytes", j.Stats.GetSentBytes()},
		{"bad_blocks", j.Stats.GetBadBlocks()}, {"reclaimed_bytes", j.Stats.GetReclaimedBytes()}, {"warnings", int64(len(j.Warnings))},
	} {
		if a.n != 0 {
			attrs = append(attrs, slog.Int64(a.key, a.n))
		}
	}
	if p := j.Error; p != nil {
		attrs = append(attrs, slog.String("reason", reasonName(p.Reason)), slog.String("message", p.Message))
	}
	s.log.LogAttrs(s.ctx, slog.LevelInfo, "job ended", attrs...)
}

// operationName and stateName are values without their types' prefixes.
func operationName(o pb.JobOperation) string { return strings.TrimPrefix(o.String(), "JOB_OPERATION_") }
func stateName(st pb.JobState) string        { return strings.TrimPrefix(st.String(), "JOB_STATE_") }
