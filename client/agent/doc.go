// Package agent runs on a hypervisor host: it finds machines, tells the server
// about them, claims jobs and moves the data. It dials the server, never the
// other way round.
//
//	err := agent.Run(ctx, agent.Options{Server: "unix:…", Host: "rack1", Source: images})
//
// # Backups
//
// A backup goes through these steps, each of which can be cancelled:
//
//  1. The newest point is read: the backup builds on it. Only then the source
//     takes a snapshot of all disks, and is asked for what has changed since the
//     checkpoint which that point names ("Take Snapshot"). So the changes fit
//     the point they are applied to, whatever happens meanwhile; when the point
//     is deleted before the upload begins, everything is read.
//  2. Of every disk whose source tracks changes, a random sample of the blocks
//     that allegedly have not changed is read again and compared with the
//     point. A difference makes the disk one that is read in full.
//  3. Workers read the extents that hold data, or that changed, in batches of
//     4 MiB, and digest every block. What has the digest that the newest point
//     has at that place is done with. For the rest the server is asked what it
//     lacks; that alone is compressed and sent ("Transfer data to vault"). State
//     files, the firmware's variables and the like, are sent in the same way, in
//     full.
//  4. When everything sent is durable, the disks' maps are written, as changes
//     to the newest point's, and the upload is committed. Until then the vault
//     shows nothing of it. After it, the source keeps its checkpoint.
//
// One worker takes a batch through reading, hashing, asking, compressing and
// sending, so that with a few workers all of that overlaps, and memory is a
// few batches per worker whatever the disk's size. What the map needs is 40
// bytes a changed block; that is spooled to a file when it gets large.
//
// When the server goes away in the middle, or the connection to the snapshot
// does, the transfer begins again on the same snapshot once it is back: what had
// been acknowledged is found there and not sent twice. When the snapshot itself
// is gone, because the machine was stopped or started, the backup begins again
// with another, at most twice.
//
// # Restores
//
// Disks go to files or volumes ([RestoreDisk] writes a point's disk to a
// source.DiskWriter); whole machines to a source that is a source.Restorer, as a
// new machine or in place of the old. In place, the machine is stopped first if
// that was asked for, and a safety point is made by the backup above, under the
// lease of the restore's job; whatever fails after that, the machine is started
// again with the disks it had. An instant restore starts the machine from disks
// in the vault, which the hypervisor reads through this process, and moves the
// data in behind it. A restore that fails or is cancelled leaves nothing, but for
// an instant machine that runs already: only a cancellation takes it away, and
// otherwise a retry goes on with it.
//
// # After a crash
//
// A source that can leave something behind when this process is killed, a frozen
// guest at worst, is a source.Cleaner: it cleans up before anything else is
// done, whether the server can be reached or not, and again with every session
// until nothing is left that depends on the server's answers.
//
// The package imports client, client/source, blockstore/block and
// blockstore/diskmap; never server or mount.
package agent
