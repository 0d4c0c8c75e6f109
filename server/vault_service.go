package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
	"cairn/server/job"
)

type vaultService struct {
	pb.UnimplementedVaultServiceServer
	*Server
}

// CreateVault makes an empty vault.
func (s *vaultService) CreateVault(ctx context.Context, r *pb.CreateVaultRequest) (*pb.CreateVaultResponse, error) {
	var f fields
	parent := f.subscription("parent", r.Parent)
	f.id("vault_id", r.VaultId)
	f.requestID(r.RequestId)
	in := r.GetVault()
	f.vaultFields(in)
	if in.GetBlockSize() != 0 {
		if err := block.ValidSize(int(in.BlockSize)); err != nil {
			f.add("vault.block_size", "is %d; it must be a power of two from %d to %d", in.BlockSize, block.MinSize, block.MaxSize)
		}
	}
	f.text("vault.region", in.GetRegion(), 63)
	if err := f.err(); err != nil {
		return nil, err
	}
	region, err := s.region("vault.region", in.GetRegion())
	if err != nil {
		return nil, err
	}
	return once(s.Server, parent.Subscription, r.RequestId, pb.VaultService_CreateVault_FullMethodName, r, nil, new(pb.CreateVaultResponse),
		func(k keep) (*pb.CreateVaultResponse, error) {
			n := VaultName{parent.Subscription, r.VaultId}
			now := timestamppb.New(s.opts.Now())
			meta := &pb.Vault{
				Name: n.String(), DisplayName: in.GetDisplayName(), Region: region,
				Redundancy: orDefault(in.GetRedundancy(), pb.Redundancy_REDUNDANCY_LOCAL),
				BlockSize:  orDefault(in.GetBlockSize(), block.DefaultSize),
				SoftDelete: softDelete(in.GetSoftDelete()),
				Immutability: orDefault(in.GetImmutability(),
					pb.Immutability_IMMUTABILITY_DISABLED),
				Labels: in.GetLabels(), CreateTime: now, UpdateTime: now,
			}
			resp := new(pb.CreateVaultResponse)
			_, err := s.vaults.make(ctx, n, meta, func(tx *catalog.Tx, v *Vault) error {
				resp.Vault = s.vaultMessage(v)
				return k.inCatalog(tx, resp)
			})
			if err != nil {
				return nil, err
			}
			return resp, nil
		})
}

// vaultFields checks what CreateVault and UpdateVault have in common.
func (f *fields) vaultFields(in *pb.Vault) {
	f.text("vault.display_name", in.GetDisplayName(), 200)
	enum(f, "vault.redundancy", in.GetRedundancy(), pb.Redundancy_name)
	enum(f, "vault.immutability", in.GetImmutability(), pb.Immutability_name)
	if d := in.GetSoftDelete().GetRetentionDays(); d != 0 {
		f.between("vault.soft_delete.retention_days", int64(d), 14, 180)
	}
	if n := len(in.GetLabels()); n > 64 {
		f.add("vault.labels", "has %d labels; at most 64 are allowed", n)
	}
	for _, key := range sortedKeys(in.GetLabels()) {
		path := fmt.Sprintf("vault.labels[%s]", quote(key))
		if !validID(key) {
			f.add(path, "is no key of a label: it %s", idRule)
		}
		f.text(path, in.Labels[key], 63)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// softDelete fills in the default days.
func softDelete(in *pb.SoftDelete) *pb.SoftDelete {
	return &pb.SoftDelete{Disabled: in.GetDisabled(), RetentionDays: orDefault(in.GetRetentionDays(), 14)}
}

// vaultMessage gives a vault as clients see it.
func (s *Server) vaultMessage(v *Vault) *pb.Vault {
	stored := v.stored()
	m := proto.CloneOf(stored)
	m.Etag = etagOf(stored)
	m.ProtectedItemCount = v.itemCount()
	m.State = pb.VaultState_VAULT_STATE_ACTIVE
	if e := s.vaultProblem(v); e != nil {
		m.State = pb.VaultState_VAULT_STATE_READ_ONLY
		if e == v.whyBroken() {
			m.State = pb.VaultState_VAULT_STATE_UNAVAILABLE
		}
		m.Problem = problemOf(e)
		m.Problem.Remedy = remedy(e.Reason)
	}
	return m
}

// whyBroken says why the vault's store is not open; nil if it is.
func (v *Vault) whyBroken() *Error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.broken
}

// vaultProblem says why a vault cannot be written, or not even read; nil if it
// can.
func (s *Server) vaultProblem(v *Vault) *Error {
	release, err := v.use()
	if err != nil {
		return classify(err)
	}
	defer release()
	info := v.Store.Info()
	switch {
	case info.Failed != nil:
		return newError(pb.ErrorReason_ERROR_REASON_STORE_READ_ONLY, "vault %q: %v", v.Name, info.Failed).with("vault", v.Name.String())
	case info.ReadOnly:
		return newError(pb.ErrorReason_ERROR_REASON_STORE_READ_ONLY,
			"vault %q: the file system of %s is read-only", v.Name, info.Dir).with("vault", v.Name.String())
	}
	u, err := s.opts.FS.GetDiskUsage(info.Dir)
	if err == nil && u.AvailBytes < minFree {
		return newError(pb.ErrorReason_ERROR_REASON_STORE_FULL,
			"vault %q: %s has %d bytes free, and %d must stay free; make room on that file system", v.Name, info.Dir, u.AvailBytes, minFree).
			with("vault", v.Name.String())
	}
	return nil
}

// GetVault reads one vault.
func (s *vaultService) GetVault(_ context.Context, r *pb.GetVaultRequest) (*pb.GetVaultResponse, error) {
	var f fields
	n := f.vault("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, err := s.vaults.find(n)
	if err != nil {
		return nil, err
	}
	return &pb.GetVaultResponse{Vault: s.vaultMessage(v)}, nil
}

// ListVaults lists the vaults of a subscription by id.
func (s *vaultService) ListVaults(_ context.Context, r *pb.ListVaultsRequest) (*pb.ListVaultsResponse, error) {
	var f fields
	parent := f.subscription("parent", r.Parent)
	size := f.pageSize(r.PageSize)
	if err := f.err(); err != nil {
		return nil, err
	}
	page, next, err := pageOf(s.Server, "vaults "+r.Parent, r.PageToken, size, s.vaults.list(parent.Subscription),
		func(v *Vault) string { return v.Name.Vault })
	if err != nil {
		return nil, err
	}
	resp := &pb.ListVaultsResponse{NextPageToken: next}
	for _, v := range page {
		resp.Vaults = append(resp.Vaults, s.vaultMessage(v))
	}
	return resp, nil
}

// UpdateVault changes a vault's properties.
func (s *vaultService) UpdateVault(ctx context.Context, r *pb.UpdateVaultRequest) (*pb.UpdateVaultResponse, error) {
	var f fields
	in := r.GetVault()
	n := f.vault("vault.name", in.GetName())
	set := f.mask(r.UpdateMask, "display_name", "labels", "soft_delete", "immutability", "redundancy")
	f.vaultFields(in)
	f.text("vault.etag", in.GetEtag(), 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n)
	if err != nil {
		return nil, err
	}
	defer release()
	err = s.vaults.update(ctx, v, func(m *pb.Vault) error {
		if err := checkEtag(in.Name, in.Etag, m); err != nil {
			return err
		}
		if err := s.mayUpdateVault(v, m, in, set); err != nil {
			return err
		}
		if set["display_name"] {
			m.DisplayName = in.DisplayName
		}
		if set["labels"] {
			m.Labels = in.Labels
		}
		if set["soft_delete"] {
			m.SoftDelete = softDelete(in.SoftDelete)
		}
		if set["immutability"] {
			m.Immutability = orDefault(in.Immutability, pb.Immutability_IMMUTABILITY_DISABLED)
		}
		if set["redundancy"] {
			m.Redundancy = orDefault(in.Redundancy, pb.Redundancy_REDUNDANCY_LOCAL)
		}
		m.UpdateTime = timestamppb.New(s.opts.Now())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &pb.UpdateVaultResponse{Vault: s.vaultMessage(v)}, nil
}

// mayUpdateVault refuses what redundancy and immutability forbid.
func (s *Server) mayUpdateVault(v *Vault, old, in *pb.Vault, set map[string]bool) error {
	if set["redundancy"] && orDefault(in.Redundancy, pb.Redundancy_REDUNDANCY_LOCAL) != old.Redundancy && v.itemCount() > 0 {
		return newError(pb.ErrorReason_ERROR_REASON_REDUNDANCY_FROZEN,
			"the redundancy of vault %q cannot change any more: it protects %d items; make another vault for another redundancy", v.Name, v.itemCount()).
			with("name", v.Name.String())
	}
	immutable := func(what string) error {
		return newError(pb.ErrorReason_ERROR_REASON_IMMUTABLE, "vault %q is immutable (%s): %s", v.Name, short(old.Immutability), what).
			with("name", v.Name.String())
	}
	if set["immutability"] && old.Immutability == pb.Immutability_IMMUTABILITY_LOCKED && in.Immutability != old.Immutability {
		return immutable("that is locked and cannot be undone")
	}
	now, was := softDelete(in.SoftDelete), old.SoftDelete
	if set["soft_delete"] && isImmutable(old) && (now.Disabled && !was.GetDisabled() || now.RetentionDays < was.GetRetentionDays()) {
		return immutable("soft delete can be neither switched off nor shortened")
	}
	return nil
}

func isImmutable(v *pb.Vault) bool { return v.Immutability > pb.Immutability_IMMUTABILITY_DISABLED }

// short is an enum value without its type's prefix: "LOCKED".
func short(v fmt.Stringer) string {
	s := v.String()
	return s[strings.LastIndexByte(s, '_')+1:]
}

// DeleteVault removes a vault that protects nothing.
func (s *vaultService) DeleteVault(ctx context.Context, r *pb.DeleteVaultRequest) (*pb.DeleteVaultResponse, error) {
	var f fields
	n := f.vault("name", r.Name)
	f.text("etag", r.Etag, 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n) // what cannot be read may be full of data
	if err != nil {
		return nil, err
	}
	release()
	var busy *job.StateError
	for {
		err = s.vaults.remove(v, func() error {
			if e := v.whyBroken(); e != nil {
				return e
			}
			if err := checkEtag(r.Name, r.Etag, v.stored()); err != nil {
				return err
			}
			return errNotEmpty(v)
		})
		if !errors.As(err, &busy) || !s.endReclaim(ctx, busy.Job) {
			break
		}
	}
	if errors.As(err, &busy) {
		return nil, newError(pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY,
			"vault %q has a job that is under way: %s; wait for its end, or cancel it", v.Name, busy.Job).
			with("name", v.Name.String()).with("job", busy.Job)
	}
	if err != nil {
		return nil, err
	}
	return &pb.DeleteVaultResponse{}, nil
}

// errNotEmpty answers VAULT_NOT_EMPTY, or nil for a vault without items.
func errNotEmpty(v *Vault) error {
	items := v.itemsOf(func(*pb.ProtectedItem) bool { return true })
	if len(items) == 0 {
		return nil
	}
	var names, states []string
	var last time.Time // when the last of them goes by itself; zero if one does not
	for i, it := range items {
		if i < 10 {
			names = append(names, it.Name)
		}
		if i < 3 {
			states = append(states, it.Name[strings.LastIndexByte(it.Name, '/')+1:]+": "+holding(it))
		}
		if i == 0 || !last.IsZero() && it.PurgeTime.AsTime().After(last) {
			last = it.PurgeTime.AsTime()
		}
		if it.PurgeTime == nil {
			last = time.Time{}
		}
	}
	if more := len(items) - len(states); more > 0 {
		states = append(states, fmt.Sprintf("and %d more", more))
	}
	todo := "stop their protection and delete their data first; what is deleted goes for good after its time"
	if !last.IsZero() {
		todo = "it can be deleted when they are gone, after " + last.UTC().Format(time.RFC3339)
	}
	return newError(pb.ErrorReason_ERROR_REASON_VAULT_NOT_EMPTY,
		"vault %q still holds %s (%s); %s", v.Name, plural(uint64(len(items)), "protected item"), strings.Join(states, "; "), todo).
		with("name", v.Name.String()).with("count", fmt.Sprint(len(items))).with("protected_items", strings.Join(names, ","))
}

// holding says in a few words what an item holds.
func holding(it *pb.ProtectedItem) string {
	state := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(it.ProtectionState.String(), "PROTECTION_STATE_"), "_", " "))
	switch {
	case it.ProtectionState == pb.ProtectionState_PROTECTION_STATE_IR_PENDING:
		state = "initial backup pending"
	case it.DeleteTime != nil:
		state = "deleted, gone for good after " + it.PurgeTime.AsTime().UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s, recovery points: %d", state, it.RecoveryPointCount)
}

// ListRegions lists the regions that this server knows.
func (s *vaultService) ListRegions(context.Context, *pb.ListRegionsRequest) (*pb.ListRegionsResponse, error) {
	return &pb.ListRegionsResponse{Regions: s.regions(), DefaultRegion: s.opts.Regions[0]}, nil
}
