package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"cairn/client"
	cairnv1 "cairn/proto/cairn/v1"
)

// Names on the command line are resource names or any short form that is not
// ambiguous:
//
//	vault     v1
//	policy    nightly (with --vault), v1/nightly
//	machine   web1, HOST/web1
//	item      web1, v1/web1
//	point     web1@latest, web1@latest~1 (the one before), web1@2026-11-20, web1@2026-11-20T22:00, web1@POINTID
//	job       JOBID, v1/JOBID

// all reads every page of a list.
func all[T any](list func(token string) ([]T, string, error)) ([]T, error) {
	var out []T
	for token := ""; ; {
		page, next, err := list(token)
		if err != nil {
			return nil, err
		}
		out = append(out, page...)
		if next == "" {
			return out, nil
		}
		token = next
	}
}

// pageSize is what lists ask for when all of it is wanted.
const pageSize = 1000

func (a *app) vaultName(s string) (string, error) {
	switch {
	case s == "":
		return "", usagef("a vault must be named: --vault VAULT")
	case strings.HasPrefix(s, "subscriptions/"):
		return s, nil
	}
	return a.parent() + "/vaults/" + s, nil
}

// vaultOf is the vault that something lies in, by resource name.
func vaultOf(name string) string {
	return "subscriptions/" + field(name, "subscriptions") + "/vaults/" + field(name, "vaults")
}

func (a *app) policyName(s, vault string) (string, error) {
	if strings.HasPrefix(s, "subscriptions/") {
		return s, nil
	}
	if v, p, ok := strings.Cut(s, "/"); ok {
		vault, s = v, p
	}
	v, err := a.vaultName(vault)
	return v + "/policies/" + s, err
}

// listItems lists the items of a vault, or of all vaults; with deleted those that
// are soft-deleted as well.
func (a *app) listItems(ctx context.Context, c *client.Client, vault string, deleted bool) ([]*cairnv1.ProtectedItem, error) {
	if vault == "" {
		vault = "-"
	}
	parent, err := a.vaultName(vault)
	if err != nil {
		return nil, err
	}
	unreachable := map[string]bool{}
	items, err := all(func(token string) ([]*cairnv1.ProtectedItem, string, error) {
		r, err := c.Items.ListProtectedItems(ctx, &cairnv1.ListProtectedItemsRequest{
			Parent: parent, PageSize: pageSize, PageToken: token, ShowDeleted: deleted,
		})
		for _, v := range r.GetUnreachable() {
			unreachable[v] = true
		}
		return r.GetProtectedItems(), r.GetNextPageToken(), err
	})
	for v := range unreachable {
		fmt.Fprintf(os.Stderr, "warning: vault %s cannot be read now: its items are left out; see cairn vault show %s\n", short(v), short(v))
	}
	return items, err
}

// itemName finds the item that a short form means. One that is soft-deleted is
// meant if no other has the name.
func (a *app) itemName(ctx context.Context, c *client.Client, s string) (string, error) {
	if strings.HasPrefix(s, "subscriptions/") {
		return s, nil
	}
	if v, i, ok := strings.Cut(s, "/"); ok {
		return a.parent() + "/vaults/" + v + "/protectedItems/" + i, nil
	}
	items, err := a.listItems(ctx, c, "", true)
	if err != nil {
		return "", err
	}
	var names, deleted []string
	for _, it := range items {
		switch {
		case short(it.GetName()) != s:
		case it.GetDeleteTime() != nil:
			deleted = append(deleted, it.GetName())
		default:
			names = append(names, it.GetName())
		}
	}
	if len(names) == 0 {
		names = deleted
	}
	return one("item", s, names, "list protected items with: cairn item list", func(n string) string {
		return field(n, "vaults") + "/" + s
	})
}

// machineName finds the machine that a short form means.
func (a *app) machineName(ctx context.Context, c *client.Client, s string) (string, error) {
	if strings.HasPrefix(s, "subscriptions/") {
		return s, nil
	}
	if h, m, ok := strings.Cut(s, "/"); ok {
		return a.parent() + "/hosts/" + h + "/machines/" + m, nil
	}
	machines, err := a.listMachines(ctx, c, "")
	if err != nil {
		return "", err
	}
	var names []string
	for _, m := range machines {
		if short(m.GetName()) == s {
			names = append(names, m.GetName())
		}
	}
	return one("machine", s, names, "list machines with: cairn machine list", func(n string) string {
		return field(n, "hosts") + "/" + s
	})
}

// one picks the only candidate.
func one(kind, s string, names []string, hint string, longer func(string) string) (string, error) {
	switch len(names) {
	case 1:
		return names[0], nil
	case 0:
		return "", hintf(fmt.Errorf("there is no %s %q", kind, s), "%s", hint)
	}
	var forms []string
	for _, n := range names {
		forms = append(forms, longer(n))
	}
	return "", usagef("%s %q is ambiguous: write %s", kind, s, strings.Join(forms, " or "))
}

// point finds the recovery point that a short form means.
func (a *app) point(ctx context.Context, c *client.Client, s string) (*cairnv1.RecoveryPoint, error) {
	if strings.HasPrefix(s, "subscriptions/") {
		r, err := c.Points.GetRecoveryPoint(ctx, &cairnv1.GetRecoveryPointRequest{Name: s})
		return r.GetRecoveryPoint(), err
	}
	item, which, ok := strings.Cut(s, "@")
	if !ok || which == "" {
		return nil, usagef("%q does not say which point: write %s@latest, %s@2026-11-20 or %s@POINTID", s, item, item, item)
	}
	name, err := a.itemName(ctx, c, item)
	if err != nil {
		return nil, err
	}
	points, err := listPoints(ctx, c, name)
	if err != nil {
		return nil, err
	}
	if back, ok := strings.CutPrefix(which, "latest"); ok && (back == "" || back[0] == '~') && len(points) > 0 {
		n := 0
		if back != "" {
			if n, err = strconv.Atoi(back[1:]); err != nil || n < 0 || strings.HasPrefix(back, "~+") {
				return nil, usagef("%q: after latest~ must be a number: %s@latest~1 is the point before the newest", s, item)
			}
		}
		if n >= len(points) {
			return nil, hintf(fmt.Errorf("item %s has no point %q: %s@latest~%d is its oldest", item, which, item, len(points)-1),
				"list its points with: cairn point list %s", item)
		}
		return points[n], nil
	}
	var found []*cairnv1.RecoveryPoint
	for _, p := range points {
		if short(p.GetName()) == which {
			return p, nil
		}
		if strings.HasPrefix(p.GetSnapshotTime().AsTime().UTC().Format("2006-01-02T15:04:05Z"), which) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, hintf(fmt.Errorf("item %s has no point %q", item, which), "list its points with: cairn point list %s", item)
	}
	var ids []string
	for _, p := range found {
		ids = append(ids, item+"@"+short(p.GetName()))
	}
	return nil, usagef("%q is ambiguous: write one of %s", s, strings.Join(ids, ", "))
}

// listPoints lists the points of an item, newest first.
func listPoints(ctx context.Context, c *client.Client, item string) ([]*cairnv1.RecoveryPoint, error) {
	return all(func(token string) ([]*cairnv1.RecoveryPoint, string, error) {
		r, err := c.Points.ListRecoveryPoints(ctx, &cairnv1.ListRecoveryPointsRequest{Parent: item, PageSize: pageSize, PageToken: token})
		return r.GetRecoveryPoints(), r.GetNextPageToken(), err
	})
}

// jobName finds the job that a short form means.
func (a *app) jobName(ctx context.Context, c *client.Client, s string) (string, error) {
	if strings.HasPrefix(s, "subscriptions/") {
		return s, nil
	}
	if v, j, ok := strings.Cut(s, "/"); ok {
		return a.parent() + "/vaults/" + v + "/jobs/" + j, nil
	}
	jobs, err := all(func(token string) ([]*cairnv1.Job, string, error) {
		r, err := c.Jobs.ListJobs(ctx, &cairnv1.ListJobsRequest{Parent: a.parent(), PageSize: pageSize, PageToken: token})
		return r.GetJobs(), r.GetNextPageToken(), err
	})
	if err != nil {
		return "", err
	}
	var names []string
	for _, j := range jobs {
		if short(j.GetName()) == s {
			names = append(names, j.GetName())
		}
	}
	return one("job", s, names, "list jobs with: cairn job list", func(n string) string { return field(n, "vaults") + "/" + s })
}
