package agent

import (
	"fmt"
	"testing"

	"cairn/blockstore/block"
	"cairn/client/source"
	cairnv1 "cairn/proto/cairn/v1"
)

// Every error that a source tells apart has a reason of its own and a remedy
// that is not everybody's.
func TestProblems(t *testing.T) {
	remedies := map[string]string{}
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"not found":    {source.ErrMachineNotFound, "MACHINE_GONE"},
		"unusable":     {source.ErrUnusable, "IMAGE_UNREADABLE"},
		"in use":       {source.ErrInUse, "MACHINE_STATE"},
		"corrupt":      {source.ErrCorrupt, "IMAGE_UNREADABLE"},
		"truncated":    {source.ErrTruncated, "IMAGE_UNREADABLE"},
		"tool":         {source.ErrToolMissing, "TOOL_MISSING"},
		"exists":       {source.ErrTargetExists, "RESTORE_TARGET_EXISTS"},
		"full":         {source.ErrNoSpace, "RESTORE_TARGET_FULL"},
		"state":        {source.ErrMachineState, "MACHINE_STATE"},
		"hypervisor":   {source.ErrHypervisor, "HYPERVISOR_UNREACHABLE"},
		"space":        {source.ErrSnapshotSpace, "SNAPSHOT_SPACE"},
		"lost":         {source.ErrSnapshotLost, "SNAPSHOT_LOST"},
		"disconnected": {source.ErrDisconnected, "TRANSFER_FAILED"},
		"unsupported":  {source.ErrRestoreUnsupported, "RESTORE_UNSUPPORTED"},
		"consistency":  {&source.ConsistencyError{Wanted: source.ApplicationConsistent}, "CONSISTENCY_TOO_LOW"},
		"vss": {&source.ConsistencyError{Wanted: source.ApplicationConsistent,
			Causes: []source.Warning{{Kind: source.WarnVSS, Text: "writer SQL failed"}}}, "CONSISTENCY_TOO_LOW"},
		"stopped":   {errStopped, "INTERRUPTED"},
		"damaged":   {block.ErrCorrupt, "DATA_CORRUPT"},
		"snapshot":  {snapshotError{fmt.Errorf("qemu said no")}, "SNAPSHOT_FAILED"},
		"otherwise": {fmt.Errorf("whatever"), "TRANSFER_FAILED"},
	} {
		for _, err := range []error{test.err, fmt.Errorf("disk vda: %w", test.err), snapshotError{test.err}} {
			p := problem(err)
			if _, snap := err.(snapshotError); snap && (name == "damaged" || name == "otherwise") {
				continue // of a snapshot that is another thing
			}
			if p.GetReason() != cairnv1.ErrorReason(cairnv1.ErrorReason_value["ERROR_REASON_"+test.want]) || p.GetRemedy() == "" || p.GetMessage() == "" {
				t.Errorf("%s: %v becomes %v", name, err, p)
			}
			if other := remedies[p.GetRemedy()]; other != "" && other != test.want && name != "snapshot" && name != "otherwise" {
				t.Errorf("%s has the remedy of %s: %s", test.want, other, p.GetRemedy())
			}
			remedies[p.GetRemedy()] = test.want
		}
	}
	for k := source.WarnSnapshot; k <= source.WarnRestore; k++ {
		r := warningReason(k)
		if k != source.WarnSnapshot && (r == cairnv1.ErrorReason_ERROR_REASON_SNAPSHOT_FAILED || warningRemedy(r) == "") {
			t.Errorf("warning %d: %v, remedy %q", k, r, warningRemedy(r))
		}
	}
}
