// Package live is what sources of running machines share, whatever hypervisor
// they speak to:
//
//	Quiesce      freeze the guest, take the point in time, thaw; and say how
//	             consistent that made it
//	OpenDisk     a source.SnapshotDisk that is read over NBD, full or only what a
//	             dirty bitmap says has changed
//	Session      the directory of one snapshot, and the record in it of what
//	             there is to clean up if this process dies
//	WatchSpace   the room that is left for what the guest overwrites
//
// # What is left after a crash
//
// A snapshot of a running machine puts things into the hypervisor's process that
// outlive ours: jobs, exports, bitmaps, and for moments a frozen guest. So a
// Session exists, on disk and synced, before the first of them, and is removed
// after the last. Its process holds a lock on its directory, which the kernel
// releases when the process dies, however that comes about. Leftovers finds the
// directories without such a process. Every step of cleaning up can be repeated,
// for it may be interrupted as well.
//
// Two sources that share a state directory would find each other's sessions:
// give each its own.
//
// # What may be read
//
// A snapshot can end at any moment: the machine stops, somebody cancels its job,
// the scratch space is full. The NBD export may then still answer, with data
// that mixes moments. So a Disk asks after every failure, and a source has to
// ask once more after everything was read (source.Snapshot.Check), whether the
// snapshot had been there all the time.
//
// The package imports client/source, its guest and nbd packages; it never speaks
// a hypervisor's protocol, and knows nothing of gRPC or the block store.
// client/source/qemu and client/source/libvirt call it.
package live
