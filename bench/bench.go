// Package bench measures Cairn, side by side with what limits it: the disk, as
// plain files reach it in the same run, and the figures that the project has
// set itself. `cairn bench` prints what it returns.
//
// Store measures the block store by itself; Image the whole way, with a server
// and an agent as two processes that speak gRPC. Machines are shared and noisy,
// so a figure is worth something next to its yardstick, which is measured in the
// same run, in turns with it.
//
// The package is one of those that wire the sides together: it imports client,
// mount and blockstore.
package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Row is one figure.
type Row struct {
	Scenario string  `json:"scenario"`
	Figure   string  `json:"figure"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	// Limit is what the figure is measured against, if anything: a goal, or a
	// yardstick of the same run.
	Limit string `json:"limit,omitempty"`
	// Met tells whether the limit is kept; nil without one.
	Met *bool `json:"met,omitempty"`
}

// Report is the outcome of a run.
type Report struct {
	Title string `json:"title"`
	Rows  []Row  `json:"rows"`
}

func (r *Report) add(scenario, figure string, value float64, unit string) *Row {
	r.Rows = append(r.Rows, Row{Scenario: scenario, Figure: figure, Value: value, Unit: unit})
	return &r.Rows[len(r.Rows)-1]
}

// atLeast and atMost say what a figure is to reach.
func (row *Row) atLeast(limit float64, what string) {
	met := row.Value >= limit
	row.Limit, row.Met = "≥ "+what, &met
}

func (row *Row) atMost(limit float64, what string) {
	met := row.Value <= limit
	row.Limit, row.Met = "≤ "+what, &met
}

// Print writes the report as a table, or as JSON.
func (r *Report) Print(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	fmt.Fprintf(w, "%s\n\n", r.Title)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SCENARIO\tFIGURE\tVALUE\tUNIT\tLIMIT\t")
	for _, row := range r.Rows {
		met := ""
		if row.Met != nil {
			met = "met"
			if !*row.Met {
				met = "NOT MET"
			}
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", row.Scenario, row.Figure, number(row.Value), row.Unit, row.Limit, met)
	}
	return tw.Flush()
}

func number(v float64) string {
	switch {
	case v != 0 && v < 0.1:
		return fmt.Sprintf("%.4f", v)
	case v < 100:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

const mb = 1e6
