package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Source is a place where machines with disks are found. All methods are safe
// for concurrent use.
type Source interface {
	// Machines discovers what is there now, sorted by ID. A machine that
	// cannot be backed up is listed with its Problem; an error means that
	// discovery as a whole failed.
	Machines(ctx context.Context) ([]Machine, error)

	// Watch calls changed once it watches, and then whenever something
	// happened that may make Machines answer differently: several changes in
	// quick succession are one call. Calls never overlap. So a caller that
	// lists the machines in changed misses nothing. Watch blocks until ctx is
	// done and returns nil then; any other return is an error and ends the
	// watch.
	Watch(ctx context.Context, changed func()) error

	// Snapshot takes one consistent picture of all disks of a machine but the
	// excluded ones. ctx governs the snapshot's whole life: when it is
	// cancelled, reads in flight and later ones fail with ctx's error. Close
	// is needed all the same.
	//
	// Errors: ErrMachineNotFound, ErrUnusable, ErrInUse, ErrCorrupt,
	// ErrToolMissing, ErrMachineState, ErrHypervisor, ErrSnapshotSpace,
	// *ConsistencyError.
	Snapshot(ctx context.Context, machineID string, o SnapshotOptions) (Snapshot, error)
}

// Machine is one VM as discovered.
type Machine struct {
	// ID matches ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ and stays the same for as
	// long as the machine keeps its name.
	ID string
	// Title is the machine's name as its owner wrote it.
	Title string
	// HypervisorID is the identity that the hypervisor gives it (a UUID), or "".
	HypervisorID string
	State        State
	// Agent says whether the agent inside the guest can be reached.
	Agent AgentState
	// GuestOS is what is known of the guest's system ("Debian GNU/Linux 12"),
	// or "".
	GuestOS string
	Disks   []Disk
	// Problem says why the machine as a whole cannot be backed up and what to
	// do about it; "" when it can. A machine one of whose disks has a Problem
	// has one too, but can still be backed up without that disk.
	Problem string
}

// Disk describes one disk of a machine.
type Disk struct {
	// Target names the disk and is unique in its machine ("vda"); it has the
	// same syntax as Machine.ID.
	Target string
	// Path is where the disk is on the host.
	Path string
	// Format is QEMU's name of the image format: raw, qcow2, vmdk, vhdx, vpc, …
	Format string
	// Size is the number of bytes the guest sees; 0 when a Problem hides it.
	Size int64
	// Allocated is the number of bytes that the disk takes on the host now. It
	// estimates the data on it, and can be more (metadata, snapshots inside a
	// qcow2) or less (compressed qcow2).
	Allocated int64
	// Problem says why this disk cannot be read, or is "".
	Problem string
}

// State says whether a machine runs.
type State int

const (
	StateUnknown State = iota // an image file: nobody knows
	StateRunning
	StatePaused
	StateStopped
	StateCrashed // it stands still after a fault of the guest or of its storage
)

func (s State) String() string {
	switch s {
	case StateUnknown:
		return "unknown"
	case StateRunning:
		return "running"
	case StatePaused:
		return "paused"
	case StateStopped:
		return "stopped"
	case StateCrashed:
		return "crashed"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// AgentState says whether the agent inside a guest can be reached.
type AgentState int

const (
	AgentUnknown       AgentState = iota // not asked: an image, or the machine is off
	AgentNotConfigured                   // the machine has no channel for one
	AgentConnected
	AgentUnreachable
)

// Consistency is what a snapshot's disks can be trusted to hold.
type Consistency int

const (
	// CrashConsistent disks are as after a power cut: the guest took no part.
	CrashConsistent Consistency = iota
	// FileSystemConsistent disks were taken with the guest's file systems frozen.
	FileSystemConsistent
	// ApplicationConsistent disks were taken with the guest's applications
	// (VSS writers, pre/post scripts) quiesced too.
	ApplicationConsistent
)

func (c Consistency) String() string {
	switch c {
	case CrashConsistent:
		return "crash consistent"
	case FileSystemConsistent:
		return "file-system consistent"
	case ApplicationConsistent:
		return "application consistent"
	}
	return fmt.Sprintf("Consistency(%d)", int(c))
}

// SnapshotOptions says what to take.
type SnapshotOptions struct {
	// Exclude lists targets of disks to leave out. Naming a disk that the
	// machine does not have is allowed: disks come and go.
	Exclude []string
	// Since is the SnapshotInfo.Checkpoint of an earlier snapshot that was
	// kept: a source that tracks changed blocks then limits Extents to what
	// changed since. "" asks for everything. A source that cannot honour it
	// gives everything, says so by SnapshotDisk.Incremental, and why by a
	// Warning.
	Since string
	// Continues tells that there is an earlier snapshot on which the caller
	// builds, whether it has a checkpoint or not. Without one, that everything
	// has to be read is no news.
	Continues bool
	// Minimum is the consistency below which the snapshot is not to be taken:
	// the answer is then a *ConsistencyError.
	Minimum Consistency
}

// Snapshot is a machine's disks at one moment.
type Snapshot interface {
	Info() SnapshotInfo

	// Disks are in the order of Machine.Disks.
	Disks() []SnapshotDisk

	// Check tells whether the disks are still what they were when the
	// snapshot was taken: nil, or an error that names every disk concerned and
	// wraps either ErrChanged (an image file was written to meanwhile: what was
	// read may mix moments) or ErrTruncated (what was read may be zeros that
	// were never on the disk: it is worth nothing). Call it after everything
	// was read. A source whose snapshots cannot change always returns nil.
	Check(ctx context.Context) error

	// Keep makes Info().Checkpoint valid as SnapshotOptions.Since later. Call
	// it once what was read is safely stored, before Close; a snapshot closed
	// without it leaves the earlier checkpoint in force. A source without
	// changed-block tracking does nothing.
	Keep(ctx context.Context) error

	// Close closes the disks and releases everything. It is idempotent, may be
	// called while reads are in flight (they fail), and leaves no process,
	// socket or scratch file.
	Close() error
}

// SnapshotInfo describes a snapshot.
type SnapshotInfo struct {
	// Machine is the machine at that moment, with all its disks, also the
	// excluded ones.
	Machine     Machine
	Time        time.Time
	Consistency Consistency
	// FrozenFor is how long the guest's file systems stood still; 0 when they
	// were not frozen.
	FrozenFor time.Duration
	// Warnings are for the user: what is less good than it could be.
	Warnings []Warning
	// Checkpoint names this moment for SnapshotOptions.Since, or is "" when the
	// source does not track changes.
	Checkpoint string
	// Definition is the machine's configuration in the source's own form
	// (libvirt: the domain's XML) and DefinitionKind names that form by a media
	// type. Both are empty for image files.
	Definition     []byte
	DefinitionKind string
	// StateFiles are the files beside its disks that the machine cannot do
	// without, as they were at that moment.
	StateFiles []StateFile
}

// StateFile is a small file that belongs to a machine: it is held in memory.
type StateFile struct {
	// Name tells the files of a machine apart and has the syntax of Disk.Target;
	// it is none of the machine's disks' ("nvram", "tpm-0").
	Name string
	Kind StateKind
	// Path is where the file is on the host.
	Path string
	Data []byte
}

// StateKind is what a StateFile is.
type StateKind int

const (
	StateNVRAM StateKind = iota // variables of the UEFI firmware
	StateTPM                    // a file of the emulated TPM's state
)

// Warning is something that went not quite as asked.
type Warning struct {
	Kind WarningKind
	// Text is a sentence for the user, with the values concerned.
	Text string
}

// WarningKind says what a Warning is about.
type WarningKind int

const (
	WarnSnapshot     WarningKind = iota // anything else about the snapshot
	WarnAgent                           // the guest agent does not answer
	WarnFreeze                          // the guest's file systems would not freeze
	WarnVSS                             // a VSS writer of the guest failed
	WarnGuest                           // the guest's system is none of those supported
	WarnMachineState                    // the machine is paused or has crashed
	WarnTracking                        // changed blocks are not known: all is read
	WarnRestore                         // a restored machine is not in all what it was
)

// SnapshotDisk is one disk of a snapshot. ReadAt and Extents may be called
// from many goroutines at once.
type SnapshotDisk interface {
	// ReadAt reads the bytes that the guest sees, as io.ReaderAt: a read that
	// reaches the end returns what there is with io.EOF. It never makes up
	// bytes: a disk that became shorter gives ErrTruncated.
	io.ReaderAt

	Info() Disk

	// Incremental tells whether Extents is limited to what changed since
	// SnapshotOptions.Since.
	Incremental() bool

	// Distrust makes the disk a full one: from then on Incremental is false and
	// Extents tells all that holds data. Called when the tracking of changes was
	// caught with a mistake. It must not run together with Extents. On a full
	// disk it does nothing.
	Distrust()

	// Extents calls fn with the disk's extents, ascending, not overlapping,
	// not empty, aligned to nothing. An error of fn ends the walk and is
	// returned as it is.
	//
	// Of a full disk (Incremental false) they are the ranges that hold data;
	// all that is not mentioned reads as zeros, and Extent.Zero is never set.
	// Of an incremental one they are the ranges that changed; all that is not
	// mentioned is as it was, and Extent.Zero marks what now reads as zeros.
	Extents(ctx context.Context, fn func(Extent) error) error

	// Close releases this disk ahead of the snapshot. It is idempotent.
	Close() error
}

// Extent is a range of a disk, in bytes.
type Extent struct {
	Offset, Length int64
	// Zero says that the range reads as zeros and need not be read.
	Zero bool
}

// Errors that callers tell apart; every one returned is wrapped with the path
// or machine concerned and what to do.
var (
	// ErrMachineNotFound: the source has no machine of that ID (any more).
	ErrMachineNotFound = errors.New("machine not found")
	// ErrUnusable: the machine or disk was found but cannot be read as it is;
	// the text is its Problem.
	ErrUnusable = errors.New("cannot be backed up")
	// ErrInUse: another process holds the image in a way that makes reading
	// unsafe.
	ErrInUse = errors.New("image is in use")
	// ErrCorrupt: the image's own structure is damaged.
	ErrCorrupt = errors.New("image is corrupt")
	// ErrTruncated: an image became shorter than it was when the snapshot was
	// taken.
	ErrTruncated = errors.New("image was truncated")
	// ErrChanged: an image was written to while it was being read.
	ErrChanged = errors.New("image was written to while it was read")
	// ErrToolMissing: an external program is not installed; the text names the
	// package.
	ErrToolMissing = errors.New("required program is not installed")
	// ErrTargetExists: a restore would overwrite a file.
	ErrTargetExists = errors.New("target exists")
	// ErrNoSpace: the file system cannot take what is to be written.
	ErrNoSpace = errors.New("not enough space")
	// ErrMachineState: the machine is in a state that does not allow it.
	ErrMachineState = errors.New("machine is in the wrong state")
	// ErrHypervisor: libvirtd, or a QEMU's monitor, does not answer.
	ErrHypervisor = errors.New("hypervisor does not answer")
	// ErrSnapshotSpace: the host has no room for what the guest overwrites while
	// its snapshot is read.
	ErrSnapshotSpace = errors.New("no space for the snapshot")
	// ErrSnapshotLost: the snapshot does not exist any more: the machine was
	// stopped or started, or somebody ended the hypervisor's backup job. A new
	// snapshot can be taken.
	ErrSnapshotLost = errors.New("snapshot is lost")
	// ErrDisconnected: the connection to the snapshot broke. The snapshot may
	// still be there: a later read connects anew.
	ErrDisconnected = errors.New("connection to the snapshot broke")
	// ErrRestoreUnsupported: the source, or the definition that was saved, does
	// not allow this kind of restore.
	ErrRestoreUnsupported = errors.New("restore is not possible this way")
)

// ConsistencyError says that a snapshot would be less consistent than was asked
// for, and why.
type ConsistencyError struct {
	Reached, Wanted Consistency
	// Causes are what kept it from being better; there may be none, when the
	// machine is off.
	Causes []Warning
}

func (e *ConsistencyError) Error() string {
	text := fmt.Sprintf("the snapshot would be %s, %s is wanted", e.Reached, e.Wanted)
	for i, c := range e.Causes {
		if i == 0 {
			text += ": "
		} else {
			text += "; "
		}
		text += c.Text
	}
	return text
}

// Cleaner is a Source whose snapshots can leave something behind on host and
// guest when this process is killed: a frozen guest, a block job, scratch files,
// a checkpoint.
type Cleaner interface {
	// CleanUp removes what an earlier process left, but not what another one that
	// lives is still using. It thaws guests first. Of a checkpoint that was being
	// made it asks committed whether a recovery point was made with it before
	// that process died: then it stays. An error of committed leaves that
	// checkpoint for the next time. CleanUp is called again until it returns nil.
	CleanUp(ctx context.Context, committed func(ctx context.Context, machineID, checkpoint string) (bool, error)) error
}
