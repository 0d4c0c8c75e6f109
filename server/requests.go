package server

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// requests makes calls with a request id happen once. The answer is kept where
// the effect is, and written together with it: in the catalog, or in the vault's
// store for calls that change only what is in there.
type requests struct {
	s  *Server
	mu sync.Mutex
	// running has the calls under way, by subscription and request id.
	running map[string]chan struct{}
}

// keep is what a call writes together with its effect, so that it happens once.
// The zero value, of a call without request id, writes nothing.
type keep struct {
	s            *Server
	subscription string
	id           string
	fingerprint  []byte
}

// record gives the record of the answer.
func (k keep) record(resp proto.Message) (catalog.Request, error) {
	b, err := proto.Marshal(resp)
	if err != nil {
		return catalog.Request{}, fmt.Errorf("encode an answer: %w", err)
	}
	return catalog.Request{Fingerprint: k.fingerprint, Response: b, Time: k.s.opts.Now()}, nil
}

// inCatalog writes the answer in a transaction of the catalog.
func (k keep) inCatalog(tx *catalog.Tx, resp proto.Message) error {
	if k.id == "" {
		return nil
	}
	q, err := k.record(resp)
	if err != nil {
		return err
	}
	return tx.PutRequest(k.subscription, k.id, q)
}

// inVault gives the mutations that write the answer in a vault's store.
func (k keep) inVault(resp proto.Message) ([]blockstore.Mutation, error) {
	if k.id == "" {
		return nil, nil
	}
	q, err := k.record(resp)
	if err != nil {
		return nil, err
	}
	b, err := catalog.EncodeJSON(q)
	return []blockstore.Mutation{{Key: requestPrefix + k.id, Value: b}}, err
}

// once runs call, unless a call with the same request id was answered before:
// then that answer is given again. v is the vault whose store may have it, or
// nil. Error: REQUEST_ID_REUSED, if that call was another one.
func once[R proto.Message](s *Server, subscription, id, method string, req proto.Message, v *Vault, answer R, call func(keep) (R, error)) (R, error) {
	if id == "" {
		return call(keep{})
	}
	var none R
	fp, err := fingerprint(method, req)
	if err != nil {
		return none, err
	}
	defer s.requests.enter(subscription + "/" + id)()
	q, err := s.findRequest(subscription, id, v)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return call(keep{s, subscription, id, fp})
	case err != nil:
		return none, err
	case !bytes.Equal(q.Fingerprint, fp):
		return none, newError(pb.ErrorReason_ERROR_REASON_REQUEST_ID_REUSED,
			"request_id %s was used before, for another call or with other arguments; make up a new one for every call", quote(id)).
			with("request_id", id)
	}
	if err := proto.Unmarshal(q.Response, answer); err != nil {
		return none, fmt.Errorf("read the answer to request id %q: %w", id, err)
	}
	return answer, nil
}

// findRequest looks for an answer, in the catalog and in the vault's store.
func (s *Server) findRequest(subscription, id string, v *Vault) (catalog.Request, error) {
	q, err := s.cat.Request(subscription, id)
	if errors.Is(err, catalog.ErrNotFound) && v != nil {
		var b []byte
		b, err = v.Store.Record(requestPrefix + id)
		if errors.Is(err, blockstore.ErrNotFound) {
			return q, catalog.ErrNotFound
		}
		if err == nil {
			err = catalog.DecodeJSON(b, &q)
		}
	}
	if err == nil && q.Expired(s.opts.Now()) {
		return q, catalog.ErrNotFound
	}
	return q, err
}

// fingerprint stands for a method and what it was asked.
func fingerprint(method string, req proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	h := sha256.New()
	h.Write([]byte(method))
	h.Write([]byte{0})
	h.Write(b)
	return h.Sum(nil), nil
}

// enter waits until no other call with the same key runs; leave ends this one.
func (r *requests) enter(key string) (leave func()) {
	for {
		r.mu.Lock()
		other := r.running[key]
		if other == nil {
			break
		}
		r.mu.Unlock()
		<-other
	}
	done := make(chan struct{})
	r.running[key] = done
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		delete(r.running, key)
		r.mu.Unlock()
		close(done)
	}
}

// sweepRequests removes answers from a vault's store that were kept long enough.
func (s *Server) sweepRequests(v *Vault) error {
	var old []blockstore.Mutation
	now := s.opts.Now()
	err := v.Store.Records(requestPrefix, "", func(key string, value []byte) bool {
		var q catalog.Request
		if err := catalog.DecodeJSON(value, &q); err != nil || q.Expired(now) {
			old = append(old, blockstore.Mutation{Key: key, Delete: true})
		}
		return len(old) < 1000
	})
	if err != nil || len(old) == 0 {
		return err
	}
	return v.Store.Apply(s.ctx, old...)
}
