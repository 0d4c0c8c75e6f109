package catalog

import (
	"strings"
	"time"
)

// Schedule is how far the scheduler has come with a protected item.
type Schedule struct {
	// Slot is the last run of the item's schedule that was seen to: a job was made
	// for it, or it was skipped.
	Slot time.Time `json:"slot"`
	// Retry is what the server is to try again by itself.
	Retry *Retry `json:"retry,omitempty"`
}

// Retry is a further try of a scheduled backup that failed.
type Retry struct {
	Job     string    `json:"job"` // the resource name of the one that failed
	Due     time.Time `json:"due"`
	Attempt int32     `json:"attempt"` // of the job to come: 2 or more
}

func scheduleKey(item string) string { return "schedule/" + strings.Join(IDs(item), "/") }

// Schedule reads how far the scheduler has come with an item, given by its
// resource name.
func (r Reader) Schedule(item string) (s Schedule, err error) {
	err = r.get(scheduleKey(item), func(b []byte) error { return DecodeJSON(b, &s) })
	return s, err
}

// Scheduled lists the items that have a Schedule, by resource name.
func (r Reader) Scheduled() (items []string, err error) {
	err = r.scan("schedule/", "", false, func(key string, _ []byte) (bool, error) {
		ids := strings.Split(key, "/")[1:]
		items = append(items, "subscriptions/"+ids[0]+"/vaults/"+ids[1]+"/protectedItems/"+ids[2])
		return true, nil
	})
	return items, err
}

// PutSchedule writes how far the scheduler has come with an item.
func (t *Tx) PutSchedule(item string, s Schedule) error { return t.putJSON(scheduleKey(item), s) }

// DeleteSchedule forgets an item.
func (t *Tx) DeleteSchedule(item string) error { return t.delete(scheduleKey(item)) }
