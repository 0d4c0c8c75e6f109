package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "cairn/proto/cairn/v1"
)

// The types of events.
const (
	Started = "job.started"
	Ended   = "job.ended"
	Test    = "test"
)

// Event is what hooks get, see the package comment.
type Event struct {
	Version int             `json:"version"`
	ID      string          `json:"id"`
	Type    string          `json:"type"`
	Time    time.Time       `json:"time"`
	Server  string          `json:"server"`
	Job     json.RawMessage `json:"job,omitempty"`
}

// eventOf makes the event of a job's change.
func eventOf(kind, server string, now time.Time, j *pb.Job) (Event, error) {
	j = proto.CloneOf(j)
	j.Actions = nil // of the moment, and for whoever looks at the job then
	b, err := protojson.Marshal(j)
	var compact bytes.Buffer // the library puts in spaces at random
	if err == nil {
		err = json.Compact(&compact, b)
	}
	return Event{
		Version: 1, ID: fmt.Sprintf("%s-%d", j.Uid, j.Revision), Type: kind, Time: now.UTC(),
		Server: server, Job: compact.Bytes(),
	}, err
}

// Filter says of which events hooks are told. Its words are the keys of words.
type Filter []string

var words = map[string]func(kind string, s pb.JobState) bool{
	"started":   func(kind string, _ pb.JobState) bool { return kind == Started },
	"ended":     func(kind string, _ pb.JobState) bool { return kind == Ended },
	"completed": ends(pb.JobState_JOB_STATE_COMPLETED),
	"warnings":  ends(pb.JobState_JOB_STATE_COMPLETED_WITH_WARNINGS),
	"failed":    ends(pb.JobState_JOB_STATE_FAILED),
	"cancelled": ends(pb.JobState_JOB_STATE_CANCELLED),
	"skipped":   ends(pb.JobState_JOB_STATE_SKIPPED),
}

func ends(state pb.JobState) func(string, pb.JobState) bool {
	return func(kind string, s pb.JobState) bool { return kind == Ended && s == state }
}

// DefaultFilter is every end of a job.
var DefaultFilter = Filter{"ended"}

// Check refuses a filter with words that there are not.
func (f Filter) Check() error {
	for _, w := range f {
		if words[w] == nil {
			all := make([]string, 0, len(words))
			for w := range words {
				all = append(all, w)
			}
			slices.Sort(all)
			return fmt.Errorf("%q is no kind of event; there are %s", w, strings.Join(all, ", "))
		}
	}
	return nil
}

func (f Filter) wants(kind string, s pb.JobState) bool {
	return slices.ContainsFunc(f, func(w string) bool { return words[w](kind, s) })
}
