package catalog

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"google.golang.org/protobuf/proto"
)

// The first byte of a value.
const (
	kindProto  = 0x01
	kindJSON   = 0x02
	kindNumber = 0x03
	kindEmpty  = 0x04
)

// EncodeProto gives a message as a record's value. Equal messages have equal
// values. Vaults' stores use the same encoding for their records.
func EncodeProto(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{kindProto}, m)
}

// DecodeProto reads a value made by EncodeProto into m. The error matches
// ErrCorrupt.
func DecodeProto(value []byte, m proto.Message) error {
	if len(value) == 0 || value[0] != kindProto {
		return fmt.Errorf("%w: not a protobuf value", ErrCorrupt)
	}
	if err := proto.Unmarshal(value[1:], m); err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return nil
}

// EncodeJSON gives v as a record's value.
func EncodeJSON(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append([]byte{kindJSON}, b...), err
}

// DecodeJSON reads a value made by EncodeJSON into v. The error matches
// ErrCorrupt.
func DecodeJSON(value []byte, v any) error {
	if len(value) == 0 || value[0] != kindJSON {
		return fmt.Errorf("%w: not a JSON value", ErrCorrupt)
	}
	if err := json.Unmarshal(value[1:], v); err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return nil
}

// Reader reads records. Records that it gives are the caller's own.
type Reader struct{ r pebble.Reader }

// get decodes the record at key into what decode knows.
func (r Reader) get(key string, decode func([]byte) error) error {
	value, closer, err := r.r.Get([]byte(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	defer closer.Close()
	if err := decode(value); err != nil {
		return fmt.Errorf("catalog record %q: %w", key, err)
	}
	return nil
}

// scan calls fn for the records whose key begins with prefix, ascending from
// behind the key after ("" for the first), or descending from before it, until
// fn answers false.
func (r Reader) scan(prefix, after string, descending bool, fn func(key string, value []byte) (bool, error)) error {
	o := &pebble.IterOptions{LowerBound: []byte(prefix), UpperBound: prefixEnd(prefix)}
	switch {
	case after == "":
	case descending:
		o.UpperBound = []byte(after)
	default:
		o.LowerBound = append([]byte(after), 0)
	}
	it, err := r.r.NewIter(o)
	if err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	first, next := it.First, it.Next
	if descending {
		first, next = it.Last, it.Prev
	}
	for ok := first(); ok; ok = next() {
		value, err := it.ValueAndErr()
		if err != nil {
			break // Close tells it
		}
		more, err := fn(string(it.Key()), value)
		if err != nil {
			it.Close()
			return fmt.Errorf("catalog record %q: %w", it.Key(), err)
		}
		if !more {
			break
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	return nil
}

// prefixEnd is the first key behind all that begin with prefix, which ends in
// "/".
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

func getProto[T any, M interface {
	*T
	proto.Message
}](r Reader, key string) (M, error) {
	m := M(new(T))
	if err := r.get(key, func(b []byte) error { return DecodeProto(b, m) }); err != nil {
		return nil, err
	}
	return m, nil
}

func scanProto[T any, M interface {
	*T
	proto.Message
}](r Reader, prefix, after string, descending bool, fn func(M) bool) error {
	return r.scan(prefix, after, descending, func(_ string, b []byte) (bool, error) {
		m := M(new(T))
		if err := DecodeProto(b, m); err != nil {
			return false, err
		}
		return fn(m), nil
	})
}

func (t *Tx) putProto(key string, m proto.Message) error {
	b, err := EncodeProto(m)
	if err != nil {
		return fmt.Errorf("encode catalog record %q: %w", key, err)
	}
	return t.batch.Set([]byte(key), b, nil)
}

func (t *Tx) putJSON(key string, v any) error {
	b, err := EncodeJSON(v)
	if err != nil {
		return fmt.Errorf("encode catalog record %q: %w", key, err)
	}
	return t.batch.Set([]byte(key), b, nil)
}

func (t *Tx) delete(key string) error { return t.batch.Delete([]byte(key), nil) }

// Revision is the number that the last SetRevision stored; 0 if there was none.
func (r Reader) Revision() (n int64, err error) {
	err = r.get("meta/revision", func(b []byte) error {
		if len(b) != 9 || b[0] != kindNumber {
			return fmt.Errorf("%w: not a number", ErrCorrupt)
		}
		n = int64(binary.BigEndian.Uint64(b[1:]))
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return n, err
}

// SetRevision stores a number that no job's revision has passed.
func (t *Tx) SetRevision(n int64) error {
	return t.batch.Set([]byte("meta/revision"), binary.BigEndian.AppendUint64([]byte{kindNumber}, uint64(n)), nil)
}

// IDs are the ids of a resource name: every second part of it.
func IDs(name string) []string {
	parts := strings.Split(name, "/")
	out := make([]string, 0, 4)
	for i := 1; i < len(parts); i += 2 {
		out = append(out, parts[i])
	}
	return out
}

// All calls fn for every record, in the order of keys and as it is stored, until
// fn answers false: for tools and tests, which compare whole catalogs.
func (r Reader) All(fn func(key string, value []byte) bool) error {
	it, err := r.r.NewIter(nil)
	if err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil || !fn(string(it.Key()), value) {
			break // Close tells an error
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	return nil
}
