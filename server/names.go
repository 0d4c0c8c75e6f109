package server

import (
	"strings"

	pb "cairn/proto/cairn/v1"
)

// maxID is the longest id: one letter, 61 characters, one letter or digit.
const maxID = 63

// idRule is what a client is told about ids.
const idRule = "must match ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$: a lower-case letter, then up to 62 lower-case letters, digits and hyphens, the last one no hyphen"

// validID reports whether s matches ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$.
func validID(s string) bool {
	if len(s) == 0 || len(s) > maxID || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	for i := 1; i < len(s); i++ {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// The resource names. A value of one of these types that came from a parse
// function has well-formed ids.

// SubscriptionName is "subscriptions/{subscription}".
type SubscriptionName struct{ Subscription string }

// VaultName is "subscriptions/{subscription}/vaults/{vault}".
type VaultName struct{ Subscription, Vault string }

// PolicyName is "…/vaults/{vault}/policies/{policy}".
type PolicyName struct {
	VaultName
	Policy string
}

// ItemName is "…/vaults/{vault}/protectedItems/{item}".
type ItemName struct {
	VaultName
	Item string
}

// PointName is "…/protectedItems/{item}/recoveryPoints/{point}".
type PointName struct {
	ItemName
	Point string
}

// JobName is "…/vaults/{vault}/jobs/{job}".
type JobName struct {
	VaultName
	Job string
}

// HostName is "subscriptions/{subscription}/hosts/{host}".
type HostName struct{ Subscription, Host string }

// MachineName is "…/hosts/{host}/machines/{machine}".
type MachineName struct {
	HostName
	Machine string
}

func (n SubscriptionName) String() string { return "subscriptions/" + n.Subscription }
func (n VaultName) String() string {
	return "subscriptions/" + n.Subscription + "/vaults/" + n.Vault
}
func (n PolicyName) String() string  { return n.VaultName.String() + "/policies/" + n.Policy }
func (n ItemName) String() string    { return n.VaultName.String() + "/protectedItems/" + n.Item }
func (n PointName) String() string   { return n.ItemName.String() + "/recoveryPoints/" + n.Point }
func (n JobName) String() string     { return n.VaultName.String() + "/jobs/" + n.Job }
func (n HostName) String() string    { return "subscriptions/" + n.Subscription + "/hosts/" + n.Host }
func (n MachineName) String() string { return n.HostName.String() + "/machines/" + n.Machine }

// The patterns of names; a word in braces stands for an id.
const (
	subscriptionPattern = "subscriptions/{subscription}"
	vaultPattern        = subscriptionPattern + "/vaults/{vault}"
	policyPattern       = vaultPattern + "/policies/{policy}"
	itemPattern         = vaultPattern + "/protectedItems/{item}"
	pointPattern        = itemPattern + "/recoveryPoints/{point}"
	jobPattern          = vaultPattern + "/jobs/{job}"
	hostPattern         = subscriptionPattern + "/hosts/{host}"
	machinePattern      = hostPattern + "/machines/{machine}"
)

// wildcard stands for any id, in the parents of some lists.
const wildcard = "-"

// splitName matches s with pattern and gives the ids in order. With wild, the
// last id may be the wildcard. ok is false if s does not fit.
func splitName(s, pattern string, wild bool) (ids []string, ok bool) {
	if len(s) > (maxID+16)*8 {
		return nil, false
	}
	want, have := strings.Split(pattern, "/"), strings.Split(s, "/")
	if len(want) != len(have) {
		return nil, false
	}
	for i, w := range want {
		switch {
		case w[0] != '{':
			if have[i] != w {
				return nil, false
			}
		case validID(have[i]), wild && i == len(want)-1 && have[i] == wildcard:
			ids = append(ids, have[i])
		default:
			return nil, false
		}
	}
	return ids, true
}

// name parses s, the value of the field at path, and notes a violation if it is
// empty or does not have the form of pattern. It then answers nil.
func (f *fields) name(path, s, pattern string, wild bool) []string {
	if s == "" {
		f.addName(path, "must be given, in the form %q", pattern)
		return nil
	}
	ids, ok := splitName(s, pattern, wild)
	if !ok {
		f.addName(path, "%s is not a name of the form %q, whose ids %s", quote(s), pattern, idRule)
	}
	return ids
}

func (f *fields) subscription(path, s string) (n SubscriptionName) {
	if ids := f.name(path, s, subscriptionPattern, false); ids != nil {
		n = SubscriptionName{ids[0]}
	}
	return n
}

func (f *fields) vault(path, s string) (n VaultName) {
	if ids := f.name(path, s, vaultPattern, false); ids != nil {
		n = VaultName{ids[0], ids[1]}
	}
	return n
}

// vaultOrAll is vault, but takes the wildcard for the vault as well.
func (f *fields) vaultOrAll(path, s string) (n VaultName) {
	if ids := f.name(path, s, vaultPattern, true); ids != nil {
		n = VaultName{ids[0], ids[1]}
	}
	return n
}

// vaultOrSubscription takes a vault, or a subscription for all its vaults:
// then Vault is the wildcard.
func (f *fields) vaultOrSubscription(path, s string) (n VaultName) {
	if ids, ok := splitName(s, subscriptionPattern, false); ok {
		return VaultName{ids[0], wildcard}
	}
	return f.vault(path, s)
}

func (f *fields) policy(path, s string) (n PolicyName) {
	if ids := f.name(path, s, policyPattern, false); ids != nil {
		n = PolicyName{VaultName{ids[0], ids[1]}, ids[2]}
	}
	return n
}

func (f *fields) item(path, s string) (n ItemName) {
	if ids := f.name(path, s, itemPattern, false); ids != nil {
		n = ItemName{VaultName{ids[0], ids[1]}, ids[2]}
	}
	return n
}

func (f *fields) point(path, s string) (n PointName) {
	if ids := f.name(path, s, pointPattern, false); ids != nil {
		n = PointName{ItemName{VaultName{ids[0], ids[1]}, ids[2]}, ids[3]}
	}
	return n
}

func (f *fields) job(path, s string) (n JobName) {
	if ids := f.name(path, s, jobPattern, false); ids != nil {
		n = JobName{VaultName{ids[0], ids[1]}, ids[2]}
	}
	return n
}

func (f *fields) host(path, s string) (n HostName) {
	if ids := f.name(path, s, hostPattern, false); ids != nil {
		n = HostName{ids[0], ids[1]}
	}
	return n
}

// hostOrAll is host, but takes the wildcard for the host as well.
func (f *fields) hostOrAll(path, s string) (n HostName) {
	if ids := f.name(path, s, hostPattern, true); ids != nil {
		n = HostName{ids[0], ids[1]}
	}
	return n
}

func (f *fields) machine(path, s string) (n MachineName) {
	if ids := f.name(path, s, machinePattern, false); ids != nil {
		n = MachineName{HostName{ids[0], ids[1]}, ids[2]}
	}
	return n
}

// id checks an id that a resource is to get.
func (f *fields) id(path, s string) {
	switch {
	case s == "":
		f.addName(path, "must be given; an id %s", idRule)
	case !validID(s):
		f.addName(path, "%s is no id: it %s", quote(s), idRule)
	}
}

// errNotFound answers that the resource is not there. kind is its word in a
// sentence ("vault").
func errNotFound(reason pb.ErrorReason, kind, name string) error {
	return newError(reason, "%s %q does not exist", kind, name).with("name", name)
}

func errVaultNotFound(n VaultName) error {
	return errNotFound(pb.ErrorReason_ERROR_REASON_VAULT_NOT_FOUND, "vault", n.String())
}

func errPolicyNotFound(n PolicyName) error {
	return errNotFound(pb.ErrorReason_ERROR_REASON_POLICY_NOT_FOUND, "policy", n.String())
}

func errItemNotFound(n ItemName) error {
	return errNotFound(pb.ErrorReason_ERROR_REASON_PROTECTED_ITEM_NOT_FOUND, "protected item", n.String())
}

func errPointNotFound(n PointName) error {
	return errNotFound(pb.ErrorReason_ERROR_REASON_RECOVERY_POINT_NOT_FOUND, "recovery point", n.String())
}

func errJobNotFound(n JobName) error {
	return errNotFound(pb.ErrorReason_ERROR_REASON_JOB_NOT_FOUND, "job", n.String())
}

func errHostNotFound(n HostName) error {
	return errNotFound(pb.ErrorReason_ERROR_REASON_HOST_NOT_FOUND, "host", n.String())
}

func errMachineNotFound(n MachineName) error {
	return errNotFound(pb.ErrorReason_ERROR_REASON_MACHINE_NOT_FOUND, "machine", n.String())
}
