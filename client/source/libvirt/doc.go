// Package libvirt is the Source of the domains of a libvirt daemon: machines that
// run are snapshotted while they run, incrementally, and restored whole.
//
//	s, err := libvirt.New(libvirt.Options{URI: "qemu:///system"})
//	…
//	machines, err := s.Machines(ctx)
//	snap, err := s.Snapshot(ctx, "web1", source.SnapshotOptions{})
//
// # Which domains and disks
//
// Every domain is a machine, persistent or transient, running or not. Its id is
// made of its name; two domains whose names give one id are a Problem of both.
// Disks are its devices of kind disk and lun. CD and floppy drives are none.
//
//   - A read-only disk is backed up in full each time.
//   - So is a shareable one: what other machines write to it is in no bitmap of
//     this one, and a snapshot of one machine's disks does not stop them, which
//     a warning tells.
//   - So is a transient one, of which the snapshot holds what the guest sees.
//   - A disk on the network is read through its QEMU, so only while it runs.
//   - vhost-user and vDPA disks pass QEMU's block layer by: they have a Problem.
//
// # A snapshot of a running machine
//
//	session record → freeze → ONE backup job in pull mode, with a checkpoint,
//	for all disks → thaw → read over NBD → Keep → Close
//
// The backup job (virDomainBackupBegin) makes the point in time of all disks in
// one QEMU transaction: one disk takes some 100 ms, 33 take a second or so. What
// the guest overwrites while the snapshot is read goes to scratch files first.
// Socket and scratch files lie in a directory in the session's that belongs to
// QEMU's user, because QEMU itself binds the socket. Every directory above must
// let that user pass. Where AppArmor or SELinux confines QEMU, its profile must
// allow it to create sockets and files there; for AppArmor this is a line
//
//	/var/lib/cairn/agent/libvirt/** rwk,
//
// in /etc/apparmor.d/local/abstractions/libvirt-qemu, for SELinux a type that
// svirt_t may write (semanage fcontext, restorecon).
//
// Disks in qcow2 of version 3 are tracked. A checkpoint is a persistent bitmap in
// each of them, which QEMU saves when it ends in good order, so it survives
// shutdowns of guest and host, and not a crash of QEMU: then it is marked
// inconsistent and the next backup reads everything. Each of libvirt's
// checkpoints is a bitmap of its own that records all the time, so that those
// of other programs before, after or between ours make no difference.
//
// A checkpoint's description holds who made it and how large the disks were: by
// that, only checkpoints that are ours are ever deleted, and a disk that was
// resized is read in full (what grew is clean in its bitmap). Since is honoured
// for each disk on its own. The checkpoint of a point that was kept replaces the
// older ones when its snapshot is closed; on a machine that is off meanwhile none
// can be deleted, and the next snapshot does it.
//
// # When the scratch space is full
//
// QEMU breaks the guest's write, not the snapshot: the write fails with "No space
// left on device" and what is read of the snapshot stays right. By the device's
// default policy (werror=enospc) the machine is then stopped as if its own disk
// were full. So the space is watched, and the job ended while there is some
// left: reads fail with source.ErrSnapshotSpace and the guest notices nothing.
//
// # When things end early
//
// The NBD server lives in QEMU: a restart of the daemon does not disturb reads.
// Close connects again to clean up. A machine that stops takes its snapshot along
// (source.ErrSnapshotLost), and so does whoever ends the job (virsh domjobabort).
// What a killed process leaves is in its session's record, for CleanUp.
//
// # A machine that is off
//
// Its disks are read as files, without keeping anybody from starting it; if
// somebody does, Snapshot.Check says that the snapshot is lost. Such a snapshot
// has no checkpoint.
//
// This process must be root, or QEMU's own user (qemu:///session).
//
// The package knows nothing of gRPC or the block store. Formats of XML are those
// of https://libvirt.org/formatbackup.html, formatcheckpoint.html and
// formatdomain.html, as of libvirt 9.0.
package libvirt
