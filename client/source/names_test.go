package source

import (
	"regexp"
	"testing"

	"pgregory.net/rapid"
)

var validID = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func TestIDOf(t *testing.T) {
	for _, test := range []struct{ name, id string }{
		{"web1", "web1"},
		{"Web1", "web1"},
		{"web_1.example.org", "web-1-example-org"},
		{"  web  1  ", "web-1"},
		{"-web-", "web"},
		{"1", "vm-1"},
		{"2026-backup", "vm-2026-backup"},
		{"", "vm-e3b0c442"},
		{"---", "vm-cb3f91d5"},
		{"서버", "vm-7d585c38"},
		{"서버1", "vm-1-e83c3761"},
		{"Ünter", "nter-021834aa"},
		{"a--1", "a--1"},
		{"a23456789-123456789-123456789-123456789-123456789-123456789-123", "a23456789-123456789-123456789-123456789-123456789-123456789-123"},
	} {
		if got := IDOf(test.name, "vm"); got != test.id {
			t.Errorf("IDOf(%q) = %q, want %q", test.name, got, test.id)
		}
	}
}

// TestIDOfAnything: every name has a valid id, and a valid id is its own.
func TestIDOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(
			rapid.String(),
			rapid.StringMatching(`[a-z0-9-]{50,80}`),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
		).Draw(t, "name")
		id := IDOf(name, "disk")
		if !validID.MatchString(id) {
			t.Fatalf("IDOf(%q) = %q", name, id)
		}
		if validID.MatchString(name) && id != name {
			t.Fatalf("IDOf(%q) = %q", name, id)
		}
	})
}
