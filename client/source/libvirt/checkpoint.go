package libvirt

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"cairn/client/source/libvirt/rpc"
	"cairn/client/source/live"
)

// readCheckpoint finds out about a checkpoint. With bitmaps, QEMU is asked which
// of them are in order.
func readCheckpoint(ctx context.Context, conn daemon, cp rpc.Checkpoint, bitmaps bool) (*checkpoint, error) {
	flags := rpc.CheckpointXMLNoDomain
	if bitmaps {
		flags |= rpc.CheckpointXMLSize
	}
	text, err := conn.CheckpointXMLDesc(ctx, cp, flags)
	if err != nil {
		return nil, err
	}
	var x checkpointXML
	if err := xml.Unmarshal([]byte(text), &x); err != nil {
		return nil, fmt.Errorf("XML of checkpoint %s: %w", cp.Name, err)
	}
	c := &checkpoint{name: cp.Name, sound: map[string]bool{}}
	// Other programs' descriptions are no such JSON, or of nobody we know.
	if json.Unmarshal([]byte(x.Description), &c.note) != nil {
		c.note = note{}
	}
	for _, k := range x.Disks {
		if k.Checkpoint == "bitmap" {
			c.sound[k.Name] = !bitmaps || k.Size != ""
		}
	}
	return c, nil
}

// startingPoint finds the checkpoint that changes are wanted since. Without one,
// missing says why. An error tells that the daemon does not answer.
func startingPoint(ctx context.Context, conn daemon, dom rpc.Domain, name string, goesOn bool) (c *checkpoint, missing string, err error) {
	if name == "" {
		if goesOn {
			missing = "changed blocks are not known: the last recovery point has no checkpoint (it was made while the VM was off, or without tracking)"
		}
		return nil, missing, nil
	}
	cp, err := conn.LookupCheckpoint(ctx, dom, name)
	if err == nil {
		if c, err = readCheckpoint(ctx, conn, cp, true); err != nil && !errors.Is(err, rpc.ErrDisconnected) {
			// What is wrong with it is found out when the job begins.
			c, err = readCheckpoint(ctx, conn, cp, false)
		}
	}
	switch {
	case err == nil:
		return c, "", nil
	case errors.Is(err, rpc.ErrDisconnected), ctx.Err() != nil:
		return nil, "", err
	case errors.Is(err, rpc.ErrNoCheckpoint):
		return nil, fmt.Sprintf("changed blocks are not known: the VM has no checkpoint %s any more (it was deleted, or the VM was defined anew)", name), nil
	}
	return nil, fmt.Sprintf("changed blocks are not known: checkpoint %s cannot be used: %v", name, err), nil
}

// prune deletes all checkpoints of a domain that are ours but keep and those of
// snapshots that are open. One that cannot be deleted now will be next time.
func (s *Source) prune(ctx context.Context, conn daemon, dom rpc.Domain, keep string) error {
	owner, err := s.ownerID()
	if err != nil {
		return err
	}
	list, err := conn.ListCheckpoints(ctx, dom, 0)
	if err != nil {
		return err
	}
	var errs []error
	for _, cp := range list {
		s.mu.Lock()
		used := s.open[cp.Name] || cp.Name == keep
		s.mu.Unlock()
		if used || !strings.HasPrefix(cp.Name, live.CheckpointPrefix) {
			continue
		}
		c, err := readCheckpoint(ctx, conn, cp, false)
		if err == nil && c.ours(owner) {
			err = deleteCheckpoint(ctx, conn, cp)
		}
		if err != nil && !errors.Is(err, rpc.ErrNoCheckpoint) {
			errs = append(errs, fmt.Errorf("delete checkpoint %s: %w", cp.Name, err))
		}
	}
	return errors.Join(errs...)
}

// deleteCheckpoint deletes a checkpoint with its bitmaps. libvirt deletes none of
// them if one is missing; then each is deleted by itself: the checkpoint is
// forgotten, and for each disk remembered and deleted with that disk alone.
func deleteCheckpoint(ctx context.Context, conn daemon, cp rpc.Checkpoint) error {
	err := conn.DeleteCheckpoint(ctx, cp, 0)
	switch {
	case err == nil, errors.Is(err, rpc.ErrNoCheckpoint):
		return nil
	case !errors.Is(err, rpc.ErrInternal) && !errors.Is(err, rpc.ErrCheckpointInconsistent) && !errors.Is(err, rpc.ErrOperationFailed):
		return err
	}
	text, err2 := conn.CheckpointXMLDesc(ctx, cp, rpc.CheckpointXMLNoDomain)
	definition := ""
	if err2 == nil {
		definition, err2 = conn.XMLDesc(ctx, cp.Domain, rpc.XMLSecure)
	}
	var x checkpointXML
	if err2 == nil {
		err2 = xml.Unmarshal([]byte(text), &x)
	}
	if err2 == nil {
		err2 = conn.DeleteCheckpoint(ctx, cp, rpc.CheckpointMetadataOnly)
	}
	if err2 != nil {
		return errors.Join(err, err2)
	}
	for i, k := range x.Disks {
		if k.Checkpoint != "bitmap" {
			continue
		}
		one, err := conn.CreateCheckpoint(ctx, cp.Domain, redefinition(x, i, definition), rpc.CheckpointRedefine)
		if err == nil {
			if err = conn.DeleteCheckpoint(ctx, one, 0); err != nil { // it is the missing one
				err = conn.DeleteCheckpoint(ctx, one, rpc.CheckpointMetadataOnly)
			}
		}
		if err != nil && !errors.Is(err, rpc.ErrNoCheckpoint) {
			return fmt.Errorf("bitmap of disk %s: %w", k.Name, err)
		}
	}
	return nil
}

// redefinition is the XML of a checkpoint as if it had been of one disk only.
func redefinition(x checkpointXML, disk int, definition string) string {
	one := checkpointXML{Name: x.Name, Description: x.Description, Created: x.Created}
	for i, k := range x.Disks {
		k.Size = ""
		if i != disk {
			k = checkpointDisk{Name: k.Name, Checkpoint: "no"}
		}
		one.Disks = append(one.Disks, k)
	}
	return strings.TrimSuffix(marshal(one), "</domaincheckpoint>") + definition + "</domaincheckpoint>"
}
