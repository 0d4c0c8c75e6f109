package catalog

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	pb "cairn/proto/cairn/v1"
)

func auditKey(name string) string { return "audit/" + strings.Join(IDs(name), "/") }

// AuditRecords calls fn for the records of a subscription, newest first, from
// behind the resource name after.
func (r Reader) AuditRecords(subscription, after string, fn func(*pb.AuditRecord) bool) error {
	if after != "" {
		after = auditKey(after)
	}
	return scanProto(r, "audit/"+subscription+"/", after, true, fn)
}

// AddAuditRecord gives a record its name, in a subscription, and writes it. The
// id is the record's time in UTC, to the millisecond, and three characters out of
// random: "a20261122t101500-123x7k". If the newest record has that time or, as the
// clock was set back, a later one, the id goes on from there: ids ascend in the
// order of writing.
func (t *Tx) AddAuditRecord(subscription string, a *pb.AuditRecord, random io.Reader) error {
	at := a.StartTime.AsTime().UTC().Truncate(time.Millisecond)
	prefix := "audit/" + subscription + "/"
	if err := t.scan(prefix, "", true, func(key string, _ []byte) (bool, error) {
		if last, ok := auditTime(strings.TrimPrefix(key, prefix)); ok && !at.After(last) {
			at = last.Add(time.Millisecond)
		}
		return false, nil
	}); err != nil {
		return err
	}
	const letters = "0123456789abcdefghjkmnpqrstvwxyz" // 32
	var tail [3]byte
	if _, err := io.ReadFull(random, tail[:]); err != nil {
		return fmt.Errorf("make the id of an audit record: %w", err)
	}
	for i := range tail {
		tail[i] = letters[tail[i]%32]
	}
	a.Name = fmt.Sprintf("subscriptions/%s/auditRecords/%s%s", subscription, auditID(at), tail[:])
	return t.PutAuditRecord(a)
}

// PutAuditRecord writes a record that has its name.
func (t *Tx) PutAuditRecord(a *pb.AuditRecord) error { return t.putProto(auditKey(a.Name), a) }

const auditLayout = "a20060102t150405"

// auditID is the beginning of the ids of a time.
func auditID(t time.Time) string {
	return fmt.Sprintf("%s-%03d", t.UTC().Format(auditLayout), t.Nanosecond()/1e6)
}

// auditTime reads what auditID wrote.
func auditTime(id string) (time.Time, bool) {
	var ms int
	if len(id) < len(auditLayout)+4 {
		return time.Time{}, false
	}
	t, err := time.Parse(auditLayout, id[:len(auditLayout)])
	if _, e := fmt.Sscanf(id[len(auditLayout):len(auditLayout)+4], "-%03d", &ms); err != nil || e != nil {
		return time.Time{}, false
	}
	return t.Add(time.Duration(ms) * time.Millisecond), true
}

// SweepAudit removes up to most records whose ids are of a time before a moment,
// of all subscriptions, and says how many it removed.
func (t *Tx) SweepAudit(before time.Time, most int) (n int, err error) {
	limit := auditID(before)
	var old []string
	err = t.scan("audit/", "", false, func(key string, _ []byte) (bool, error) {
		if id := key[strings.LastIndexByte(key, '/')+1:]; id < limit {
			old = append(old, key)
		}
		return len(old) < most, nil
	})
	for _, key := range old {
		err = errors.Join(err, t.delete(key))
	}
	return len(old), err
}
