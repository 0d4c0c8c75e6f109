package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Notice is an event that hooks are still to be told of (cairn/server/notify).
type Notice struct {
	// ID is the event's, for those who get it twice.
	ID string `json:"id"`
	// Type is the event's: "job.started" or "job.ended".
	Type string `json:"type"`
	// Job is the resource name of the job.
	Job string `json:"job"`
	// Time is when it happened.
	Time time.Time `json:"time"`
	// Pending are the ids of the hooks that have not got it.
	Pending []string `json:"pending"`
	// Body is what hooks get.
	Body json.RawMessage `json:"body"`
}

func noticeKey(seq int64) string { return fmt.Sprintf("notice/%016x", seq) }

// Notices calls fn for the notices behind number after, 0 for the first, in
// ascending order.
func (r Reader) Notices(after int64, fn func(seq int64, n Notice) bool) error {
	return r.scan("notice/", noticeKey(after), false, func(key string, value []byte) (bool, error) {
		seq, err := strconv.ParseInt(strings.TrimPrefix(key, "notice/"), 16, 64)
		if err != nil {
			return false, fmt.Errorf("%w: %v", ErrCorrupt, err)
		}
		var n Notice
		if err := DecodeJSON(value, &n); err != nil {
			return false, err
		}
		return fn(seq, n), nil
	})
}

// Notice reads one notice.
func (r Reader) Notice(seq int64) (n Notice, err error) {
	err = r.get(noticeKey(seq), func(b []byte) error { return DecodeJSON(b, &n) })
	return n, err
}

// PutNotice writes a notice under a number that no other had: the revision of the
// job.
func (t *Tx) PutNotice(seq int64, n Notice) error { return t.putJSON(noticeKey(seq), n) }

// SettleNotice takes hooks off a notice, and removes it with the last of them.
func (t *Tx) SettleNotice(seq int64, hooks ...string) error {
	n, err := t.Notice(seq)
	if err != nil {
		return err
	}
	n.Pending = slices.DeleteFunc(n.Pending, func(id string) bool { return slices.Contains(hooks, id) })
	if len(n.Pending) == 0 {
		return t.delete(noticeKey(seq))
	}
	return t.PutNotice(seq, n)
}
