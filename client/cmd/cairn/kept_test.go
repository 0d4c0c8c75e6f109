package main

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	cairnv1 "cairn/proto/cairn/v1"
)

func TestWhatIsSaidOfAPointThatIsKept(t *testing.T) {
	until := timestamppb.New(time.Date(2026, 12, 20, 22, 0, 0, 0, time.UTC))
	for _, c := range []struct {
		until *timestamppb.Timestamp
		rule  cairnv1.RetentionRule
		want  string
	}{
		{until, cairnv1.RetentionRule_RETENTION_RULE_DAILY, "until 2026-12-20 22:00:00Z by the daily rule"},
		{until, cairnv1.RetentionRule_RETENTION_RULE_MONTHLY, "until 2026-12-20 22:00:00Z by the monthly rule"},
		{until, cairnv1.RetentionRule_RETENTION_RULE_RETAIN_UNTIL, "until 2026-12-20 22:00:00Z, as it was asked for"},
		{until, cairnv1.RetentionRule_RETENTION_RULE_UNSPECIFIED, "until 2026-12-20 22:00:00Z"},
		{nil, cairnv1.RetentionRule_RETENTION_RULE_NEWEST, "without an end: it is the newest point of its item, which stays until there is a newer one"},
		{nil, cairnv1.RetentionRule_RETENTION_RULE_PROTECTION_STOPPED, "without an end: the item's protection is stopped"},
	} {
		if got := keptText(&cairnv1.RecoveryPoint{ExpireTime: c.until, RetentionRule: c.rule}); got != c.want {
			t.Errorf("%v: %q, want %q", c.rule, got, c.want)
		}
	}
}
