package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

type protectedItemService struct {
	pb.UnimplementedProtectedItemServiceServer
	*Server
}

// ProtectMachine ties a machine to a policy in a vault.
func (s *protectedItemService) ProtectMachine(ctx context.Context, r *pb.ProtectMachineRequest) (*pb.ProtectMachineResponse, error) {
	var f fields
	parent := f.vault("parent", r.Parent)
	in := r.GetProtectedItem()
	machine := f.machine("protected_item.machine", in.GetMachine())
	policy := f.policyOf("protected_item.policy", in.GetPolicy(), parent)
	id := machine.Machine
	if r.ProtectedItemId != "" {
		id = r.ProtectedItemId
		f.id("protected_item_id", id)
	}
	f.excludedDisks("protected_item.excluded_disks", in.GetExcludedDisks())
	enum(&f, "protected_item.minimum_consistency", in.GetMinimumConsistency(), pb.ConsistencyClass_name)
	f.requestID(r.RequestId)
	if machine.Subscription != parent.Subscription && machine.Host != "" && parent.Vault != "" {
		f.add("protected_item.machine", "is of another subscription than the vault")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(parent)
	if err != nil {
		return nil, err
	}
	defer release()
	n := ItemName{parent, id}
	return once(s.Server, parent.Subscription, r.RequestId, pb.ProtectedItemService_ProtectMachine_FullMethodName, r, v, new(pb.ProtectMachineResponse),
		func(k keep) (*pb.ProtectMachineResponse, error) {
			s.vaults.protect.Lock()
			defer s.vaults.protect.Unlock()
			it, err := s.newItem(v, n, machine, policy, in)
			if err != nil {
				return nil, err
			}
			resp := &pb.ProtectMachineResponse{ProtectedItem: s.itemMessage(it)}
			d, err := s.newDeed(v, it, pb.JobOperation_JOB_OPERATION_CONFIGURE_BACKUP, k, func(*pb.Job) proto.Message { return resp })
			if err != nil {
				return nil, err
			}
			v.write.Lock()
			defer v.write.Unlock()
			if _, err := v.policy(policy); err != nil {
				return nil, err
			}
			if _, err := v.item(n); err == nil {
				return nil, newError(pb.ErrorReason_ERROR_REASON_ALREADY_EXISTS,
					"protected item %q exists already, for another machine; choose another protected_item_id", n).with("name", n.String())
			}
			if err := v.putItem(ctx, id, it, d.muts...); err != nil {
				return nil, err
			}
			s.vaults.mu.Lock()
			s.vaults.machines[it.Machine] = n
			s.vaults.mu.Unlock()
			s.done(v, d)
			s.poke(choreSchedule)
			return resp, nil
		})
}

// newItem makes the record of a new item, after checking what it is made of.
func (s *Server) newItem(v *Vault, n ItemName, machine MachineName, policy PolicyName, in *pb.ProtectedItem) (*pb.ProtectedItem, error) {
	m, host, err := s.machineOn(machine)
	if err != nil {
		return nil, err
	}
	if _, err := v.policy(policy); err != nil {
		return nil, err
	}
	if other, ok := s.vaults.itemOf(m.Name); ok {
		return nil, s.errProtected(m.Name, other)
	}
	if region := v.stored().Region; host.Region != region {
		return nil, newError(pb.ErrorReason_ERROR_REASON_REGION_MISMATCH,
			"machine %q is in region %q, vault %q in %q; use a vault in the machine's region", m.Name, host.Region, v.Name, region).
			with("machine_region", host.Region).with("vault_region", region)
	}
	if m.State == pb.MachineState_MACHINE_STATE_GONE {
		return nil, errMachineGone(m)
	}
	if err := checkExcluded("protected_item.excluded_disks", m, in.GetExcludedDisks()); err != nil {
		return nil, err
	}
	uid, err := uuid.NewRandomFromReader(s.opts.Rand)
	if err != nil {
		return nil, fmt.Errorf("make a uid: %w", err)
	}
	now := timestamppb.New(s.opts.Now())
	it := &pb.ProtectedItem{
		Name: n.String(), Uid: uid.String(), Machine: m.Name, Policy: policy.String(), ExcludedDisks: in.GetExcludedDisks(), MinimumConsistency: in.GetMinimumConsistency(),
		CreateTime: now, UpdateTime: now, ScheduleSinceTime: now,
	}
	initialPending(it)
	if p := m.Problem; p != nil { // it may go away: a reason to tell, not to refuse
		it.Health = pb.HealthStatus_HEALTH_STATUS_ACTION_REQUIRED
		it.HealthDetail = fmt.Sprintf("The machine cannot be backed up as it is (%s): %s. %s",
			reasonName(p.Reason), strings.TrimSuffix(p.Message, "."), orDefault(p.Remedy, remedy(p.Reason)))
	}
	return it, nil
}

// policyOf checks the name of a policy, which must be of the vault.
func (f *fields) policyOf(path, s string, vault VaultName) PolicyName {
	n := f.policy(path, s)
	if n.Policy != "" && vault.Vault != "" && n.VaultName != vault {
		f.add(path, "is a policy of another vault; it must be one of %q", vault)
	}
	return n
}

func (f *fields) excludedDisks(path string, disks []string) {
	if len(disks) > maxDisks {
		f.add(path, "has %d disks; at most %d are allowed", len(disks), maxDisks)
		return
	}
	for i, d := range disks {
		at := fmt.Sprintf("%s[%d]", path, i)
		if d == "" {
			f.add(at, "must not be empty")
		}
		f.text(at, d, 64)
		if slices.Contains(disks[:i], d) {
			f.add(at, "%s is there twice", quote(d))
		}
	}
}

// checkExcluded refuses disks that the machine does not have, and to exclude
// all of them.
func checkExcluded(path string, m *pb.Machine, excluded []string) error {
	var have []string
	for _, d := range m.Disks {
		have = append(have, d.Target)
	}
	for _, d := range excluded {
		if !slices.Contains(have, d) {
			return newError(pb.ErrorReason_ERROR_REASON_DISK_NOT_FOUND,
				"machine %q has no disk %s; it has: %s", m.Name, quote(d), strings.Join(have, ", ")).
				with("disk", d).with("disks", strings.Join(have, ",")).with("machine", m.Name)
		}
	}
	if len(have) > 0 && len(excluded) == len(have) {
		return invalidField(path, "names all disks of the machine; at least one must be left to back up")
	}
	return nil
}

// machineOn reads a machine and its host. Errors: HOST_NOT_FOUND,
// MACHINE_NOT_FOUND.
func (s *Server) machineOn(n MachineName) (*pb.Machine, *pb.Host, error) {
	h, err := s.cat.Host(n.HostName.String())
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, nil, errMachineNotFound(n)
	}
	if err != nil {
		return nil, nil, err
	}
	m, err := s.cat.Machine(n.String())
	if errors.Is(err, catalog.ErrNotFound) {
		return nil, nil, errMachineNotFound(n)
	}
	return m, h, err
}

func errMachineGone(m *pb.Machine) error {
	return newError(pb.ErrorReason_ERROR_REASON_MACHINE_GONE,
		"machine %q is not on its host any more; it was last seen at %s", m.Name, m.LastSeenTime.AsTime().Format(time.RFC3339)).
		with("machine", m.Name)
}

// itemMessage gives an item as clients see it.
func (s *Server) itemMessage(stored *pb.ProtectedItem) *pb.ProtectedItem {
	m := proto.CloneOf(stored)
	m.Etag = etagOf(stored)
	m.NextBackupTime = s.nextBackup(stored)
	describeStopped(m)
	return m
}

// GetProtectedItem reads one item.
func (s *protectedItemService) GetProtectedItem(_ context.Context, r *pb.GetProtectedItemRequest) (*pb.GetProtectedItemResponse, error) {
	var f fields
	n := f.item("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	it, err := v.item(n)
	if err != nil {
		return nil, err
	}
	return &pb.GetProtectedItemResponse{ProtectedItem: s.itemMessage(it)}, nil
}

// ListProtectedItems lists the items of a vault, or of all vaults, by name.
func (s *protectedItemService) ListProtectedItems(_ context.Context, r *pb.ListProtectedItemsRequest) (*pb.ListProtectedItemsResponse, error) {
	var f fields
	parent := f.vaultOrAll("parent", r.Parent)
	size := f.pageSize(r.PageSize)
	if err := f.err(); err != nil {
		return nil, err
	}
	var from []*Vault
	if parent.Vault == wildcard {
		from = s.vaults.list(parent.Subscription)
	} else {
		v, err := s.vaults.find(parent)
		if err != nil {
			return nil, err
		}
		from = []*Vault{v}
	}
	resp := new(pb.ListProtectedItemsResponse)
	var all []*pb.ProtectedItem
	for _, v := range from {
		release, err := v.use()
		switch {
		case err == nil:
			all = append(all, v.itemsOf(func(it *pb.ProtectedItem) bool { return r.ShowDeleted || it.DeleteTime == nil })...)
			release()
		case parent.Vault != wildcard:
			return nil, err
		default:
			resp.Unreachable = append(resp.Unreachable, v.Name.String())
		}
	}
	slices.SortFunc(all, func(a, b *pb.ProtectedItem) int { return strings.Compare(a.Name, b.Name) })
	list := fmt.Sprintf("items %s %t", r.Parent, r.ShowDeleted)
	page, next, err := pageOf(s.Server, list, r.PageToken, size, all, (*pb.ProtectedItem).GetName)
	if err != nil {
		return nil, err
	}
	resp.NextPageToken = next
	for _, it := range page {
		resp.ProtectedItems = append(resp.ProtectedItems, s.itemMessage(it))
	}
	return resp, nil
}

// UpdateProtectedItem changes the policy, the excluded disks, or the consistency
// that is demanded.
func (s *protectedItemService) UpdateProtectedItem(ctx context.Context, r *pb.UpdateProtectedItemRequest) (*pb.UpdateProtectedItemResponse, error) {
	var f fields
	in := r.GetProtectedItem()
	n := f.item("protected_item.name", in.GetName())
	set := f.mask(r.UpdateMask, "policy", "excluded_disks", "minimum_consistency")
	var policy PolicyName
	if set["policy"] {
		policy = f.policyOf("protected_item.policy", in.GetPolicy(), n.VaultName)
	}
	f.excludedDisks("protected_item.excluded_disks", in.GetExcludedDisks())
	enum(&f, "protected_item.minimum_consistency", in.GetMinimumConsistency(), pb.ConsistencyClass_name)
	f.text("protected_item.etag", in.GetEtag(), 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	it, err := v.changeItem(ctx, n, func(it *pb.ProtectedItem) error {
		if err := checkEtag(in.Name, in.Etag, it); err != nil {
			return err
		}
		if err := notDeleted(it); err != nil {
			return err
		}
		if set["policy"] && it.Policy != policy.String() {
			if err := changePolicy(v, it, policy); err != nil {
				return err
			}
			it.ScheduleSinceTime = timestamppb.New(s.opts.Now())
		}
		if set["excluded_disks"] {
			ids, _ := splitName(it.Machine, machinePattern, false)
			m, _, err := s.machineOn(MachineName{HostName{ids[0], ids[1]}, ids[2]})
			if err == nil {
				err = checkExcluded("protected_item.excluded_disks", m, in.ExcludedDisks)
			}
			if err != nil {
				return err
			}
			it.ExcludedDisks = in.ExcludedDisks
		}
		if set["minimum_consistency"] {
			it.MinimumConsistency = in.MinimumConsistency
		}
		it.UpdateTime = timestamppb.New(s.opts.Now())
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	if set["policy"] {
		s.poke(choreSchedule)
		s.poke(choreRetention)
	}
	return &pb.UpdateProtectedItemResponse{ProtectedItem: s.itemMessage(it)}, nil
}

// changePolicy gives an item another policy.
func changePolicy(v *Vault, it *pb.ProtectedItem, n PolicyName) error {
	p, err := v.policy(n)
	if err != nil {
		return err
	}
	ids, _ := splitName(it.Policy, policyPattern, false)
	if old, err := v.policy(PolicyName{v.Name, ids[2]}); err == nil {
		if err := mayShorten(v, it.Name, old, p); err != nil {
			return err
		}
	}
	it.Policy = n.String()
	return nil
}
