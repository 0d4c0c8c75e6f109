package server

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
	pb "cairn/proto/cairn/v1"
	"cairn/server/job"
)

// damage flips a byte of what is stored somewhere in the vault's tables.
func (w *world) damage(needle []byte) {
	w.t.Helper()
	done := false
	err := filepath.WalkDir(w.opts.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || done || !strings.HasSuffix(path, ".sst") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		i := bytes.Index(b, needle)
		if i < 0 {
			return nil
		}
		b[i+10] ^= 0x40
		done = true
		return os.WriteFile(path, b, 0o600)
	})
	if err != nil || !done {
		w.t.Fatalf("block not found in the vault's tables: %v", err)
	}
}

// TestDamagedVault flips a byte in a table and reads in all ways.
func TestDamagedVault(t *testing.T) {
	w := dataWorld(t, Options{})
	d := newTestDisk("vda", 4<<20)
	for i := range uint64(64) {
		if i%3 != 0 { // blocks that shrink may share what Pebble checks as a whole
			d.fill(1, i)
		}
	}
	p1 := w.backUp("", day, []*testDisk{d}, nil)
	d2 := d.clone().fill(2, 50)
	p2 := w.backUp(p1.Name, day.Add(time.Hour), []*testDisk{d2}, []*testDisk{d})
	w.stop()
	w.damage(d.blocks[50][1000:1100]) // of p1 only
	w.start()
	bad := block.Sum(d.blocks[50])
	check := func(err error) {
		t.Helper()
		info := wantError(t, err, codes.DataLoss, pb.ErrorReason_ERROR_REASON_DATA_CORRUPT)
		if m := info.Metadata; m["recovery_point"] != p1.Name || m["digest"] != bad.String() || m["block_id"] == "" {
			t.Errorf("metadata %v", m)
		}
	}
	var all []block.Digest
	indexes := d.indexes()
	at := slices.Index(indexes, 50)
	for _, i := range indexes {
		all = append(all, block.Sum(d.blocks[i]))
	}
	for _, form := range []pb.BlockForm{pb.BlockForm_BLOCK_FORM_PLAIN, pb.BlockForm_BLOCK_FORM_STORED} {
		got, err := w.readBlocks(&pb.ReadBlocksRequest{RecoveryPoint: p1.Name, Digests: flatten(all...), Form: form})
		check(err)
		for i, b := range got {
			if form == pb.BlockForm_BLOCK_FORM_PLAIN && !bytes.Equal(b, d.blocks[indexes[i]]) {
				t.Errorf("block %d, sent before the bad one, is wrong", i)
			}
		}
		if len(got) > at {
			t.Errorf("%d blocks sent, the bad one is at %d", len(got), at)
		}
		_, err = w.readBlocks(&pb.ReadBlocksRequest{RecoveryPoint: p1.Name, Digests: bad[:], Form: form})
		check(err)
	}
	got, sent, err := w.readDisk(&pb.ReadDiskRequest{Name: p1.Name, Disk: "vda"}, d.size)
	check(err)
	if sent > 50*blockSize || !bytes.Equal(got[:sent], d.bytes()[:sent]) {
		t.Errorf("%d bytes sent before the bad block", sent)
	}
	w.checkBytes(p2, d2)

	verify := func(p *pb.RecoveryPoint, id string) *pb.Job {
		r := &pb.VerifyRequest{Name: p.Name, RequestId: id}
		j := must[*pb.VerifyResponse](t)(w.points.Verify(w.ctx, r)).Job
		if again := must[*pb.VerifyResponse](t)(w.points.Verify(w.ctx, r)).Job; again.Name != j.Name {
			t.Errorf("the same request made %s and %s", j.Name, again.Name)
		}
		if j.Operation != pb.JobOperation_JOB_OPERATION_VERIFY || j.RecoveryPoint != p.Name || len(j.Tasks) != 1 || j.Tasks[0].Title != "Verify data" {
			t.Errorf("job %v", j)
		}
		return w.waitJob(j.Name)
	}
	if j := verify(p2, "2"); j.State != pb.JobState_JOB_STATE_COMPLETED || j.Stats.BadBlocks != 0 || j.Stats.ReadBytes < 42*blockSize || j.Tasks[0].DoneBytes != j.Tasks[0].TotalBytes {
		t.Errorf("verification of a sound point: %v", j)
	}
	j := verify(p1, "1")
	if j.State != pb.JobState_JOB_STATE_FAILED || j.Stats.BadBlocks != 1 || j.Error.GetReason() != pb.ErrorReason_ERROR_REASON_DATA_CORRUPT ||
		!strings.Contains(j.Error.Message, bad.String()) || j.Error.Metadata["recovery_points"] != p1.Name || j.Error.Metadata["digest"] != bad.String() {
		t.Errorf("verification of a damaged point: %v", j)
	}
	_, err = w.points.Verify(w.ctx, &pb.VerifyRequest{Name: p1.Name + "x"})
	wantError(t, err, codes.NotFound, pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND)

	// A damaged map page is named as well.
	w.stop()
	w.damage(mapPage(d)[32:96]) // two digests next to each other
	w.start()
	_, err = w.readExtents(&pb.ReadExtentsRequest{Name: p1.Name, Disk: "vda"})
	wantError(t, err, codes.DataLoss, pb.ErrorReason_ERROR_REASON_DATA_CORRUPT)
	_, _, err = w.readDisk(&pb.ReadDiskRequest{Name: p1.Name, Disk: "vda"}, d.size)
	wantError(t, err, codes.DataLoss, pb.ErrorReason_ERROR_REASON_DATA_CORRUPT)
	if j := verify(p1, "3"); j.State != pb.JobState_JOB_STATE_FAILED {
		t.Errorf("verification with a damaged map: %v", j)
	}
}

// mapPage is the only page of a small disk's map.
func mapPage(d *testDisk) []byte {
	p := make([]byte, diskmap.PageSize)
	for i, b := range d.blocks {
		digest := block.Sum(b)
		copy(p[i*32:], digest[:])
	}
	return p
}

// TestVerifyCancelled: a verification that is cancelled ends as such.
func TestVerifyCancelled(t *testing.T) {
	w := dataWorld(t, inMemory())
	d := newTestDisk("vda", 1<<20).fill(1, span(0, 16)...)
	p := w.backUp("", day, []*testDisk{d}, nil)
	n := newPointName(t, p.Name)
	v, release, err := w.s.vaults.use(n.VaultName)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	run, err := w.s.jobs.Begin(job.Spec{Vault: vault, Operation: pb.JobOperation_JOB_OPERATION_VERIFY, RecoveryPoint: p.Name, Tasks: []string{"Verify data"}})
	if err != nil {
		t.Fatal(err)
	}
	must[*pb.CancelJobResponse](t)(w.jobs.CancelJob(w.ctx, &pb.CancelJobRequest{Name: run.Name()}))
	run.Finish(w.s.verifyPoint(run, v, n, p, n.storeID()))
	if j := w.waitJob(run.Name()); j.State != pb.JobState_JOB_STATE_CANCELLED {
		t.Errorf("job %v", j)
	}
	if len(w.s.data.leases.byPoint) != 0 {
		t.Error("the verification's lease is left")
	}
}
