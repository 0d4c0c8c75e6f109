package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, fs vfs.FS) *Catalog {
	t.Helper()
	c, err := Open("dir", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func update(t *testing.T, c *Catalog, f func(*Tx) error) {
	t.Helper()
	if err := c.Update(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

func TestRecords(t *testing.T) {
	c := open(t, vfs.NewMem())
	host := &pb.Host{Name: "subscriptions/s/hosts/h", Region: "r"}
	machine := &pb.Machine{Name: host.Name + "/machines/m", Title: "M", Disks: []*pb.MachineDisk{{Target: "vda"}}}
	vault := &pb.Vault{Name: "subscriptions/s/vaults/v", Labels: map[string]string{"b": "1", "a": "2", "c": "3"}}
	job := &pb.Job{Name: vault.Name + "/jobs/j1", Revision: 7}
	lease := Lease{Token: []byte{1, 2}, Expire: time.Unix(5, 0).UTC(), Instance: "i", Reported: true}
	req := Request{Fingerprint: []byte{3}, Response: []byte{4}, Time: time.Unix(6, 0).UTC()}
	if _, err := c.Host(host.Name); !errors.Is(err, ErrNotFound) {
		t.Errorf("host before it is there: %v", err)
	}
	update(t, c, func(tx *Tx) error {
		return errors.Join(tx.PutHost(host), tx.PutMachine(machine), tx.PutVault(vault), tx.PutJob(job),
			tx.PutLease(job.Name, lease), tx.PutRequest("s", "id/with/slashes", req), tx.PutTrash("u"), tx.SetRevision(1<<40))
	})
	check := func(got proto.Message, err error, want proto.Message) {
		t.Helper()
		if err != nil || !proto.Equal(got, want) {
			t.Errorf("read %v, %v, want %v", got, err, want)
		}
	}
	h, err := c.Host(host.Name)
	check(h, err, host)
	m, err := c.Machine(machine.Name)
	check(m, err, machine)
	v, err := c.Vault(vault.Name)
	check(v, err, vault)
	j, err := c.Job(job.Name)
	check(j, err, job)
	if l, err := c.Lease(job.Name); err != nil || fmt.Sprint(l) != fmt.Sprint(lease) {
		t.Errorf("lease %v, %v", l, err)
	}
	if q, err := c.Request("s", "id/with/slashes"); err != nil || fmt.Sprint(q) != fmt.Sprint(req) {
		t.Errorf("request %v, %v", q, err)
	}
	if rev, err := c.Revision(); err != nil || rev != 1<<40 {
		t.Errorf("revision %d, %v", rev, err)
	}
	if uids, err := c.Trash(); err != nil || fmt.Sprint(uids) != "[u]" {
		t.Errorf("trash %v, %v", uids, err)
	}
	update(t, c, func(tx *Tx) error {
		return errors.Join(tx.DeleteHost(host.Name), tx.DeleteJob(job.Name), tx.DeleteVault(vault.Name), tx.DeleteTrash("u"),
			tx.SweepRequests(time.Unix(6, 0).Add(RequestLife+1)))
	})
	it, err := c.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for it.First(); it.Valid(); it.Next() {
		if string(it.Key()) != "meta/revision" {
			t.Errorf("%s is left", it.Key())
		}
	}
}

func TestOrder(t *testing.T) {
	c := open(t, vfs.NewMem())
	update(t, c, func(tx *Tx) error {
		var errs []error
		for _, n := range []string{"b", "a", "a-b", "a1", "ab"} {
			h := "subscriptions/s/hosts/" + n
			errs = append(errs, tx.PutHost(&pb.Host{Name: h}), tx.PutMachine(&pb.Machine{Name: h + "/machines/m"}))
		}
		for i, v := range []string{"v", "w", "v", "vv"} {
			errs = append(errs, tx.PutJob(&pb.Job{Name: fmt.Sprintf("subscriptions/s/vaults/%s/jobs/j%d", v, i)}))
		}
		errs = append(errs, tx.PutHost(&pb.Host{Name: "subscriptions/s2/hosts/z"}), tx.PutHost(&pb.Host{Name: "subscriptions/s-2/hosts/z"}))
		return errors.Join(errs...)
	})
	list := func(scan func(add func(string) bool) error) string {
		t.Helper()
		var out []string
		if err := scan(func(name string) bool { out = append(out, name[strings.LastIndex(name, "/")+1:]); return true }); err != nil {
			t.Fatal(err)
		}
		return strings.Join(out, " ")
	}
	hosts := func(after string) string {
		return list(func(add func(string) bool) error {
			return c.Hosts("s", after, func(h *pb.Host) bool { return add(h.Name) })
		})
	}
	jobs := func(vault, after string) string {
		return list(func(add func(string) bool) error {
			return c.Jobs("s", vault, after, func(j *pb.Job) bool { return add(j.Name) })
		})
	}
	for _, s := range []struct{ got, want string }{
		{hosts(""), "a a-b a1 ab b"},
		{hosts("subscriptions/s/hosts/a"), "a-b a1 ab b"},
		{hosts("subscriptions/s/hosts/a2"), "ab b"},
		{jobs("", ""), "j3 j2 j1 j0"},
		{jobs("v", ""), "j2 j0"},
		{jobs("", "subscriptions/s/vaults/v/jobs/j2"), "j1 j0"},
		{list(func(add func(string) bool) error {
			return c.Machines("subscriptions/s/hosts/a", "", func(m *pb.Machine) bool { return add(m.Name) })
		}), "m"},
		{list(func(add func(string) bool) error {
			return c.Machines("subscriptions/s", "subscriptions/s/hosts/a/machines/m", func(m *pb.Machine) bool { return add(m.Name) })
		}), "m m m"},
	} {
		if s.got != s.want {
			t.Errorf("%q, want %q", s.got, s.want)
		}
	}
}

func TestTransactions(t *testing.T) {
	c := open(t, vfs.NewMem())
	name := "subscriptions/s/hosts/h"
	boom := errors.New("boom")
	err := c.Update(t.Context(), func(tx *Tx) error {
		if err := tx.PutHost(&pb.Host{Name: name}); err != nil {
			return err
		}
		if _, err := tx.Host(name); err != nil {
			t.Errorf("a transaction does not see what it wrote: %v", err)
		}
		if _, err := c.Host(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("others see it before the end: %v", err)
		}
		return boom
	})
	if _, found := c.Host(name); !errors.Is(err, boom) || !errors.Is(found, ErrNotFound) {
		t.Errorf("after an error: %v, %v", err, found)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Update(ctx, func(*Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	snap := c.Snapshot()
	var wg sync.WaitGroup
	for range 8 { // one after the other
		wg.Go(func() {
			for range 20 {
				err := c.Update(t.Context(), func(tx *Tx) error {
					n, err := tx.Revision()
					return errors.Join(err, tx.SetRevision(n+1))
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n, err := c.Revision(); n != 160 || err != nil {
		t.Errorf("%d updates of 160 count, %v", n, err)
	}
	if n, err := snap.Revision(); n != 0 || err != nil {
		t.Errorf("a snapshot sees %d, %v", n, err)
	}
	snap.Close()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Update(t.Context(), func(*Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestDamagedRecord(t *testing.T) {
	c := open(t, vfs.NewMem())
	name := "subscriptions/s/hosts/h"
	for _, bad := range []string{"", "\x01\xff\xff", "\x02{}", "\x09", "no"} {
		if err := c.db.Set([]byte("host/s/h"), []byte(bad), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Host(name); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "host/s/h") {
			t.Errorf("%q: %v", bad, err)
		}
		if err := c.Hosts("s", "", func(*pb.Host) bool { return true }); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// full is a file system without room.
type full struct{ vfs.FS }

func (full) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: 1 << 20}, nil
}

func TestFullAndLocked(t *testing.T) {
	fs := vfs.NewMem()
	c := open(t, full{fs})
	err := c.Update(t.Context(), func(tx *Tx) error { return tx.SetRevision(1) })
	if !errors.Is(err, ErrFull) {
		t.Errorf("full: %v", err)
	}
	if n, err := c.Revision(); n != 0 || err != nil {
		t.Errorf("reading: %d, %v", n, err)
	}
	if _, err := Open("dir", Options{FS: fs}); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
}

// What was acknowledged is there after a power cut, and nothing by halves.
func TestPowerCut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewCrashableMem()
	want := int64(0)
	for range 30 {
		c, err := Open("dir", Options{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		n, err := c.Revision()
		if err != nil || n < want {
			t.Fatalf("revision %d, %v, want %d at least", n, err, want)
		}
		// The two records of a transaction are there together.
		if h, err := c.Host("subscriptions/s/hosts/h"); n > 0 && (err != nil || h.MachineCount != n) {
			t.Fatalf("host %v, %v at revision %d", h, err, n)
		}
		for range rnd.IntN(20) {
			n++
			update(t, c, func(tx *Tx) error {
				return errors.Join(tx.SetRevision(n), tx.PutHost(&pb.Host{Name: "subscriptions/s/hosts/h", MachineCount: n}))
			})
		}
		want = n
		crashed := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		fs = crashed
	}
}

func TestEncodingIsStable(t *testing.T) {
	// Part of the format: catalogs of released versions have these bytes.
	b, err := EncodeProto(&pb.Host{Name: "n", Region: "r"})
	if err != nil || string(b) != "\x01\x0a\x01n\x1a\x01r" {
		t.Errorf("%q, %v", b, err)
	}
	b, err = EncodeJSON(Lease{Token: []byte{1}, Expire: time.Unix(0, 0).UTC()})
	if err != nil || string(b) != "\x02"+`{"token":"AQ==","expire":"1970-01-01T00:00:00Z"}` {
		t.Errorf("%q, %v", b, err)
	}
	for name, want := range map[string]string{
		vaultKey("subscriptions/s/vaults/v"):               "vault/s/v",
		hostKey("subscriptions/s/hosts/h"):                 "host/s/h",
		machineKey("subscriptions/s/hosts/h/machines/m"):   "machine/s/h/m",
		jobKey("job", "subscriptions/s/vaults/v/jobs/j"):   "job/s/j/v",
		jobKey("lease", "subscriptions/s/vaults/v/jobs/j"): "lease/s/j/v",
		requestKey("s", "id"):                              "request/s/id",
	} {
		if name != want {
			t.Errorf("key %q, want %q", name, want)
		}
	}
}
