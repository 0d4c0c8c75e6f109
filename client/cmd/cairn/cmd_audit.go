package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

var auditTable = table[*cairnv1.AuditRecord]{
	head: []string{"TIME", "ACTOR", "METHOD", "RESOURCE", "RESULT", "JOB", "MESSAGE"},
	row: func(r *cairnv1.AuditRecord) []string {
		result := "OK"
		switch {
		case r.GetEndTime() == nil:
			result = "not answered"
		case r.GetReason() != 0:
			result = word(r.GetReason(), "ERROR_REASON_")
		case r.GetCode() != 0:
			result = codes.Code(uint32(r.GetCode())).String()
		}
		return []string{
			when(r.GetStartTime()), r.GetActor(), short(r.GetMethod()), orDash(withoutSubscription(r.GetResource())), result,
			orDash(short(r.GetJob())), orDash(r.GetMessage()),
		}
	},
}

// withoutSubscription is the rest of a resource name: vaults/main/policies/p.
func withoutSubscription(name string) string {
	if parts := strings.SplitN(name, "/", 3); len(parts) == 3 && parts[0] == "subscriptions" {
		return parts[2]
	}
	return name
}

func (a *app) auditCmd() *cobra.Command {
	return group("audit", "Show who changed what, when, and what came of it", a.auditListCmd())
}

func (a *app) auditListCmd() *cobra.Command {
	filter := &cairnv1.AuditFilter{}
	var span dateRange
	var resource, method string
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List calls that were to change something, newest first", Args: args(cobra.NoArgs),
		Long: `List calls that were to change something, newest first, also those that were refused.

ACTOR is who called, as far as the server knows: uid:1000 on its unix socket, the
address over TCP, server for what the server did of itself.`,
	}
	f := cmd.Flags()
	f.StringVar(&resource, "resource", "", "only this resource and what lies below it: VAULT, VAULT/ITEM, vaults/V/policies/P, hosts/H or a full name")
	f.StringVar(&filter.Actor, "actor", "", "only calls of this caller")
	f.StringVar(&method, "method", "", "only calls of this RPC, such as CreateVault; or of what the server does of itself, such as server/ScheduleReclaim")
	f.BoolVar(&filter.Failed, "failed", false, "only calls that failed")
	f.StringVar(&span.from, "from", "", "since this day or time, or 7d ago")
	f.StringVar(&span.to, "to", "", "until this day or time")
	f.IntVar(&limit, "limit", 0, "only the newest of them (0: all)")
	cmd.RunE = a.withClient(func(ctx context.Context, c *client.Client, _ []string) error {
		if limit < 0 {
			return usagef("--limit %d: must not be negative", limit)
		}
		var err error
		if filter.StartTime, filter.EndTime, err = span.times(dateBack, dateBackEnd); err != nil {
			return err
		}
		if f.Changed("resource") {
			if filter.Resource, err = a.auditResource(resource); err != nil {
				return err
			}
		}
		if f.Changed("method") {
			if filter.Method, err = fullMethod(method); err != nil {
				return err
			}
		}
		var n int
		list, err := all(func(token string) ([]*cairnv1.AuditRecord, string, error) {
			r, err := c.Audit.ListAuditRecords(ctx, &cairnv1.ListAuditRecordsRequest{Parent: a.parent(), PageSize: pageSize, PageToken: token, Filter: filter})
			next := r.GetNextPageToken()
			if n += len(r.GetAuditRecords()); limit > 0 && n >= limit {
				next = "" // enough
			}
			return r.GetAuditRecords(), next, err
		})
		if err != nil {
			return err
		}
		if limit > 0 && len(list) > limit {
			list = list[:limit]
		}
		return printList(a, auditTable, list)
	})
	return cmd
}

// auditResource completes a short name. It asks no server: what is gone has
// records, too.
func (a *app) auditResource(s string) (string, error) {
	parts := strings.Split(s, "/")
	switch {
	case slices.Contains(parts, ""):
		return "", usagef("--resource %q: must be such as VAULT, VAULT/ITEM, vaults/VAULT/policies/POLICY or hosts/HOST", s)
	case parts[0] == "subscriptions":
		return s, nil
	case len(parts) > 1 && (parts[0] == "vaults" || parts[0] == "hosts"):
		return a.parent() + "/" + s, nil
	case len(parts) == 1:
		return a.vaultName(s)
	case len(parts) == 2:
		return a.parent() + "/vaults/" + parts[0] + "/protectedItems/" + parts[1], nil
	}
	return "", usagef("--resource %q: must be such as VAULT, VAULT/ITEM, vaults/VAULT/policies/POLICY or hosts/HOST", s)
}

// serverActs are what the server does of itself and leaves records of, as methods.
var serverActs = []string{"server/PruneRecoveryPoint", "server/PurgeProtectedItem", "server/ScheduleReclaim"}

// fullMethod finds the RPC that a short form means: "CreateVault" is
// "cairn.v1.VaultService/CreateVault".
func fullMethod(s string) (string, error) {
	var full, names []string
	for _, act := range serverActs {
		names = append(names, act)
		if act == s || strings.EqualFold(short(act), s) {
			full = append(full, act)
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("cairn.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				name := string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				names = append(names, short(name))
				if strings.EqualFold(short(name), s) || name == s || strings.TrimPrefix(name, "cairn.v1.") == s {
					full = append(full, name)
				}
			}
		}
		return true
	})
	if len(full) == 1 { // no name is there twice
		return full[0], nil
	}
	slices.Sort(names)
	return "", usagef("--method %q: there is no such RPC; there are %s", s, strings.Join(names, ", "))
}
