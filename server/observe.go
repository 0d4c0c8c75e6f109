package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
	"cairn/server/metrics"
)

// MetricsHandler serves /metrics for Prometheus, and /healthz, until the server is
// closed; it must not be used afterwards.
func (s *Server) MetricsHandler() http.Handler {
	return s.metrics.Handler(func() error {
		if s.ctx.Err() != nil {
			return errors.New("the server is stopping")
		}
		return nil
	})
}

// figures are the gauges of now.
func (s *Server) figures() metrics.Figures {
	f := metrics.Figures{Agents: map[string]bool{}, Jobs: s.jobs.Count()}
	for _, v := range s.vaults.all() {
		items := v.itemsOf(func(*pb.ProtectedItem) bool { return true })
		f.Vaults = append(f.Vaults, s.vaultFigures(v, items))
		for _, it := range items {
			f.Items = append(f.Items, metrics.Item{
				Name: it.Name, Protected: !isStopped(it) && it.DeleteTime == nil,
				LastSuccess: timeOf(it.LastBackupTime), NextBackup: timeOf(s.nextBackup(it)),
			})
		}
	}
	slices.SortFunc(f.Items, func(a, b metrics.Item) int { return cmp.Compare(a.Name, b.Name) })
	if err := s.cat.AllHosts(func(h *pb.Host) bool {
		f.Agents[h.Name] = s.jobs.Connected(h.Name)
		return true
	}); err != nil {
		s.log.Error("hosts are not in the metrics", "error", err)
	}
	return f
}

// vaultFigures are the gauges of a vault.
func (s *Server) vaultFigures(v *Vault, items []*pb.ProtectedItem) metrics.Vault {
	m := metrics.Vault{Name: v.Name.String(), Stored: -1, Free: -1}
	release, err := v.use()
	if err != nil {
		return m
	}
	defer release()
	st, err := v.Store.Stats()
	if err != nil {
		s.log.Error("a vault is not in the metrics", "vault", m.Name, "error", err)
		return m
	}
	m.Available, m.Plain, m.Points = true, int64(st.PlainBytes), int64(st.Points)
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	if size, free, err := s.vaultBytes(ctx, v); err == nil {
		m.Stored, m.Free = size, free
	}
	sum := new(pb.VaultSummary)
	for _, it := range items {
		countItem(sum, it)
	}
	m.ProtectedBytes = sum.ProtectedBytes
	m.Passed, m.Suggested, m.Required = sum.ItemsPassed, sum.ItemsActionSuggested, sum.ItemsActionRequired
	return m
}

// timeOf is a time that may be absent.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// jobSeen is told of every change of a job that is shown, with the jobs' lock held:
// it counts, and logs ends.
func (s *Server) jobSeen(before, now *pb.Job) {
	if job.Ended(now.State) && (before == nil || !job.Ended(before.State)) {
		s.metrics.JobEnded(now)
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
