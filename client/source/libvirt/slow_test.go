package libvirt

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cairn/client/source/libvirt/rpc"
)

// slowDaemon takes its time for each disk.
type slowDaemon struct {
	*fakeDaemon
	took func(disk string) time.Duration
}

func (s slowDaemon) BlockInfo(ctx context.Context, dom rpc.Domain, disk string) (rpc.BlockInfo, error) {
	select {
	case <-time.After(s.took(disk)):
		return rpc.BlockInfo{Capacity: 1 << 20}, nil
	case <-ctx.Done():
		return rpc.BlockInfo{}, context.Cause(ctx)
	}
}

// A domain with many disks is not one that does not answer, though all of its
// answers together take longer than one may; one that stops answering is waited
// for once, not for every disk.
func TestManyDisksAreNoProblem(t *testing.T) {
	var disks strings.Builder
	for n := range 33 {
		fmt.Fprintf(&disks, `<disk type='file' device='disk'><source file='/nowhere/%d'/><target dev='d%d' bus='scsi'/></disk>`, n, n)
	}
	dom := fakeDom(1)
	f := newFakeDaemon(dom)
	f.xmls[dom.Name] = fakeXML(dom, "connected", disks.String())
	synctest.Test(t, func(t *testing.T) {
		d, err := inspect(t.Context(), slowDaemon{f, func(string) time.Duration { return lookLimit / 3 }}, dom)
		if err != nil || d.info.Problem != "" || len(d.info.Disks) != 33 {
			t.Errorf("33 slow disks: %+v, %v", d.info, err)
		}
		began := time.Now()
		d, err = inspect(t.Context(), slowDaemon{f, func(disk string) time.Duration {
			if disk < "d2" {
				return 0
			}
			return time.Hour
		}}, dom)
		if took := time.Since(began); err != nil || !strings.Contains(d.info.Problem, "does not tell") || took != lookLimit {
			t.Errorf("disks that do not answer: %q after %v, %v", d.info.Problem, took, err)
		}
	})
}
