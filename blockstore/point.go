package blockstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"cairn/blockstore/block"
	"cairn/blockstore/diskmap"
)

// Point is a recovery point as the store knows it: roots, from which all its
// blocks are reached. It never changes but for Meta.
type Point struct {
	ID    string // UTF-8, at most 1 KiB; points are listed in its byte order
	Disks []Disk // at most 4096
	Meta  []byte // the server's, at most 1 MiB; opaque to the store
}

// Disk is one disk of a point.
type Disk struct {
	Name string // UTF-8, at most 1 KiB, unique in the point
	Map  diskmap.Map
}

// Mutation changes one of the vault's small records: its policies, protected
// items and the like, which the store keeps and does not understand.
type Mutation struct {
	Key    string // UTF-8, at most 1 KiB
	Value  []byte // at most 1 MiB
	Delete bool   // instead of setting Value; of no effect if there is no such record
}

func checkMutations(muts []Mutation) error {
	for _, m := range muts {
		if err := checkName("record key", m.Key); err != nil {
			return err
		}
		if len(m.Value) > maxValue {
			return fmt.Errorf("%w: record %s of %d bytes, at most %d allowed", ErrInvalid, m.Key, len(m.Value), maxValue)
		}
	}
	return nil
}

func mutate(b *pebble.Batch, muts []Mutation) error {
	for _, m := range muts {
		var err error
		if k := spaceKey(recordSpace, m.Key); m.Delete {
			err = b.Delete(k, nil)
		} else {
			err = b.Set(k, m.Value, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Commit flushes, checks that the roots of all disks are there, and then makes
// the point and the mutations durable and visible at once. ErrExists: the id is
// taken. After an error the upload is still open, and nothing is visible; but
// after ErrFailed it may turn out to be when the store is opened again.
func (u *Upload) Commit(ctx context.Context, p Point, muts ...Mutation) error {
	if err := u.enter(); err != nil {
		return err
	}
	defer u.s.leave()
	if err := u.commit(ctx, p, muts); err != nil {
		return fmt.Errorf("commit point %s: %w", p.ID, err)
	}
	u.s.made.Add(1)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.close()
	return nil
}

func (u *Upload) commit(ctx context.Context, p Point, muts []Mutation) error {
	if err := errors.Join(p.check(u.s.format.blockSize), checkMutations(muts)); err != nil {
		return err
	}
	if err := u.flush(ctx); err != nil {
		return err
	}
	for _, d := range p.Disks {
		if err := u.checkRoot(d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	return u.s.update(u.s.o.MinFree/2, func(b *pebble.Batch, _ *state) error {
		if _, err := u.s.get(pointSpace, p.ID); err == nil {
			return ErrExists
		} else if !errors.Is(err, ErrNotFound) {
			return err
		}
		if err := b.Set(spaceKey(pointSpace, p.ID), appendPoint(nil, p), nil); err != nil {
			return err
		}
		return mutate(b, muts)
	})
}

// checkRoot pins a disk's root, which must be a stored page. That suffices, see
// checkChildren.
func (u *Upload) checkRoot(d Disk) error {
	if d.Map.Root == block.Zero {
		return nil
	}
	u.s.pins.RLock()
	defer u.s.pins.RUnlock()
	es, err := u.s.lookupAlive([]block.Digest{d.Map.Root})
	if err != nil {
		return err
	}
	if es[0].id == 0 || !es[0].page {
		return fmt.Errorf("%w: root page %s", ErrBlockMissing, d.Map.Root)
	}
	u.pin(d.Map.Root, es[0])
	return nil
}

// hold keeps a point's blocks, whether or not the point is deleted.
type hold struct{ point Point }

// HoldPoint keeps everything that a point needs until release is called, even
// if the point is deleted meanwhile: for who reads from it. Holds live in memory.
func (s *Store) HoldPoint(id string) (release func(), err error) {
	h, err := s.hold(id)
	if err != nil {
		return nil, err
	}
	return func() { s.drop(h) }, nil
}

func (s *Store) drop(h *hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, h)
}

func (s *Store) hold(id string) (*hold, error) {
	s.pins.RLock() // a sweep that does not see the point sees the hold
	defer s.pins.RUnlock()
	p, err := s.Point(id)
	if err != nil {
		return nil, err
	}
	h := &hold{p}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[h] = struct{}{}
	return h, nil
}

// PinPoint is HoldPoint for as long as the upload is open: the new point may
// use every page of the old one.
func (u *Upload) PinPoint(_ context.Context, pointID string) error {
	if err := u.enter(); err != nil {
		return err
	}
	defer u.s.leave()
	h, err := u.s.hold(pointID)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.holds = append(u.holds, h)
	return nil
}

// get reads a record; ErrNotFound if there is none.
func (s *Store) get(space byte, name string) ([]byte, error) {
	v, closer, err := s.index.Get(spaceKey(space, name))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, s.readError(err)
	}
	defer closer.Close()
	return append([]byte{}, v...), nil
}

// scan calls fn for the records of a space whose names have the prefix and come
// after after, in order, as they are at this moment, until it returns false.
func (s *Store) scan(space byte, prefix, after string, fn func(name string, value []byte) (bool, error)) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	lower := spaceKey(space, prefix)
	if a := spaceKey(space, after+"\x00"); after != "" && string(a) > string(lower) {
		lower = a
	}
	it, err := s.index.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: []byte{space + 1}})
	if err != nil {
		return s.readError(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		name := string(it.Key()[1:])
		if !strings.HasPrefix(name, prefix) {
			break
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return s.readError(err)
		}
		if more, err := fn(name, v); err != nil || !more {
			return err
		}
	}
	return s.readError(it.Error())
}

// Point returns a point; ErrNotFound if there is none of that id.
func (s *Store) Point(id string) (Point, error) {
	if err := s.enter(); err != nil {
		return Point{}, err
	}
	defer s.leave()
	v, err := s.get(pointSpace, id)
	if err != nil {
		return Point{}, fmt.Errorf("point %s: %w", id, err)
	}
	return parsePoint(id, v)
}

// Points calls fn, until it returns false, for the points whose ids have the
// prefix and come after after, in order. It sees the store at one moment; fn may
// call it.
func (s *Store) Points(prefix, after string, fn func(Point) bool) error {
	return s.scan(pointSpace, prefix, after, func(id string, v []byte) (bool, error) {
		p, err := parsePoint(id, v)
		return err == nil && fn(p), err
	})
}

// DeletePoint removes a point and makes the mutations, at once. Its blocks stay
// until space is reclaimed.
func (s *Store) DeletePoint(_ context.Context, id string, muts ...Mutation) error {
	err := s.change("delete point "+id, muts, func(b *pebble.Batch) error {
		if _, err := s.get(pointSpace, id); err != nil {
			return err
		}
		return b.Delete(spaceKey(pointSpace, id), nil)
	})
	if err == nil {
		s.deleted.Add(1)
	}
	return err
}

// DeletePoints removes points, those of them that are there, and makes the
// mutations, at once.
func (s *Store) DeletePoints(_ context.Context, ids []string, muts ...Mutation) error {
	err := s.change(fmt.Sprintf("delete %d points", len(ids)), muts, func(b *pebble.Batch) error {
		for _, id := range ids {
			if err := b.Delete(spaceKey(pointSpace, id), nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.deleted.Add(uint64(len(ids)))
	}
	return err
}

// UpdatePoint replaces a point's Meta and makes the mutations, at once.
func (s *Store) UpdatePoint(_ context.Context, id string, meta []byte, muts ...Mutation) error {
	return s.change("update point "+id, muts, func(b *pebble.Batch) error {
		v, err := s.get(pointSpace, id)
		if err != nil {
			return err
		}
		p, err := parsePoint(id, v)
		if err != nil {
			return err
		}
		p.Meta = meta
		if err := p.check(s.format.blockSize); err != nil {
			return err
		}
		return b.Set(spaceKey(pointSpace, id), appendPoint(nil, p), nil)
	})
}

// Record returns the value of a record; ErrNotFound if there is none.
func (s *Store) Record(key string) ([]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	v, err := s.get(recordSpace, key)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", key, err)
	}
	return v, nil
}

// Records is Points for records. value is valid until fn returns.
func (s *Store) Records(prefix, after string, fn func(key string, value []byte) bool) error {
	return s.scan(recordSpace, prefix, after, func(key string, v []byte) (bool, error) { return fn(key, v), nil })
}

// Apply makes mutations durable and visible, all at once.
func (s *Store) Apply(_ context.Context, muts ...Mutation) error {
	return s.change("change records", muts, func(*pebble.Batch) error { return nil })
}

// change is a batch for which even the last reserve may be used: deleting is
// what helps when the disk is full.
func (s *Store) change(what string, muts []Mutation, fn func(*pebble.Batch) error) error {
	if err := s.enterWrite(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer s.leave()
	err := checkMutations(muts)
	if err == nil {
		err = s.update(s.o.MinFree/4, func(b *pebble.Batch, _ *state) error {
			if err := fn(b); err != nil {
				return err
			}
			return mutate(b, muts)
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
