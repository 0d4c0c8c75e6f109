// Package qemu is the Source of plain QEMU processes, those that no libvirt
// manages. It speaks to their monitors (package qmp) and never starts or stops
// a machine.
//
// # Descriptors
//
// A directory holds one file NAME.json per machine:
//
//	{
//	  "name":  "web1",                 its name; the machine's ID is made of it
//	  "qmp":   "/run/vm/web1.qmp",     -qmp unix:PATH,server=on,wait=off
//	  "agent": "/run/vm/web1.qga",     optional: the guest agent's channel
//	  "uuid":  "…"                     optional: instead of what QEMU says
//	}
//
// Relative paths are relative to the directory. A file that is wrong (a field
// that is not known, a name used twice) is a machine with a Problem that says so.
// A machine whose monitor nobody answers is off: QEMU's process is its life.
//
// Its disks are the block devices that are neither read-only, nor have removable
// media, nor are the firmware's flash memory. A disk's target is made of the
// device's id (-device …,id=), else the drive's, else the node's name, else
// vda, vdb, … by their order. The ids are what stays the same when disks come
// and go: give every disk one.
//
// # One monitor, one client
//
// QEMU serves one client of a monitor's socket at a time; who comes second waits
// without a word. So connections are short: Machines and Watch come, ask and go
// (Watch every few seconds, for without a connection there are no events), and
// share one connection if they meet. Only an open Snapshot stays connected, for
// it must be able to end at once when scratch space runs out. If other programs
// want to use a monitor at any time, give Cairn one of its own: QEMU takes more
// than one -qmp. A monitor that somebody else holds for more than a few seconds is
// a Problem of its machine.
//
// # Snapshot
//
//	nbd-server-start on a socket of the session; a scratch qcow2 per disk,
//	  blockdev-add with the disk as its backing
//	the guest is frozen (package live)
//	transaction, over all disks:
//	  block-dirty-bitmap-add of the new checkpoint, persistent in qcow2
//	  of an incremental also a disabled copy of the earlier checkpoint's bitmap
//	  blockdev-backup sync=none to the scratch: what the guest overwrites from
//	    now on is copied there before
//	the guest is thawed
//	block-export-add of the scratch, whose backing is the disk, and of the copy
//	  of the bitmap; read over NBD
//
// A QEMU process has one NBD server; if it runs already it is somebody's, and the
// machine is left alone (ErrMachineState).
//
// # Checkpoints
//
// The checkpoint cairn-0123456789abcdef is a dirty bitmap on every disk, called
// cairn-0123456789abcdef-SIZE after the disk's size in bytes. QEMU cuts a bitmap
// off when a disk shrinks and adds clean bits when it grows, so a bitmap of
// another size than the disk's says less than the truth: that disk is read in
// full. (Shrunk and grown again to its old size between two backups goes unseen
// here; the sample of unchanged blocks that backups read again is for that kind.)
//
// A disk is read in full, too, with a WarnTracking, if its bitmap is missing, is
// inconsistent (QEMU was killed), does not record, or is in use. Bitmaps of
// qcow2 disks survive the end of QEMU, those of other formats don't.
//
// The earlier checkpoint's bitmap goes on recording until the new one is kept, so
// a backup that fails takes nothing away from the next.
//
// # What can go wrong meanwhile
//
// QEMU 7.2, by experiment: when the scratch file cannot take what the guest wants
// to overwrite, blockdev-backup fails the guest's write (ENOSPC; by default the
// VM is stopped then) and the snapshot stays good. That is the wrong way round,
// and only the copy-before-write filter of its own has the choice (on-cbw-error),
// but it can be inserted only disk by disk, so that there is no one moment of all
// disks. Hence blockdev-backup, with the space watched: when less than
// Options.Reserve is left, the snapshot ends as source.ErrSnapshotSpace. Should a
// guest be stopped for lack of space all the same, the snapshot ends and the VM
// goes on; QEMU repeats the write then, and the guest has seen no error.
//
// A disk cannot be resized while its snapshot is open: QEMU refuses. When
// somebody ends our job, or QEMU ends, the snapshot is source.ErrSnapshotLost.
//
// # Leftovers
//
// All that is put into QEMU has a name that begins with the checkpoint's, which
// the session's record holds (package live). So what is left of it is found by
// asking QEMU, and each step of the clean-up can be repeated. If QEMU is gone,
// only a bitmap in a qcow2 can remain: its session then stays until the machine is
// there again, and the next snapshot removes it.
//
// There is no Restorer: a plain QEMU's machine is its command line, which is not
// ours to write. Disks are restored as disks.
//
// The package imports client/source and its guest, live and qmp packages;
// cmd/cairn makes it. It knows nothing of gRPC or the block store.
package qemu
