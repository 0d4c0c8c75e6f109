package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "cairn/proto/cairn/v1"
)

// MaxItems is how many items have series of their own.
const MaxItems = 5000

// Figures are a server's gauges at a moment.
type Figures struct {
	Vaults []Vault
	// Items by name.
	Items []Item
	// Agents says of each host, by resource name, whether its agent is connected.
	Agents map[string]bool
	// Jobs counts those that have not ended.
	Jobs map[pb.JobState]int
}

// Vault is what is told of a vault. What cannot be found out is -1.
type Vault struct {
	Name                        string
	Available                   bool // if not, only Name counts
	Stored, Plain, Free, Points int64
	ProtectedBytes              int64
	Passed, Suggested, Required int64
}

// Item is what is told of a protected item.
type Item struct {
	Name      string
	Protected bool
	// LastSuccess and NextBackup may be zero.
	LastSuccess, NextBackup time.Time
}

// gauges ask for Figures at every scrape.
type gauges struct {
	figures func() Figures

	active, available, stored, plain, free, points, protectedBytes, items *prometheus.Desc
	protected, lastSuccess, nextBackup, omitted, agent                    *prometheus.Desc
}

func newGauges(figures func() Figures) *gauges {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("cairn_"+name, help, labels, nil)
	}
	return &gauges{
		figures:        figures,
		active:         d("jobs_active", "Jobs that have not ended.", "state"),
		available:      d("vault_available", "Whether the vault can be read.", "vault"),
		stored:         d("vault_stored_bytes", "Bytes of the vault on disk.", "vault"),
		plain:          d("vault_plain_bytes", "Bytes of the vault's blocks before compression.", "vault"),
		free:           d("vault_free_bytes", "Bytes that are free on the vault's file system.", "vault"),
		points:         d("vault_points", "Recovery points in the vault.", "vault"),
		protectedBytes: d("vault_protected_bytes", "Allocated bytes of the machines that the vault protects.", "vault"),
		items:          d("vault_items", "Protected items in the vault.", "vault", "health"),
		protected:      d("item_protected", "Whether the item is to be backed up.", "item"),
		lastSuccess:    d("item_last_success_timestamp_seconds", "When the last backup of the item succeeded.", "item"),
		nextBackup:     d("item_next_backup_timestamp_seconds", "When the schedule wants the next backup of the item.", "item"),
		omitted:        d("items_omitted", "Items that have no series of their own."),
		agent:          d("agent_connected", "Whether the host's agent is connected.", "host"),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		g.active, g.available, g.stored, g.plain, g.free, g.points, g.protectedBytes, g.items,
		g.protected, g.lastSuccess, g.nextBackup, g.omitted, g.agent,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	f := g.figures()
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, s := range []pb.JobState{pb.JobState_JOB_STATE_QUEUED, pb.JobState_JOB_STATE_IN_PROGRESS, pb.JobState_JOB_STATE_CANCELLING} {
		put(g.active, float64(f.Jobs[s]), word(s.String(), "JOB_STATE_"))
	}
	for _, v := range f.Vaults {
		put(g.available, truth(v.Available), v.Name)
		if !v.Available {
			continue
		}
		for d, n := range map[*prometheus.Desc]int64{
			g.stored: v.Stored, g.plain: v.Plain, g.free: v.Free, g.points: v.Points, g.protectedBytes: v.ProtectedBytes,
		} {
			if n >= 0 {
				put(d, float64(n), v.Name)
			}
		}
		put(g.items, float64(v.Passed), v.Name, "passed")
		put(g.items, float64(v.Suggested), v.Name, "action_suggested")
		put(g.items, float64(v.Required), v.Name, "action_required")
	}
	put(g.omitted, float64(max(0, len(f.Items)-MaxItems)))
	for _, it := range f.Items[:min(len(f.Items), MaxItems)] {
		put(g.protected, truth(it.Protected), it.Name)
		put(g.lastSuccess, seconds(it.LastSuccess), it.Name)
		if !it.NextBackup.IsZero() {
			put(g.nextBackup, seconds(it.NextBackup), it.Name)
		}
	}
	for host, connected := range f.Agents {
		put(g.agent, truth(connected), host)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// seconds is a time in seconds since 1970; 0 for none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
