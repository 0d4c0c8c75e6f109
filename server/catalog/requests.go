package catalog

import (
	"time"
)

// RequestLife is how long the answer to a request id is kept.
const RequestLife = 24 * time.Hour

// Request is what is kept of a call that had a request id. Vaults' stores have
// records of this type too, for calls that change only what is in the vault.
type Request struct {
	// Fingerprint is the SHA-256 of the method and the request, without which
	// an answer is not given again.
	Fingerprint []byte `json:"fingerprint"`
	// Response is the answer, in protobuf.
	Response []byte `json:"response"`
	// Time is when the call was answered.
	Time time.Time `json:"time"`
}

// Expired says whether the answer has been kept long enough.
func (q Request) Expired(now time.Time) bool { return now.Sub(q.Time) > RequestLife }

func requestKey(subscription, id string) string { return "request/" + subscription + "/" + id }

// Request reads the answer to a request id.
func (r Reader) Request(subscription, id string) (q Request, err error) {
	err = r.get(requestKey(subscription, id), func(b []byte) error { return DecodeJSON(b, &q) })
	return q, err
}

// PutRequest keeps the answer to a request id.
func (t *Tx) PutRequest(subscription, id string, q Request) error {
	return t.putJSON(requestKey(subscription, id), q)
}

// SweepRequests removes answers that have been kept long enough.
func (t *Tx) SweepRequests(now time.Time) error {
	var old []string
	err := t.scan("request/", "", false, func(key string, value []byte) (bool, error) {
		var q Request
		if err := DecodeJSON(value, &q); err != nil || q.Expired(now) {
			old = append(old, key)
		}
		return true, nil
	})
	for _, key := range old {
		if err == nil {
			err = t.delete(key)
		}
	}
	return err
}
