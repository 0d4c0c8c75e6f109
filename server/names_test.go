package server

import (
	"strings"
	"testing"
)

func TestIDs(t *testing.T) {
	for _, id := range []string{"a", "z9", "a-b", "a--b", "web1", strings.Repeat("a", 63)} {
		if !validID(id) {
			t.Errorf("%q is refused", id)
		}
	}
	for _, id := range []string{
		"", "-", "1a", "A", "aB", "a_b", "a.b", "a-", "-a", "é", "a\x00", "a b", "a\n", "-\xff", strings.Repeat("a", 64),
	} {
		if validID(id) {
			t.Errorf("%q is taken", id)
		}
	}
}

func TestNames(t *testing.T) {
	var f fields
	for _, c := range []struct{ got, want string }{
		{f.subscription("x", "subscriptions/s").String(), "subscriptions/s"},
		{f.vault("x", "subscriptions/s/vaults/v").String(), "subscriptions/s/vaults/v"},
		{f.policy("x", "subscriptions/s/vaults/v/policies/p").String(), "subscriptions/s/vaults/v/policies/p"},
		{f.item("x", "subscriptions/s/vaults/v/protectedItems/i").String(), "subscriptions/s/vaults/v/protectedItems/i"},
		{f.point("x", "subscriptions/s/vaults/v/protectedItems/i/recoveryPoints/r").String(), "subscriptions/s/vaults/v/protectedItems/i/recoveryPoints/r"},
		{f.job("x", "subscriptions/s/vaults/v/jobs/j").String(), "subscriptions/s/vaults/v/jobs/j"},
		{f.host("x", "subscriptions/s/hosts/h").String(), "subscriptions/s/hosts/h"},
		{f.machine("x", "subscriptions/s/hosts/h/machines/m").String(), "subscriptions/s/hosts/h/machines/m"},
		{f.vaultOrAll("x", "subscriptions/s/vaults/-").String(), "subscriptions/s/vaults/-"},
		{f.vaultOrSubscription("x", "subscriptions/s").String(), "subscriptions/s/vaults/-"},
		{f.hostOrAll("x", "subscriptions/s/hosts/-").String(), "subscriptions/s/hosts/-"},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
	if err := f.err(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"", "v", "subscriptions", "subscriptions/", "subscriptions/s/vaults", "subscriptions/s/vaults/",
		"subscriptions/s/vaults/v/", "/subscriptions/s/vaults/v", "subscriptions/s//vaults/v", "subscriptions/s/vaults/V",
		"subscriptions/s/vaults/-", "subscriptions/-/vaults/v", "subscriptions/s/hosts/v", "Subscriptions/s/vaults/v",
		"subscriptions/s/vaults/v/policies/p", "subscriptions/s/vaults/v%2f", "subscriptions/s/vaults/../vaults",
		strings.Repeat("subscriptions/s/", 1000),
	} {
		var f fields
		f.vault("name", bad)
		wantField(t, f.err(), "name")
	}
}

func TestQuoteIsShort(t *testing.T) {
	for _, s := range []string{strings.Repeat("ä", 1000), strings.Repeat("\xff", 1000), "short"} {
		if q := quote(s); len(q) > 500 || !strings.HasPrefix(q, `"`) {
			t.Errorf("%d bytes: %s", len(q), q)
		}
	}
}
