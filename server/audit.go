package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// auditedMethods are the calls that leave an audit record: all that change what
// an administrator looks after. Those that only read, those of the data plane and
// those with which agents and readers report or hold on to something leave none.
var auditedMethods = map[string]bool{
	pb.VaultService_CreateVault_FullMethodName:                   true,
	pb.VaultService_UpdateVault_FullMethodName:                   true,
	pb.VaultService_DeleteVault_FullMethodName:                   true,
	pb.VaultService_ReclaimVault_FullMethodName:                  true,
	pb.PolicyService_CreatePolicy_FullMethodName:                 true,
	pb.PolicyService_UpdatePolicy_FullMethodName:                 true,
	pb.PolicyService_DeletePolicy_FullMethodName:                 true,
	pb.HostService_RegisterHost_FullMethodName:                   true,
	pb.HostService_DeleteHost_FullMethodName:                     true,
	pb.ProtectedItemService_ProtectMachine_FullMethodName:        true,
	pb.ProtectedItemService_UpdateProtectedItem_FullMethodName:   true,
	pb.ProtectedItemService_BackUp_FullMethodName:                true,
	pb.ProtectedItemService_StopProtection_FullMethodName:        true,
	pb.ProtectedItemService_ResumeProtection_FullMethodName:      true,
	pb.ProtectedItemService_UndeleteProtectedItem_FullMethodName: true,
	pb.RecoveryPointService_ExtendRecoveryPoint_FullMethodName:   true,
	pb.RecoveryPointService_DeleteRecoveryPoint_FullMethodName:   true,
	pb.RecoveryPointService_Restore_FullMethodName:               true,
	pb.RecoveryPointService_Verify_FullMethodName:                true,
	pb.JobService_CancelJob_FullMethodName:                       true,
	pb.JobService_RetryJob_FullMethodName:                        true,
}

// What the server does of itself and leaves a record of, in place of a method.
// Scheduled backups leave none: they have their job, which is marked.
const (
	auditPrune   = "server/PruneRecoveryPoint"
	auditPurge   = "server/PurgeProtectedItem"
	auditReclaim = "server/ScheduleReclaim"
)

var auditSelfMethods = map[string]bool{auditPrune: true, auditPurge: true, auditReclaim: true}

// How much of a text goes into an audit record, in bytes.
const (
	auditText    = 4096
	auditName    = 1024
	auditCaption = 256
)

// defaultSubscription has the records of calls that name no subscription, or none
// that could exist.
const defaultSubscription = "default"

// auditBegin writes that a call came in, before anything is done for it: what is
// not on record is not done. It answers nil for calls that leave no record.
func (s *Server) auditBegin(ctx context.Context, method string, req any) (*pb.AuditRecord, error) {
	m, ok := req.(proto.Message)
	if !ok || !auditedMethods[method] {
		return nil, nil
	}
	a := &pb.AuditRecord{
		StartTime: timestamppb.New(s.opts.Now()), Actor: actorOf(ctx), UserAgent: cut(userAgentOf(ctx), auditCaption),
		Method: strings.TrimPrefix(method, "/"), Resource: cut(resourceOf(m.ProtoReflect()), auditName),
		RequestId: cut(textField(m.ProtoReflect(), "request_id"), auditCaption), Request: requestJSON(m),
	}
	return a, s.cat.Update(ctx, func(tx *catalog.Tx) error {
		return tx.AddAuditRecord(subscriptionOf(a.Resource), a, s.opts.Rand)
	})
}

// auditEnd completes a record with what the call is answered. What was done is
// done: that the record stays as it is goes to the log.
func (s *Server) auditEnd(a *pb.AuditRecord, resp any, err error) {
	a.EndTime = timestamppb.New(s.opts.Now())
	if m, ok := resp.(proto.Message); ok && err == nil {
		r := m.ProtoReflect()
		if j := messageField(r, "job"); j != nil && textField(j, "name") != a.Resource {
			a.Job = textField(j, "name")
		}
		if made := madeName(r); strings.HasPrefix(made, a.Resource+"/") {
			a.Resource = made // the call left the id to the server
		}
	}
	var e *Error
	if errors.As(err, &e) {
		a.Code, a.Reason, a.Message = int32(e.Code), e.Reason, cut(e.Message, auditText)
	}
	if err := s.cat.Update(context.Background(), func(tx *catalog.Tx) error { return tx.PutAuditRecord(a) }); err != nil {
		s.log.Error("the end of a call is not in its audit record", "record", a.Name, "method", a.Method, "error", err)
	}
}

// auditSelf records something that the server did of itself: one of
// auditSelfMethods, to a resource, in words.
func (s *Server) auditSelf(method, resource, message string) {
	now := timestamppb.New(s.opts.Now())
	a := &pb.AuditRecord{
		StartTime: now, EndTime: now, Actor: actorServer,
		Method: method, Resource: resource, Message: cut(message, auditText),
	}
	if err := s.cat.Update(context.Background(), func(tx *catalog.Tx) error {
		return tx.AddAuditRecord(subscriptionOf(resource), a, s.opts.Rand)
	}); err != nil {
		s.log.Error("an act of the server is not on record", "method", method, "resource", resource, "message", message, "error", err)
	}
}

// sweepAudit is the chore that removes audit records that were kept long enough.
func (s *Server) sweepAudit(ctx context.Context, now time.Time) (time.Time, error) {
	const most = 1000 // in one transaction, for which all others wait
	for n := most; n == most; {
		if err := s.cat.Update(ctx, func(tx *catalog.Tx) (err error) {
			n, err = tx.SweepAudit(now.Add(-s.opts.AuditKeep), most)
			return err
		}); err != nil {
			return now, err
		}
	}
	return now.Add(time.Hour), nil
}

// resourceOf finds what a request is about: what it names, or what it is to make,
// or where.
func resourceOf(m protoreflect.Message) string {
	if name := textField(m, "name"); name != "" {
		return name
	}
	parent := textField(m, "parent")
	for field, collection := range map[protoreflect.Name]string{
		"vault_id": "vaults", "policy_id": "policies", "host_id": "hosts", "protected_item_id": "protectedItems",
	} {
		if id := textField(m, field); validID(id) {
			return parent + "/" + collection + "/" + id
		}
	}
	if parent != "" {
		return parent
	}
	return madeName(m)
}

// madeName is the name of the resource within a message.
func madeName(m protoreflect.Message) string {
	for _, field := range []protoreflect.Name{"vault", "policy", "host", "protected_item", "recovery_point"} {
		if in := messageField(m, field); in != nil {
			return textField(in, "name")
		}
	}
	return ""
}

func textField(m protoreflect.Message, name protoreflect.Name) string {
	fd := m.Descriptor().Fields().ByName(name)
	if fd == nil || fd.Kind() != protoreflect.StringKind || fd.IsList() || fd.IsMap() {
		return ""
	}
	return m.Get(fd).String()
}

// messageField is nil if the field is not there or not set.
func messageField(m protoreflect.Message, name protoreflect.Name) protoreflect.Message {
	fd := m.Descriptor().Fields().ByName(name)
	if fd == nil || fd.Kind() != protoreflect.MessageKind || fd.IsList() || fd.IsMap() || !m.Has(fd) {
		return nil
	}
	return m.Get(fd).Message()
}

// subscriptionOf is the subscription at the beginning of a name.
func subscriptionOf(resource string) string {
	if ids, ok := splitName(strings.Join(firstParts(resource, 2), "/"), subscriptionPattern, false); ok {
		return ids[0]
	}
	return defaultSubscription
}

func firstParts(s string, n int) []string {
	parts := strings.SplitN(s, "/", n+1)
	return parts[:min(n, len(parts))]
}

// requestJSON is a request as JSON, cut. What JSON cannot say, such as a time
// beyond the year 9999, is shown in protobuf's text form within it.
func requestJSON(m proto.Message) string {
	b, err := protojson.Marshal(m)
	if err != nil {
		b, _ = json.Marshal(map[string]string{"text": prototext.MarshalOptions{}.Format(m)})
	}
	var compact bytes.Buffer // the library puts in spaces at random
	if json.Compact(&compact, b) == nil {
		b = compact.Bytes()
	}
	return cut(string(b), auditText)
}

// cut shortens a text to at most n bytes of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:n])
}
