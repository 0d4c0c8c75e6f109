package server

import (
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"cairn/blockstore"
	"cairn/blockstore/block"
	pb "cairn/proto/cairn/v1"
	"cairn/server/catalog"
)

// A recovery point is a point of its vault's store: the id there is
// "item/point", so that the points of an item stand together, by time; its Meta
// is the pb.RecoveryPoint, without name and etag, which follow from where it
// stands and what it says, and without expire_time and retention_rule, which follow
// from the policy that its item has when it is read: see keeping.

// storeID is the point's id in its vault's store.
func (n PointName) storeID() string { return n.Item + "/" + n.Point }

// pointOfStore is the name of the point of that id in the vault's store.
func (n VaultName) pointOfStore(id string) PointName {
	item, point, _ := strings.Cut(id, "/")
	return PointName{ItemName{n, item}, point}
}

// encodePoint gives a point's Meta.
func encodePoint(p *pb.RecoveryPoint) ([]byte, error) {
	name, etag, expire, rule := p.Name, p.Etag, p.ExpireTime, p.RetentionRule
	p.Name, p.Etag, p.ExpireTime, p.RetentionRule = "", "", nil, 0
	defer func() { p.Name, p.Etag, p.ExpireTime, p.RetentionRule = name, etag, expire, rule }()
	return catalog.EncodeProto(p)
}

// decodePoint gives the point as it is stored, with its name and its etag.
func decodePoint(n PointName, meta []byte) (*pb.RecoveryPoint, error) {
	p := new(pb.RecoveryPoint)
	if err := catalog.DecodeProto(meta, p); err != nil {
		return nil, fmt.Errorf("recovery point %s: %w", n, err)
	}
	// Points were stored with what kept them, once: a date that somebody gave, or
	// the policy, whose rules look at the run.
	if p.RetentionRule == pb.RetentionRule_RETENTION_RULE_RETAIN_UNTIL && p.RetainUntil == nil {
		p.RetainUntil = p.ExpireTime
	} else if p.RetentionRule != pb.RetentionRule_RETENTION_RULE_UNSPECIFIED && p.ScheduleTime == nil {
		p.ScheduleTime = p.SnapshotTime
	}
	p.ExpireTime, p.RetentionRule = nil, pb.RetentionRule_RETENTION_RULE_UNSPECIFIED
	d := block.Sum(meta)
	p.Name, p.Etag = n.String(), hex.EncodeToString(d[:8])
	return p, nil
}

// point reads a recovery point as it is stored. Error: RECOVERY_POINT_NOT_FOUND.
func (v *Vault) point(n PointName) (*pb.RecoveryPoint, blockstore.Point, error) {
	sp, err := v.Store.Point(n.storeID())
	if errors.Is(err, blockstore.ErrNotFound) {
		return nil, sp, errPointNotFound(n)
	}
	if err != nil {
		return nil, sp, err
	}
	p, err := decodePoint(n, sp.Meta)
	return p, sp, err
}

// pointsBefore gives the most recent points of an item whose ids are below
// before ("" for all), newest first, at most n of them.
func (v *Vault) pointsBefore(item ItemName, before string, n int) ([]*pb.RecoveryPoint, error) {
	var ring []blockstore.Point // the store lists the oldest first
	seen := 0
	if err := v.Store.Points(item.Item+"/", "", func(p blockstore.Point) bool {
		if before != "" && p.ID >= (PointName{item, before}).storeID() {
			return false
		}
		if len(ring) < n {
			ring = append(ring, p)
		} else {
			ring[seen%n] = p
		}
		seen++
		return true
	}); err != nil {
		return nil, err
	}
	points := make([]*pb.RecoveryPoint, len(ring))
	for i := range points {
		sp := ring[(seen-1-i)%n]
		p, err := decodePoint(v.Name.pointOfStore(sp.ID), sp.Meta)
		if err != nil {
			return nil, err
		}
		points[i] = p
	}
	return points, nil
}

// pointOfJob finds the point of an item that a job made: how a job whose agent
// is lost turns out to be complete after all.
func (s *Server) pointOfJob(v *Vault, item ItemName, job string) (*pb.RecoveryPoint, bool) {
	// One backup of an item runs at a time, so it is among the newest few, unless
	// the client's clock is wrong.
	for _, most := range []int{4, 10000} {
		points, err := v.pointsBefore(item, "", most)
		if err != nil {
			s.log.Error("recovery points not read", "item", item.String(), "error", err)
			return nil, false
		}
		for _, p := range points {
			if p.Job == job {
				return p, true
			}
		}
		if len(points) < most {
			break
		}
	}
	return nil, false
}

// newPointID makes the id of a point: it sorts by the time of the snapshot, to
// the millisecond, and ends in three random characters: two points of an item
// that were made within a second must not change places.
func newPointID(t time.Time, rand io.Reader) (string, error) {
	var b [2]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("make a point id: %w", err)
	}
	t = t.UTC()
	tail := strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))[:3]
	return fmt.Sprintf("p%s-%03d%s", t.Format("20060102t150405"), t.Nanosecond()/1e6, tail), nil
}

// defaultRetention is how long a point is kept that somebody asked for without
// saying for how long.
const defaultRetention = 30 * 24 * time.Hour
