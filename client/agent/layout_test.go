package agent

import (
	"strings"
	"testing"

	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// A disk that shrank or vanished is said; one that grew, or is new, is nothing
// to worry about.
func TestCompareLayoutWarns(t *testing.T) {
	base := &cairnv1.RecoveryPoint{Disks: []*cairnv1.RecoveryPointDisk{
		{Target: "vda", Size: 100}, {Target: "vdb", Size: 100}, {Target: "vdc", Size: 100}, {Target: "vdd", Size: 100},
	}}
	info := source.SnapshotInfo{Machine: source.Machine{Disks: []source.Disk{
		{Target: "vda", Size: 100}, {Target: "vdb", Size: 99}, {Target: "vdc", Size: 101}, {Target: "vde", Size: 1},
	}}}
	j := &job{report: &cairnv1.ReportJobRequest{}}
	b := &backup{j: j, base: base, info: info}
	for range 2 { // a backup that begins again does not say it twice
		b.compareLayout()
	}
	b.base = nil
	b.compareLayout()
	var got []string
	for _, w := range j.report.Warnings {
		if w.Reason != cairnv1.ErrorReason_ERROR_REASON_DISK_LAYOUT_CHANGED {
			t.Errorf("reason %v", w.Reason)
		}
		got = append(got, w.Message)
	}
	if len(got) != 2 || !strings.HasPrefix(got[0], "disk vdb is smaller") || !strings.Contains(got[1], "vdd") {
		t.Errorf("warnings %q", got)
	}
}
