package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"cairn/blockstore"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

const (
	// usageEvery is how often the record of the present day is renewed at most.
	usageEvery = time.Hour
	// keepUsage is how long the days are kept, and how many can be asked for.
	keepUsage = 800
	// quickly is what the stored bytes of items may take to find out every hour.
	quickly = 2 * time.Second
)

// usageKey is the key of a day's record. Days are those of UTC, so that they are
// the same ones for all vaults and never of 23 or 25 hours.
func usageKey(t time.Time) string { return usagePrefix + t.UTC().Format(time.DateOnly) }

// usageDays checks the range of days that is asked for; from is zero if none is.
func (f *fields) usageDays(r *pb.GetVaultUsageRequest, now time.Time) (from, to time.Time) {
	from, to = f.time("start_time", r.StartTime), f.time("end_time", r.EndTime)
	if r.EndTime == nil {
		to = now
	}
	switch {
	case r.StartTime == nil:
		if r.EndTime != nil {
			f.add("start_time", "must be given with an end_time")
		}
	case len(f.violations) > 0:
	case from.After(to):
		f.add("start_time", "%s is after the end, %s", from.Format(time.RFC3339), to.Format(time.RFC3339))
	case to.After(from.AddDate(0, 0, keepUsage)):
		f.add("start_time", "%s is more than %d days before the end, %s", from.Format(time.RFC3339), keepUsage, to.Format(time.RFC3339))
	}
	return from, to
}

// usageDays reads the days from one time to another, oldest first.
func (v *Vault) usageDays(from, to time.Time) (days []*pb.VaultUsageDay, err error) {
	first, last := usageKey(from), usageKey(to)
	var bad error
	err = v.Store.Records(usagePrefix, "", func(key string, value []byte) bool {
		if key < first || key > last {
			return key <= last
		}
		d := new(pb.VaultUsageDay)
		if bad = catalog.DecodeProto(value, d); bad != nil {
			bad = fmt.Errorf("record %q: %w", key, bad)
			return false
		}
		days = append(days, d)
		return true
	})
	return days, errors.Join(err, bad)
}

// recordUsage is the chore that notes what vaults take: at the beginning of every
// day, and then again and again, so that the last state of the day stays.
func (s *Server) recordUsage(ctx context.Context, now time.Time) (next time.Time, err error) {
	for _, v := range s.vaults.all() {
		release, unavailable := v.use()
		if unavailable != nil {
			continue
		}
		if e := s.recordVaultUsage(ctx, v, now); e != nil {
			err = errors.Join(err, fmt.Errorf("usage of vault %s: %w", v.Name, e))
		}
		release()
	}
	next = now.UTC().Truncate(24*time.Hour).AddDate(0, 0, 1)
	if t := now.Add(usageEvery); t.Before(next) {
		next = t
	}
	return next, err
}

// dailyBytes is what items take, for the record of a day: found out if the day is
// new, or if that is quick, and else as it was last known.
func (s *Server) dailyBytes(ctx context.Context, v *Vault, fresh bool) map[string]blockstore.GroupUsage {
	known, took := v.bytes.latest()
	if !fresh && took > quickly {
		return known
	}
	wait, cancel := context.WithTimeout(ctx, quickly)
	defer cancel()
	if bytes, err := s.itemBytes(wait, v); err == nil {
		return bytes
	}
	return known // in an hour there may be more
}

func (s *Server) recordVaultUsage(ctx context.Context, v *Vault, now time.Time) error {
	key := usageKey(now)
	was, err := v.usageDays(now, now)
	if err != nil || len(was) > 0 && now.Sub(was[0].Time.AsTime()).Abs() < usageEvery {
		return err
	}
	d := &pb.VaultUsageDay{Time: timestamppb.New(now)}
	if d.StoredBytes, _, err = s.vaultBytes(ctx, v); err != nil {
		return err
	}
	if d.Items, err = v.itemUsages(s.dailyBytes(ctx, v, len(was) == 0)); err != nil {
		return err
	}
	for _, u := range d.Items {
		d.RecoveryPointCount += u.RecoveryPointCount
	}
	m, err := recordMutation(key, d)
	if err != nil {
		return err
	}
	muts := []blockstore.Mutation{m}
	if len(was) == 0 { // a new day
		oldest := usageKey(now.AddDate(0, 0, -keepUsage))
		if err := v.Store.Records(usagePrefix, "", func(key string, _ []byte) bool {
			if key < oldest {
				muts = append(muts, blockstore.Mutation{Key: key, Delete: true})
			}
			return key < oldest
		}); err != nil {
			return err
		}
	}
	return v.Store.Apply(ctx, muts...)
}
