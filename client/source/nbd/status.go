package nbd

import (
	"context"
	"fmt"
	"slices"
)

// Status is what a metadata context says of a range of the export.
type Status struct {
	Offset, Length int64 // bytes
	Flags          uint32
}

// status is one descriptor of a block status reply.
type status struct{ length, flags uint32 }

// Walk asks a metadata context about [off, off+length) and calls fn with what
// it says: extents that cover the range exactly, ascending, neighbours with
// different flags. An error of fn ends the walk and is returned as it is.
func (c *Client) Walk(ctx context.Context, name string, off, length int64, fn func(Status) error) error {
	if err := c.inside("block status", off, length); err != nil {
		return err
	}
	if !slices.Contains(c.info.Contexts, name) {
		return fmt.Errorf("nbd: block status: %w: %s", ErrNoContext, name)
	}
	if length == 0 {
		return nil
	}
	end := off + length
	run := Status{Offset: off} // what was not handed on yet
	for at := off - off%c.info.MinBlock; at < end; {
		// The export's size is a multiple of MinBlock, so this stays inside.
		ask := min(end-at, maxRange)
		ask = min((ask+c.info.MinBlock-1)&^(c.info.MinBlock-1), c.info.Size-at)
		r := &request{cmd: cmdBlockStatus, offset: uint64(at), length: uint32(ask)}
		if err := c.do(ctx, r); err != nil {
			return err
		}
		list := r.statuses[name]
		if len(list) == 0 {
			return fmt.Errorf("nbd: block status: %w", violation("no word on %s", name))
		}
		// The server may say less than was asked, and its last extent may
		// reach beyond.
		limit := at + ask
		for _, s := range list {
			next := min(at+int64(s.length), limit)
			if at = next; at <= off {
				continue // before the range, for alignment
			}
			if run.Length > 0 && run.Flags != s.flags {
				if err := fn(run); err != nil {
					return err
				}
				run = Status{Offset: run.Offset + run.Length}
			}
			run.Flags = s.flags
			run.Length = min(at, end) - run.Offset
			if at >= min(limit, end) {
				break
			}
		}
		if at < end && at%c.info.MinBlock != 0 {
			return fmt.Errorf("nbd: block status: %w", violation("extents end at %d, inside a block", at))
		}
	}
	return fn(run)
}
