package server

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc/codes"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

func readFile(t *testing.T, fs vfs.FS, path string) string {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	n, _ := f.Read(b)
	return string(b[:n])
}

func writeFile(t *testing.T, fs vfs.FS, path, text string) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write([]byte(text))
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A vault whose store cannot be opened does not stop the server, says why, and
// is there again when it can.
func TestVaultThatCannotBeOpened(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   codes.Code
		reason pb.ErrorReason
		spoil  func(fs vfs.FS, dir string) (mend func())
	}{
		{"newer", codes.FailedPrecondition, pb.ErrorReason_ERROR_REASON_STORE_TOO_NEW, func(fs vfs.FS, dir string) func() {
			text := readFile(t, fs, dir+"/FORMAT")
			writeFile(t, fs, dir+"/FORMAT", strings.Replace(text, "version: 1", "version: 2", 1))
			return func() { writeFile(t, fs, dir+"/FORMAT", text) }
		}},
		{"missing", codes.Unavailable, pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, func(fs vfs.FS, dir string) func() {
			if err := fs.Rename(dir, "elsewhere"); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := fs.Rename("elsewhere", dir); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"locked", codes.Unavailable, pb.ErrorReason_ERROR_REASON_STORE_LOCKED, func(fs vfs.FS, dir string) func() {
			st, err := blockstore.Open(dir, blockstore.Options{FS: fs})
			if err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := st.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"another", codes.Unavailable, pb.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, func(fs vfs.FS, dir string) func() {
			text := readFile(t, fs, dir+"/FORMAT")
			i := strings.Index(text, "uuid: ") + len("uuid: ")
			writeFile(t, fs, dir+"/FORMAT", text[:i]+"00000000-0000-4000-8000-000000000000"+text[i+36:])
			return func() { writeFile(t, fs, dir+"/FORMAT", text) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, Options{FS: vfs.NewMem(), Dir: "data", Mend: 10 * time.Millisecond})
			w.setUp()
			w.protect()
			w.createVault("v2", nil)
			uid := w.getVault(vault).Uid
			w.stop()
			mend := c.spoil(w.opts.FS, "data/vaults/"+uid)
			w.start()
			v := w.getVault(vault)
			if v.State != pb.VaultState_VAULT_STATE_UNAVAILABLE || v.Problem.GetReason() != c.reason || v.Problem.Message == "" || v.Problem.Remedy == "" || v.Uid != uid {
				t.Errorf("vault %v", v)
			}
			for what, err := range map[string]error{
				"policy":      second(w.policies.GetPolicy(w.ctx, &pb.GetPolicyRequest{Name: daily})),
				"items":       second(w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: vault})),
				"backup":      second(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1})),
				"usage":       second(w.vaults.GetVaultUsage(w.ctx, &pb.GetVaultUsageRequest{Name: vault})),
				"delete":      second(w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: vault})),
				"points":      second(w.points.ListRecoveryPoints(w.ctx, &pb.ListRecoveryPointsRequest{Parent: item1})),
				"upload":      second(w.blocks.CreateUpload(w.ctx, &pb.CreateUploadRequest{Parent: item1, Disks: []*pb.UploadDisk{{Target: "vda"}}})),
				"update":      second(w.updateVault(&pb.Vault{Name: vault}, "labels")),
				"idempotency": second(w.policies.CreatePolicy(w.ctx, &pb.CreatePolicyRequest{Parent: vault, PolicyId: "p", RequestId: "r"})),
			} {
				if err == nil {
					t.Errorf("%s: no error", what)
				}
				wantError(t, err, c.code, c.reason)
			}
			all := must[*pb.ListProtectedItemsResponse](t)(w.items.ListProtectedItems(w.ctx, &pb.ListProtectedItemsRequest{Parent: sub + "/vaults/-"}))
			if len(all.Unreachable) != 1 || all.Unreachable[0] != vault {
				t.Errorf("unreachable %v", all.Unreachable)
			}
			w.createVault("v3", nil) // others are not bothered
			mend()
			for w.getVault(vault).State != pb.VaultState_VAULT_STATE_ACTIVE {
				time.Sleep(5 * time.Millisecond)
			}
			if it := w.item(item1); it.Machine != web1 {
				t.Errorf("item %v", it)
			}
			_, err := w.items.ProtectMachine(w.ctx, &pb.ProtectMachineRequest{Parent: vault, ProtectedItem: &pb.ProtectedItem{Machine: web1, Policy: daily}})
			wantError(t, err, codes.AlreadyExists, pb.ErrorReason_ERROR_REASON_MACHINE_ALREADY_PROTECTED)
		})
	}
}

// smallDisk is a file system whose free space can be set.
type smallDisk struct {
	vfs.FS
	free uint64
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.free, TotalBytes: 1 << 40}, nil
}

// On a full disk everything can be read, and what would write says why not.
func TestFullDisk(t *testing.T) {
	disk := &smallDisk{vfs.NewMem(), 1 << 30}
	w := newWorld(t, Options{FS: disk, Dir: "data"})
	w.setUp()
	w.protect()
	disk.free = 64 << 20
	if v := w.getVault(vault); v.State != pb.VaultState_VAULT_STATE_READ_ONLY || v.Problem.GetReason() != pb.ErrorReason_ERROR_REASON_STORE_FULL {
		t.Errorf("vault %v", v)
	}
	_, err := w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1})
	wantError(t, err, codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_STORE_FULL)
	w.item(item1)
	disk.free = 1 << 20 // and now the catalog cannot write either
	_, err = w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: "v2"})
	wantError(t, err, codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_STORE_FULL)
	_, err = w.hosts.RegisterHost(w.ctx, &pb.RegisterHostRequest{Parent: sub, HostId: "h"})
	wantError(t, err, codes.ResourceExhausted, pb.ErrorReason_ERROR_REASON_STORE_FULL)
	must[*pb.ListJobsResponse](t)(w.jobs.ListJobs(w.ctx, &pb.ListJobsRequest{Parent: sub}))
	disk.free = 1 << 30
	w.createVault("v2", nil)
	must[*pb.BackUpResponse](t)(w.items.BackUp(w.ctx, &pb.BackUpRequest{Name: item1}))
}

// What a kill in the middle of making or deleting a vault leaves is removed at
// the next start, and nothing else is.
func TestLeftovers(t *testing.T) {
	fs := vfs.NewMem()
	w := newWorld(t, Options{FS: fs, Dir: "data"})
	w.setUp() // v1 has a policy
	w.createVault("empty", nil)
	w.createVault("gone", nil)
	used, empty, gone := w.getVault(vault), w.getVault(sub+"/vaults/empty"), w.getVault(sub+"/vaults/gone")
	w.stop()
	cat, err := catalog.Open("data/catalog", catalog.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	err = cat.Update(t.Context(), func(tx *catalog.Tx) error {
		return errors.Join(
			tx.DeleteVault(used.Name), tx.DeleteVault(empty.Name), // as if they had never been registered
			tx.DeleteVault(gone.Name), tx.PutTrash(gone.Uid)) // as if its directory had not been removed yet
	})
	if err = errors.Join(err, cat.Close()); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"new-0011223344556677", "new-x/index", "photos"} {
		if err := fs.MkdirAll("data/vaults/"+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	other, err := blockstore.Create("data/vaults/other", blockstore.Options{FS: fs}) // of nobody we know
	if err == nil {
		err = other.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.start()
	names, err := fs.List("data/vaults")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, n := range names {
		have[n] = true
	}
	if len(names) != 3 || !have[used.Uid] || !have["photos"] || !have["other"] {
		t.Errorf("there is %v, want %s, photos and other", names, used.Uid)
	}
	if trash, err := w.s.cat.Trash(); err != nil || len(trash) != 0 {
		t.Errorf("trash %v, %v", trash, err)
	}
}

// Whenever the power goes while vaults are made and deleted, every vault that is
// there afterwards is whole, what was acknowledged holds, and nothing else lies
// around.
func TestPowerCuts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewCrashableMem()
	for round := range 6 {
		w := newWorld(t, Options{FS: fs, Dir: "data"})
		acked := map[string]bool{} // vault id → there or not; missing: not known
		begun := make(chan string)
		ended := make(chan func())
		go func() {
			defer close(begun)
			for i := range 8 {
				id := fmt.Sprintf("v%d-%d", round, i/2)
				begun <- id
				var err error
				if i%2 == 0 {
					_, err = w.vaults.CreateVault(w.ctx, &pb.CreateVaultRequest{Parent: sub, VaultId: id, RequestId: id})
				} else {
					_, err = w.vaults.DeleteVault(w.ctx, &pb.DeleteVaultRequest{Name: sub + "/vaults/" + id})
				}
				if err != nil {
					t.Errorf("%d: %v", i, err)
				}
				ended <- func() { acked[id] = i%2 == 0 }
			}
		}()
		crashAt, n := rnd.IntN(16), 0
		var after *vfs.MemFS
		crash := func() {
			if n++; n == crashAt {
				time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
				after = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rnd.IntN(101), RNG: rnd})
			}
		}
		for id := range begun {
			if after == nil {
				delete(acked, id)
			}
			crash()
			note := <-ended
			if after == nil {
				note()
			}
			crash()
		}
		w.stop()
		if after == nil {
			continue
		}
		fs = after
		w = newWorld(t, Options{FS: fs, Dir: "data"})
		l := must[*pb.ListVaultsResponse](t)(w.vaults.ListVaults(w.ctx, &pb.ListVaultsRequest{Parent: sub, PageSize: 1000}))
		there := map[string]bool{}
		for _, v := range l.Vaults {
			if v.State != pb.VaultState_VAULT_STATE_ACTIVE {
				t.Errorf("vault %v", v)
			}
			there[strings.TrimPrefix(v.Name, sub+"/vaults/")] = true
		}
		for id, want := range acked {
			if there[id] != want {
				t.Errorf("vault %s: is there: %t, want %t", id, there[id], want)
			}
		}
		if names, err := fs.List("data/vaults"); err != nil || len(names) != len(there) {
			t.Errorf("%d directories for %d vaults: %v, %v", len(names), len(there), names, err)
		}
		w.stop()
	}
}

// The data directory itself.
func TestDataDir(t *testing.T) {
	fs := vfs.NewMem()
	open := func(dir string) error {
		s, err := Open(Options{FS: fs, Dir: dir})
		if err == nil {
			err = s.Close()
		}
		return err
	}
	if err := open("data"); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{FS: fs, Dir: "data"})
	if err != nil {
		t.Fatal(err)
	}
	if err := open("data"); !errors.Is(err, catalog.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text := readFile(t, fs, "data/FORMAT")
	writeFile(t, fs, "data/FORMAT", strings.Replace(text, "version: 1", "version: 99", 1))
	if err := open("data"); !errors.Is(err, ErrNewerData) {
		t.Errorf("newer: %v", err)
	}
	for _, bad := range []string{"", "something else", "cairn data\n", "cairn data\nversion: x\n", "cairn data\nversion: 1\nserver: me\n"} {
		writeFile(t, fs, "data/FORMAT", bad)
		if err := open("data"); !errors.Is(err, ErrNotData) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := fs.MkdirAll("home", 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, fs, "home/letter.txt", "dear")
	if err := open("home"); !errors.Is(err, ErrNotData) {
		t.Errorf("foreign: %v", err)
	}
	if names, err := fs.List("home"); err != nil || len(names) != 1 {
		t.Errorf("the foreign directory has %v now, %v", names, err)
	}
	if _, err := Open(Options{FS: fs, Dir: "x", Regions: []string{"Not A Region"}}); err == nil {
		t.Error("a malformed region is taken")
	}
}
