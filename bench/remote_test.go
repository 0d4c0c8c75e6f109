package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	"cairn/blockstore/storetest"
	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
	"cairn/server"
)

// TestRemoteStore runs the suite of block stores over a client and a server: what
// holds for a vault in this process holds for one behind gRPC.
func TestRemoteStore(t *testing.T) {
	storetest.Run(t, newRemote)
}

const remoteVault = "subscriptions/default/vaults/v1"

// remote is a storetest.Target behind a unix socket.
type remote struct {
	c     *client.Client
	items atomic.Int64
	time  atomic.Int64 // of the last snapshot, in seconds
}

func newRemote(t *testing.T) storetest.Target {
	s, err := server.Open(server.Options{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	lis, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g, _ := s.NewGRPC()
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	c, err := client.Dial("unix:" + socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := c.Close()
		g.Stop()
		if err := errors.Join(err, <-served, s.Close()); err != nil {
			t.Error(err)
		}
	})
	r := &remote{c: c}
	ctx := t.Context()
	_, err1 := c.Vaults.CreateVault(ctx, &cairnv1.CreateVaultRequest{Parent: "subscriptions/default", VaultId: "v1", Vault: &cairnv1.Vault{BlockSize: block.MinSize}})
	_, err2 := c.Policies.CreatePolicy(ctx, &cairnv1.CreatePolicyRequest{Parent: remoteVault, PolicyId: "p"})
	_, err3 := c.Hosts.RegisterHost(ctx, &cairnv1.RegisterHostRequest{Parent: "subscriptions/default", HostId: "h", Host: &cairnv1.Host{}})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	const machines = 100
	report := &cairnv1.ReportMachinesRequest{Parent: "subscriptions/default/hosts/h"}
	for i := range machines {
		report.Machines = append(report.Machines, &cairnv1.Machine{Name: fmt.Sprintf("%s/machines/m%d", report.Parent, i), State: cairnv1.MachineState_MACHINE_STATE_IMAGE})
	}
	if _, err := c.Hosts.ReportMachines(ctx, report); err != nil {
		t.Fatal(err)
	}
	return r
}

// local gives errors of the server the names that they have in a store.
func local(err error) error {
	sentinel := map[cairnv1.ErrorReason]error{
		cairnv1.ErrorReason_ERROR_REASON_DIGEST_MISMATCH:          blockstore.ErrDigestMismatch,
		cairnv1.ErrorReason_ERROR_REASON_MALFORMED_BLOCK:          blockstore.ErrDigestMismatch,
		cairnv1.ErrorReason_ERROR_REASON_ZERO_BLOCK:               blockstore.ErrZeroBlock,
		cairnv1.ErrorReason_ERROR_REASON_WRONG_BLOCK_LENGTH:       blockstore.ErrBlockSize,
		cairnv1.ErrorReason_ERROR_REASON_BLOCK_MISSING:            blockstore.ErrBlockMissing,
		cairnv1.ErrorReason_ERROR_REASON_UPLOAD_NOT_FOUND:         blockstore.ErrUploadClosed,
		cairnv1.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND: blockstore.ErrNotFound,
	}[client.Reason(err)]
	switch {
	case err == nil:
		return nil
	case sentinel != nil:
		return fmt.Errorf("%w: %w", sentinel, err)
	case client.Code(err) == codes.Canceled:
		return fmt.Errorf("%w: %w", context.Canceled, err)
	}
	return err
}

func (r *remote) BlockSize() int { return block.MinSize }

// StartUpload begins an upload for the item of the base, or for a new one: only
// one backup of an item runs at a time.
func (r *remote) StartUpload(ctx context.Context, disks []storetest.Disk, base string) (storetest.Upload, error) {
	item := filepath.Dir(filepath.Dir(base))
	if base == "no-such-point" {
		item = remoteVault + "/protectedItems/m0"
		base = item + "/recoveryPoints/p"
	}
	if base == "" || base == item+"/recoveryPoints/p" {
		n := r.items.Add(1) - 1
		resp, err := r.c.Items.ProtectMachine(ctx, &cairnv1.ProtectMachineRequest{Parent: remoteVault, ProtectedItem: &cairnv1.ProtectedItem{
			Machine: fmt.Sprintf("subscriptions/default/hosts/h/machines/m%d", n), Policy: remoteVault + "/policies/p",
		}})
		if err != nil {
			return nil, err
		}
		item = resp.GetProtectedItem().GetName()
		if base != "" {
			base = item + "/recoveryPoints/p"
		}
	}
	if len(disks) == 0 { // a server wants one
		disks = []storetest.Disk{{Name: "none"}}
	}
	u := &remoteUpload{r: r, item: item, disks: disks}
	var err error
	u.up, err = r.start(ctx, item, base, disks)
	return u, err
}

func (r *remote) start(ctx context.Context, item, base string, disks []storetest.Disk) (*client.Upload, error) {
	req := &cairnv1.CreateUploadRequest{Parent: item, BaseRecoveryPoint: base}
	for _, d := range disks {
		req.Disks = append(req.Disks, &cairnv1.UploadDisk{Target: d.Name, Size: d.Size})
	}
	up, err := r.c.StartUpload(ctx, req)
	return up, local(err)
}

func (r *remote) ReadBlocks(ctx context.Context, point string, ds []block.Digest) ([][]byte, error) {
	bs, err := r.c.Reader(point).ReadBlocks(ctx, ds)
	return bs, local(err)
}

func (r *remote) Disks(ctx context.Context, point string) ([]blockstore.Disk, error) {
	if point == "no-such-point" {
		point = remoteVault + "/protectedItems/m0/recoveryPoints/p"
	}
	resp, err := r.c.Points.GetRecoveryPoint(ctx, &cairnv1.GetRecoveryPointRequest{Name: point})
	if err != nil {
		return nil, local(err)
	}
	var disks []blockstore.Disk
	for _, d := range resp.GetRecoveryPoint().GetDisks() {
		m, err := client.Map(d)
		if err != nil {
			return nil, err
		}
		disks = append(disks, blockstore.Disk{Name: d.GetTarget(), Map: m})
	}
	return disks, nil
}

func (r *remote) DeletePoint(ctx context.Context, point string) error {
	_, err := r.c.Points.DeleteRecoveryPoint(ctx, &cairnv1.DeleteRecoveryPointRequest{Name: point})
	return local(err)
}

type remoteUpload struct {
	r     *remote
	item  string
	disks []storetest.Disk
	up    *client.Upload
}

func (u *remoteUpload) FindMissing(ctx context.Context, ds []block.Digest) ([]int, error) {
	missing, err := u.up.FindMissing(ctx, ds)
	return missing, local(err)
}

func (u *remoteUpload) Put(ctx context.Context, blocks []blockstore.Block) (func() error, error) {
	s, err := u.up.SendBlocks(ctx)
	if err != nil {
		return nil, local(err)
	}
	var bs []*cairnv1.Block
	for _, b := range blocks {
		bs = append(bs, &cairnv1.Block{Digest: b.Digest[:], Stored: b.Stored})
	}
	if err := s.Send(bs); err != nil {
		return nil, local(err)
	}
	return func() error {
		_, err := s.Close()
		return local(err)
	}, nil
}

func (u *remoteUpload) WriteMap(ctx context.Context, disk string, overBase bool, runs []storetest.Extent) (diskmap.Map, error) {
	w, err := u.up.WriteMap(ctx, disk, overBase)
	if err != nil {
		return diskmap.Map{}, local(err)
	}
	for _, r := range runs {
		for i, d := range r.Digests {
			if err := w.Set(r.First+uint64(i), d); err != nil {
				return diskmap.Map{}, local(err)
			}
		}
	}
	root, _, err := w.Close()
	m := diskmap.Map{BlockSize: block.MinSize, Root: root}
	for _, d := range u.disks {
		if d.Name == disk {
			m.Size = d.Size
		}
	}
	return m, local(err)
}

// Commit makes the point and a newer one, as the newest of an item can not be
// deleted.
func (u *remoteUpload) Commit(ctx context.Context) (string, error) {
	commit := func(up *client.Upload) (string, error) {
		at := time.Unix(u.r.time.Add(1), 0)
		p, err := up.Commit(ctx, &cairnv1.CommitUploadRequest{SnapshotTime: timestamppb.New(at)})
		return p.GetName(), local(err)
	}
	point, err := commit(u.up)
	if err != nil {
		return "", err
	}
	newer, err := u.r.start(ctx, u.item, "", []storetest.Disk{{Name: "none"}})
	if err != nil {
		return "", err
	}
	w, err := newer.WriteMap(ctx, "none", false)
	if err != nil {
		return "", err
	}
	if _, _, err := w.Close(); err != nil {
		return "", err
	}
	_, err = commit(newer)
	return point, err
}

func (u *remoteUpload) Abort(ctx context.Context) error { return local(u.up.Abort(ctx)) }
