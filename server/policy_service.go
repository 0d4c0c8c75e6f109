package server

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/policy"
)

type policyService struct {
	pb.UnimplementedPolicyServiceServer
	*Server
}

// CreatePolicy makes a policy in a vault.
func (s *policyService) CreatePolicy(ctx context.Context, r *pb.CreatePolicyRequest) (*pb.CreatePolicyResponse, error) {
	var f fields
	parent := f.vault("parent", r.Parent)
	f.id("policy_id", r.PolicyId)
	f.requestID(r.RequestId)
	in := r.GetPolicy()
	f.policyFields(in)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(parent)
	if err != nil {
		return nil, err
	}
	defer release()
	return once(s.Server, parent.Subscription, r.RequestId, pb.PolicyService_CreatePolicy_FullMethodName, r, v, new(pb.CreatePolicyResponse),
		func(k keep) (*pb.CreatePolicyResponse, error) {
			v.write.Lock()
			defer v.write.Unlock()
			n := PolicyName{parent, r.PolicyId}
			if _, err := v.policy(n); err == nil {
				return nil, newError(pb.ErrorReason_ERROR_REASON_ALREADY_EXISTS,
					"policy %q exists already; choose another policy_id, or update it", n).with("name", n.String())
			}
			uid, err := uuid.NewRandomFromReader(s.opts.Rand)
			if err != nil {
				return nil, fmt.Errorf("make a uid: %w", err)
			}
			now := timestamppb.New(s.opts.Now())
			p := &pb.Policy{
				Name: n.String(), Uid: uid.String(), DisplayName: in.GetDisplayName(),
				Schedule: scheduleOr(in.GetSchedule()), Retention: retentionOr(in.GetRetention()),
				MinimumConsistency: in.GetMinimumConsistency(), CreateTime: now, UpdateTime: now,
			}
			resp := &pb.CreatePolicyResponse{Policy: policyMessage(v, p)}
			more, err := k.inVault(resp)
			if err != nil {
				return nil, err
			}
			if err := v.putPolicy(ctx, r.PolicyId, p, more...); err != nil {
				return nil, err
			}
			return resp, nil
		})
}

// policyMessage gives a policy as clients see it.
func policyMessage(v *Vault, stored *pb.Policy) *pb.Policy {
	m := proto.CloneOf(stored)
	m.Etag = etagOf(stored)
	m.ProtectedItemCount = int64(len(itemsOfPolicy(v, stored.Name)))
	return m
}

func itemsOfPolicy(v *Vault, policy string) []*pb.ProtectedItem {
	return v.itemsOf(func(it *pb.ProtectedItem) bool { return it.Policy == policy })
}

// GetPolicy reads one policy.
func (s *policyService) GetPolicy(_ context.Context, r *pb.GetPolicyRequest) (*pb.GetPolicyResponse, error) {
	var f fields
	n := f.policy("name", r.Name)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	p, err := v.policy(n)
	if err != nil {
		return nil, err
	}
	return &pb.GetPolicyResponse{Policy: policyMessage(v, p)}, nil
}

// ListPolicies lists the policies of a vault by id.
func (s *policyService) ListPolicies(_ context.Context, r *pb.ListPoliciesRequest) (*pb.ListPoliciesResponse, error) {
	var f fields
	parent := f.vault("parent", r.Parent)
	size := f.pageSize(r.PageSize)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(parent)
	if err != nil {
		return nil, err
	}
	defer release()
	page, next, err := pageOf(s.Server, "policies "+r.Parent, r.PageToken, size, v.policyList(), (*pb.Policy).GetName)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListPoliciesResponse{NextPageToken: next}
	for _, p := range page {
		resp.Policies = append(resp.Policies, policyMessage(v, p))
	}
	return resp, nil
}

// UpdatePolicy changes a policy.
func (s *policyService) UpdatePolicy(ctx context.Context, r *pb.UpdatePolicyRequest) (*pb.UpdatePolicyResponse, error) {
	var f fields
	in := r.GetPolicy()
	n := f.policy("policy.name", in.GetName())
	set := f.mask(r.UpdateMask, "display_name", "schedule", "retention", "minimum_consistency")
	f.policyFields(in)
	f.text("policy.etag", in.GetEtag(), 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	v.write.Lock()
	defer v.write.Unlock()
	old, err := v.policy(n)
	if err != nil {
		return nil, err
	}
	if err := checkEtag(in.Name, in.Etag, old); err != nil {
		return nil, err
	}
	p := proto.CloneOf(old)
	if set["display_name"] {
		p.DisplayName = in.DisplayName
	}
	if set["schedule"] {
		p.Schedule = scheduleOr(in.Schedule)
	}
	if set["retention"] {
		p.Retention = retentionOr(in.Retention)
	}
	if set["minimum_consistency"] {
		p.MinimumConsistency = in.MinimumConsistency
	}
	if err := mayShorten(v, n.String(), old, p); err != nil {
		return nil, err
	}
	p.UpdateTime = timestamppb.New(s.opts.Now())
	if !proto.Equal(p.Schedule, old.Schedule) {
		p.ScheduleUpdateTime = p.UpdateTime
	}
	if err := v.putPolicy(ctx, n.Policy, p); err != nil {
		return nil, err
	}
	s.poke(choreSchedule)
	s.poke(choreRetention)
	return &pb.UpdatePolicyResponse{Policy: policyMessage(v, p)}, nil
}

// mayShorten refuses to replace a policy by one that keeps points shorter, in a
// vault that is immutable. name is of what is changed.
func mayShorten(v *Vault, name string, old, p *pb.Policy) error {
	if m := v.stored(); isImmutable(m) && policy.Shortens(old, p) {
		return newError(pb.ErrorReason_ERROR_REASON_IMMUTABLE,
			"vault %q is immutable (%s): the retention for %q cannot be shortened", v.Name, short(m.Immutability), name).
			with("name", name)
	}
	return nil
}

// DeletePolicy removes a policy that serves nothing any more.
func (s *policyService) DeletePolicy(ctx context.Context, r *pb.DeletePolicyRequest) (*pb.DeletePolicyResponse, error) {
	var f fields
	n := f.policy("name", r.Name)
	f.text("etag", r.Etag, 64)
	if err := f.err(); err != nil {
		return nil, err
	}
	v, release, err := s.vaults.use(n.VaultName)
	if err != nil {
		return nil, err
	}
	defer release()
	v.write.Lock()
	defer v.write.Unlock()
	old, err := v.policy(n)
	if err != nil {
		return nil, err
	}
	if err := checkEtag(r.Name, r.Etag, old); err != nil {
		return nil, err
	}
	if items := itemsOfPolicy(v, r.Name); len(items) > 0 {
		var names []string
		for _, it := range items[:min(10, len(items))] {
			names = append(names, it.Name)
		}
		return nil, newError(pb.ErrorReason_ERROR_REASON_POLICY_IN_USE,
			"policy %q still serves %s (%s); give them another policy first", n, plural(uint64(len(items)), "protected item"), few(names)).
			with("name", n.String()).with("count", fmt.Sprint(len(items))).with("protected_items", strings.Join(names, ","))
	}
	if err := v.Store.Apply(ctx, blockstore.Mutation{Key: policyPrefix + n.Policy, Delete: true}); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.policies, n.Policy)
	return &pb.DeletePolicyResponse{}, nil
}
