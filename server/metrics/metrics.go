// Package metrics counts what a server does and shows it to Prometheus.
//
// # Metrics
//
// Counters and histograms begin at 0 with the process; gauges are read when they
// are asked for.
//
//	cairn_jobs_total{operation,state}                counter    jobs that ended
//	cairn_job_duration_seconds{operation}            histogram  from start to end
//	cairn_jobs_active{state}                         gauge      jobs that have not ended: queued, in_progress, cancelling
//	cairn_bytes_total{kind}                          counter    of jobs that ended: read from machines or vaults, new to the
//	                                                            vault (before compression), sent to it (after)
//	cairn_reclaimed_bytes_total{vault}               counter    bytes that reclaiming gave back
//	cairn_reclaim_garbage_bytes{vault}               gauge      what the last reclaim found that nothing needs
//	cairn_vault_available{vault}                     gauge      1 if the vault can be read, else 0
//	cairn_vault_stored_bytes{vault}                  gauge      on disk, index included
//	cairn_vault_plain_bytes{vault}                   gauge      of the blocks in the store, each once, before compression
//	cairn_vault_free_bytes{vault}                    gauge      on its file system; absent if not known
//	cairn_vault_points{vault}                        gauge      recovery points
//	cairn_vault_protected_bytes{vault}               gauge      allocated bytes of the machines
//	cairn_vault_items{vault,health}                  gauge      items: passed, action_suggested, action_required
//	cairn_item_protected{item}                       gauge      1 if the item is to be backed up, 0 if it is stopped or deleted
//	cairn_item_last_success_timestamp_seconds{item}  gauge      when the last backup succeeded; 0 if none has
//	cairn_item_next_backup_timestamp_seconds{item}   gauge      when the schedule wants the next one; absent if it wants none
//	cairn_items_omitted                              gauge      items without series of their own, see below
//	cairn_agent_connected{host}                      gauge      1 if the host's agent is connected, else 0
//	cairn_rpc_duration_seconds{method,code}          histogram  calls; of streams, how long they were open
//
// Beside them stand those of the Go runtime and of the process (go_…, process_…).
//
// # Labels
//
// vault, item and host are resource names ("subscriptions/default/vaults/v1").
// operation, state, health and kind are words in lower case. method is one of the
// API's ("cairn.v1.VaultService/CreateVault"), code gRPC's name of the answer.
// Everything is bounded but names, which are as many as there are vaults, items
// and hosts: each gives up to 3 series for an item, 10 for a vault, 1 for a host.
// The first MaxItems items by name have series, the others only count in
// cairn_items_omitted and in the numbers of their vault.
//
// alerts.yml beside this file has rules for Prometheus that use these metrics.
//
// cairn/server owns a Metrics, tells it of jobs and calls, and answers its
// questions; cairn/server/daemon serves it. The package knows neither gRPC's
// server nor stores.
package metrics

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "cairn/proto/cairn/v1"
)

// Metrics has the metrics of one server. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	methods  map[string]bool

	jobs      *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	bytes     *prometheus.CounterVec
	reclaimed *prometheus.CounterVec
	garbage   *prometheus.GaugeVec
	rpc       *prometheus.HistogramVec
}

// New makes metrics whose gauges come from figures, which is called for every
// scrape.
func New(figures func() Figures) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		methods:  apiMethods(),
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cairn_jobs_total", Help: "Jobs that ended."}, []string{"operation", "state"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cairn_job_duration_seconds", Help: "Time from the start of a job to its end.",
			Buckets: []float64{1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600}}, []string{"operation"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cairn_bytes_total", Help: "Bytes that jobs which ended have read, found to be new, and sent."}, []string{"kind"}),
		reclaimed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cairn_reclaimed_bytes_total", Help: "Bytes that reclaiming gave back."}, []string{"vault"}),
		garbage: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cairn_reclaim_garbage_bytes", Help: "Bytes that nothing needs, as the last reclaim found."}, []string{"vault"}),
		rpc: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cairn_rpc_duration_seconds", Help: "Time that calls took, or streams were open.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2, 10, 60, 600}}, []string{"method", "code"}),
	}
	for _, kind := range []string{"read", "new", "sent"} {
		m.bytes.WithLabelValues(kind) // so that it is there from the beginning
	}
	m.registry.MustRegister(m.jobs, m.duration, m.bytes, m.reclaimed, m.garbage, m.rpc, newGauges(figures),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// apiMethods are the values of the label method.
func apiMethods() map[string]bool {
	out := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("cairn.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for k := range s.Methods().Len() {
				out[string(s.FullName())+"/"+string(s.Methods().Get(k).Name())] = true
			}
		}
		return true
	})
	return out
}

// JobEnded counts a job that has ended. It does not wait.
func (m *Metrics) JobEnded(j *pb.Job) {
	operation := word(j.Operation.String(), "JOB_OPERATION_")
	m.jobs.WithLabelValues(operation, word(j.State.String(), "JOB_STATE_")).Inc()
	if j.StartTime != nil && j.EndTime != nil {
		m.duration.WithLabelValues(operation).Observe(max(0, j.EndTime.AsTime().Sub(j.StartTime.AsTime()).Seconds()))
	}
	for kind, n := range map[string]int64{
		"read": j.Stats.GetReadBytes(), "new": j.Stats.GetNewBytes(), "sent": j.Stats.GetSentBytes(),
	} {
		m.bytes.WithLabelValues(kind).Add(float64(max(0, n)))
	}
	if j.Operation == pb.JobOperation_JOB_OPERATION_RECLAIM && j.Error == nil {
		vault, _, _ := strings.Cut(j.Name, "/jobs/")
		m.garbage.WithLabelValues(vault).Set(float64(j.Stats.GetGarbageBytes()))
		m.reclaimed.WithLabelValues(vault).Add(float64(max(0, j.Stats.GetReclaimedBytes())))
	}
}

// ForgetVault removes what is shown of a vault that is gone.
func (m *Metrics) ForgetVault(vault string) {
	m.garbage.DeleteLabelValues(vault)
	m.reclaimed.DeleteLabelValues(vault)
}

// Call counts a call. method is gRPC's ("/cairn.v1.VaultService/CreateVault"),
// code its name ("NotFound"). Calls that the API does not have do not count.
func (m *Metrics) Call(method, code string, took time.Duration) {
	if method = strings.TrimPrefix(method, "/"); m.methods[method] {
		m.rpc.WithLabelValues(method, code).Observe(took.Seconds())
	}
}

// Handler serves /metrics, and /healthz: 200 if healthy answers nil, else 503.
func (m *Metrics) Handler(healthy func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}

// word is the value of an enum as a label.
func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }
