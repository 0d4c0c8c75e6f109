package rpc

import "context"

// Checkpoint is the handle of a checkpoint: a moment from which on a domain's
// disks keep track of what is written to them.
type Checkpoint struct {
	Name   string
	Domain Domain
}

// BackupFlags change BackupBegin.
type BackupFlags uint32

// BackupReuseExternal has files that exist used for scratch space.
const BackupReuseExternal BackupFlags = 1 << 0

// BackupBegin freezes an image of a domain's disks and, unless checkpointXML
// is "", makes a checkpoint of the same moment. The guest goes on. In pull
// mode the image is served by NBD until AbortJob. While another job holds the
// domain, such as a backup: ErrOperationTimeout, after 30 seconds. If the
// checkpoint that an incremental names is gone: ErrNoCheckpoint; if its bitmaps
// are not sound: ErrCheckpointInconsistent. If a scratch file exists already:
// ErrInvalidArg.
func (c *Conn) BackupBegin(ctx context.Context, dom Domain, backupXML, checkpointXML string, flags BackupFlags) error {
	a := args().domain(dom).str(backupXML).opt(checkpointXML).u32(uint32(flags))
	return c.call(ctx, procBackupBegin, dom.Name, a, nil)
}

// BackupXMLDesc returns the XML of the backup that is running, with what the
// daemon chose for what was left open; ErrNoBackup.
func (c *Conn) BackupXMLDesc(ctx context.Context, dom Domain) (xml string, err error) {
	err = c.call(ctx, procBackupXMLDesc, dom.Name, args().domain(dom).u32(0), func(d *decoder) { xml = d.str() })
	return xml, err
}

// CheckpointListFlags choose checkpoints; 0 is all of them.
type CheckpointListFlags uint32

const (
	CheckpointListRoots       CheckpointListFlags = 1 << 0 // without a parent
	CheckpointListTopological CheckpointListFlags = 1 << 1 // parents first
	CheckpointListLeaves      CheckpointListFlags = 1 << 2 // without children
)

// ListCheckpoints returns the checkpoints of a domain.
func (c *Conn) ListCheckpoints(ctx context.Context, dom Domain, flags CheckpointListFlags) (list []Checkpoint, err error) {
	err = c.call(ctx, procCheckpointListAll, dom.Name, args().domain(dom).u32(1).u32(uint32(flags)), func(d *decoder) {
		for range d.count(16384, 4+minDomain) {
			list = append(list, d.checkpoint())
		}
		d.i32()
	})
	return list, err
}

// LookupCheckpoint finds a checkpoint by its name; ErrNoCheckpoint.
func (c *Conn) LookupCheckpoint(ctx context.Context, dom Domain, name string) (cp Checkpoint, err error) {
	err = c.call(ctx, procCheckpointLookup, dom.Name, args().domain(dom).str(name).u32(0), func(d *decoder) { cp = d.checkpoint() })
	return cp, err
}

// CheckpointXMLFlags choose what XML of a checkpoint to get.
type CheckpointXMLFlags uint32

const (
	CheckpointXMLSecure   CheckpointXMLFlags = 1 << 0 // with passwords
	CheckpointXMLNoDomain CheckpointXMLFlags = 1 << 1 // without the XML of the domain
	CheckpointXMLSize     CheckpointXMLFlags = 1 << 2 // with how many bytes have changed since; the domain must run
)

// CheckpointXMLDesc returns the XML of a checkpoint.
func (c *Conn) CheckpointXMLDesc(ctx context.Context, cp Checkpoint, flags CheckpointXMLFlags) (xml string, err error) {
	err = c.call(ctx, procCheckpointXMLDesc, cp.Name, args().checkpoint(cp).u32(uint32(flags)), func(d *decoder) { xml = d.str() })
	return xml, err
}

// CheckpointCreateFlags change CreateCheckpoint.
type CheckpointCreateFlags uint32

const (
	CheckpointRedefine CheckpointCreateFlags = 1 << 0 // the bitmaps exist: remember it
	CheckpointQuiesce  CheckpointCreateFlags = 1 << 1 // freeze the guest's file systems for it
	// CheckpointRedefineValidate, with CheckpointRedefine, checks the bitmaps
	// too; the domain must run.
	CheckpointRedefineValidate CheckpointCreateFlags = 1 << 2
)

// CreateCheckpoint makes a checkpoint without a backup.
func (c *Conn) CreateCheckpoint(ctx context.Context, dom Domain, xml string, flags CheckpointCreateFlags) (cp Checkpoint, err error) {
	a := args().domain(dom).str(xml).u32(uint32(flags))
	err = c.call(ctx, procCheckpointCreateXML, dom.Name, a, func(d *decoder) { cp = d.checkpoint() })
	return cp, err
}

// CheckpointDeleteFlags change DeleteCheckpoint.
type CheckpointDeleteFlags uint32

const (
	CheckpointChildren     CheckpointDeleteFlags = 1 << 0 // its children too
	CheckpointMetadataOnly CheckpointDeleteFlags = 1 << 1 // forget it; the bitmaps stay
	CheckpointChildrenOnly CheckpointDeleteFlags = 1 << 2 // its children, not itself
)

// DeleteCheckpoint deletes a checkpoint. What it tracked, its parent tracks
// from then on. If the domain is not active, only metadata can be deleted:
// ErrOperationUnsupported.
func (c *Conn) DeleteCheckpoint(ctx context.Context, cp Checkpoint, flags CheckpointDeleteFlags) error {
	return c.call(ctx, procCheckpointDelete, cp.Name, args().checkpoint(cp).u32(uint32(flags)), nil)
}
