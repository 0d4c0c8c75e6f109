package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/grpc/codes"
	"sigs.k8s.io/yaml"

	pb "cairn/proto/cairn/v1"
	"cairn/server/metrics"
)

// scrape reads /metrics: every series with its value, and the text.
func (w *world) scrape() (map[string]float64, string) {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.s.MetricsHandler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		w.t.Fatalf("scrape: %d %s", rec.Code, rec.Body)
	}
	text := rec.Body.String()
	families, err := new(expfmt.TextParser).TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if h := m.GetHistogram(); h != nil {
				v = float64(h.GetSampleCount())
			}
			out[strings.TrimSuffix(fmt.Sprintf("%s{%s}", name, strings.Join(labels, ",")), "{}")] = v
		}
	}
	return out, text
}

var metricName = regexp.MustCompile(`\bcairn_[a-z_]+`)

func TestMetrics(t *testing.T) {
	w := newWorld(t, Options{FS: &fillingDisk{FS: vfs.NewMem()}, Dir: "data"}) // which knows its free space
	w.setUp()
	w.protect()
	w.host("rack2", "")
	before := time.Now().Add(-time.Second)
	job := w.backUpOnce()
	_, err := w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault + "x"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND)
	_ = w.conn.Invoke(w.ctx, "/cairn.v1.VaultService/MadeUp", &pb.GetVaultRequest{}, &pb.GetVaultResponse{})
	a := w.claim("again")
	failing := w.backUpNow()
	as := a.assignment()
	got, _ := w.scrape()
	for series, want := range map[string]float64{
		"cairn_jobs_total{operation=backup,state=completed}":                                 1,
		"cairn_jobs_total{operation=configure_backup,state=completed}":                       1,
		"cairn_job_duration_seconds{operation=backup}":                                       1,
		"cairn_jobs_active{state=in_progress}":                                               1,
		"cairn_jobs_active{state=queued}":                                                    0,
		"cairn_bytes_total{kind=new}":                                                        float64(job.Stats.NewBytes),
		"cairn_vault_available{vault=" + vault + "}":                                         1,
		"cairn_vault_points{vault=" + vault + "}":                                            1,
		"cairn_vault_items{health=passed,vault=" + vault + "}":                               1,
		"cairn_vault_items{health=action_required,vault=" + vault + "}":                      0,
		"cairn_item_protected{item=" + item1 + "}":                                           1,
		"cairn_items_omitted":                                                                0,
		"cairn_agent_connected{host=" + host1 + "}":                                          1,
		"cairn_agent_connected{host=" + sub + "/hosts/rack2}":                                0,
		"cairn_rpc_duration_seconds{code=OK,method=cairn.v1.VaultService/CreateVault}":       1,
		"cairn_rpc_duration_seconds{code=NotFound,method=cairn.v1.VaultService/DeleteVault}": 1,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", series, v, ok, want)
		}
	}
	if at := got["cairn_item_last_success_timestamp_seconds{item="+item1+"}"]; at < float64(before.Unix()) || at > float64(time.Now().Unix()+1) {
		t.Errorf("the last backup was at %v", at)
	}
	if got["cairn_item_next_backup_timestamp_seconds{item="+item1+"}"] <= float64(time.Now().Unix()) || got["cairn_vault_stored_bytes{vault="+vault+"}"] <= 0 {
		t.Errorf("next backup, stored bytes: %v", got)
	}
	for series := range got {
		if strings.Contains(series, "MadeUp") {
			t.Errorf("a call that there is not makes %s", series)
		}
	}

	must[*pb.ReportJobResponse](t)(w.reportJob(as, pb.JobState_JOB_STATE_FAILED, func(r *pb.ReportJobRequest) {
		r.Error = &pb.Problem{Reason: pb.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED, Message: "no snapshot"}
	}))
	w.s.metrics.JobEnded(&pb.Job{Name: vault + "/jobs/r", Operation: pb.JobOperation_JOB_OPERATION_RECLAIM, State: completed,
		Stats: &pb.JobStats{GarbageBytes: 7, ReclaimedBytes: 5}})
	got, text := w.scrape()
	for series, want := range map[string]float64{
		"cairn_jobs_total{operation=backup,state=failed}":               1,
		"cairn_jobs_active{state=in_progress}":                          0,
		"cairn_vault_items{health=action_required,vault=" + vault + "}": 1,
		"cairn_reclaim_garbage_bytes{vault=" + vault + "}":              7,
		"cairn_reclaimed_bytes_total{vault=" + vault + "}":              5,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("after %s failed %s is %v (there: %v), want %v", failing.Name, series, v, ok, want)
		}
	}

	// The names are as Prometheus wants them, and as the documentation has them.
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "cairn_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]bool{}
	for series := range got {
		if name := metricName.FindString(series); name != "" {
			exported[name] = true
		}
	}
	doc := readText(t, "metrics/metrics.go")
	doc = doc[:strings.Index(doc, "# Labels")]
	documented := map[string]bool{}
	for _, name := range metricName.FindAllString(doc, -1) {
		documented[name] = true
		if !exported[name] {
			t.Errorf("%s is documented and not exported", name)
		}
	}
	for name := range exported {
		if !documented[name] {
			t.Errorf("%s is exported and not documented", name)
		}
	}
	checkAlerts(t, exported)
}

// checkAlerts checks that the example rules are such, and use what there is.
func checkAlerts(t *testing.T, exported map[string]bool) {
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict([]byte(readText(t, "metrics/alerts.yml")), &rules); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range rules.Groups[0].Rules {
		names = append(names, r.Alert)
		used := metricName.FindAllString(r.Expr, -1)
		if len(used) == 0 && !strings.HasPrefix(r.Expr, "up{") || r.Labels["severity"] == "" || r.Annotations["summary"] == "" {
			t.Errorf("rule %+v", r)
		}
		for _, name := range used {
			if !exported[name] {
				t.Errorf("rule %s uses %s, which there is not", r.Alert, name)
			}
		}
		if strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") {
			t.Errorf("rule %s: %s", r.Alert, r.Expr)
		}
	}
	for _, want := range []string{"CairnServerDown", "CairnBackupTooOld", "CairnJobFailed", "CairnVaultNearlyFull", "CairnAgentAway"} {
		if !slices.Contains(names, want) {
			t.Errorf("no rule %s", want)
		}
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Many items do not make many series.
func TestMetricsAreBounded(t *testing.T) {
	m := metrics.New(func() metrics.Figures { return metrics.Figures{Vaults: []metrics.Vault{{Name: "v"}}} })
	many := metrics.New(func() (f metrics.Figures) {
		for i := range metrics.MaxItems + 3 {
			f.Items = append(f.Items, metrics.Item{Name: fmt.Sprintf("i%05d", i)})
		}
		return f
	})
	get := func(m *metrics.Metrics, path string, healthy error) (int, string) {
		rec := httptest.NewRecorder()
		m.Handler(func() error { return healthy }).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		return rec.Code, rec.Body.String()
	}
	if _, text := get(many, "/metrics", nil); !strings.Contains(text, "\ncairn_items_omitted 3\n") || strings.Count(text, "\ncairn_item_protected{") != metrics.MaxItems {
		t.Error("wrong number of series")
	}
	if _, text := get(m, "/metrics", nil); !strings.Contains(text, `cairn_vault_available{vault="v"} 0`) || strings.Contains(text, "cairn_vault_stored_bytes{") {
		t.Errorf("metrics of a vault that is away:\n%s", text)
	}
	if code, text := get(m, "/healthz", nil); code != 200 || text != "ok\n" {
		t.Errorf("healthy: %d %s", code, text)
	}
	if code, _ := get(m, "/healthz", context.Canceled); code != 503 {
		t.Errorf("ill: %d", code)
	}
}
