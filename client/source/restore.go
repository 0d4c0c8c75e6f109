package source

import (
	"context"
	"io"
)

// Restorer is a Source to whose hypervisor whole machines can be restored.
type Restorer interface {
	// PrepareRestore checks that a restore can be done and makes ready for it.
	// Nothing that exists was changed when it returns: Abort leaves everything
	// as it was. ctx governs the whole restore.
	//
	// Errors: ErrRestoreUnsupported, ErrTargetExists, ErrMachineState (a restore
	// in place of a machine that runs), ErrMachineNotFound, ErrNoSpace,
	// ErrHypervisor, ErrToolMissing.
	PrepareRestore(ctx context.Context, spec RestoreSpec) (Restore, error)

	// StopMachine shuts a machine down, by force if it does not go by itself, and
	// returns when it is off. was tells whether it was running.
	StopMachine(ctx context.Context, machineID string) (was bool, err error)
	// StartMachine starts a machine that is off.
	StartMachine(ctx context.Context, machineID string) error
}

// RestoreSpec describes the restore of a machine.
type RestoreSpec struct {
	// ID names the restore in files under way; the same syntax as Machine.ID.
	ID string
	// Definition, DefinitionKind and StateFiles are as in SnapshotInfo.
	Definition     []byte
	DefinitionKind string
	StateFiles     []StateFile
	// Disks are those that the point holds. Disks of the definition that it does
	// not hold (they were excluded) are left out of a new machine, and left as
	// they are in place.
	Disks []RestoreDisk
	// New makes a new machine; nil restores MachineID in place.
	New *NewMachine
	// MachineID of a restore in place. The machine must be off. If it does not
	// exist any more, it is defined as it was.
	MachineID string
}

// RestoreDisk describes a disk to be restored.
type RestoreDisk struct {
	Target string
	// Path and Format are what the disk had when it was backed up.
	Path, Format string
	// Size and Data are bytes: of the disk, and of that what holds data.
	Size, Data int64
}

// NewMachine says what becomes of a machine that is restored beside the old one.
type NewMachine struct {
	// Title is its name; must not be taken.
	Title string
	// Directory for its disks; "" means where the old ones were.
	Directory string
}

// Restore is a restore under way. Its calls come in this order: Disk for every
// disk, whose writers are written and closed by Commit of this interface, then
// Commit; or Instant, then Settle. Abort may come at any time, and after the end
// does nothing.
type Restore interface {
	// Machine is the ID that the machine has or will have, and Paths are where
	// its disks will be, by target.
	Machine() string
	Paths() map[string]string
	// Warnings are what the user should know, as in SnapshotInfo.
	Warnings() []Warning

	// Disk gives the writer of a disk. Commit of a writer makes it durable, under
	// a name that is not yet the final one where there is something to replace.
	Disk(ctx context.Context, target string) (DiskWriter, error)
	// Commit puts the disks that were committed in their places, writes the state
	// files, defines the machine, and starts it if start is set. In place, the
	// old disks are kept until the new ones are complete and in use; a failure
	// brings them back.
	Commit(ctx context.Context, start bool) error

	// Instant defines and starts the new machine on local overlays over disks
	// that are read from elsewhere.
	Instant(ctx context.Context, disks map[string]Backing) error
	// Settle moves the data of all disks into the overlays while the machine
	// runs, and returns when nothing is read from the backings any more. progress
	// is called with bytes done and in all.
	Settle(ctx context.Context, progress func(done, total int64)) error

	// Abort removes everything that the restore made: a new machine is stopped
	// and undefined, its files are removed; in place, everything stays as it was.
	Abort() error
}

// Releaser is a Restore whose instant machine can do without this process for a
// while: see Release.
type Releaser interface {
	// Release ends the restore without undoing it. An instant machine whose data
	// has not all been moved in stays, and waits for what it reads from elsewhere
	// until the same restore is prepared again, by whichever process, and goes on.
	// Anything else is aborted.
	Release() error
}

// Backing is the contents of a disk that is not on the host yet.
type Backing interface {
	io.ReaderAt
	Size() int64
}
