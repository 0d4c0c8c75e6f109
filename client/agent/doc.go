// Package agent runs on a hypervisor host: it finds machines, tells the server
// about them, claims jobs and moves the data. It dials the server, never the
// other way round.
//
//	err := agent.Run(ctx, agent.Options{Server: "unix:…", Host: "rack1", Source: images})
//
// A backup goes through these steps, each of which can be cancelled:
//
//  1. The source takes a snapshot of all disks ("Take Snapshot").
//  2. Workers read the extents that hold data, in batches of 4 MiB, and digest
//     every block. What has the digest that the newest point has at that place
//     is done with. For the rest the server is asked what it lacks; that alone
//     is compressed and sent ("Transfer data to vault").
//  3. When everything sent is durable, the disks' maps are written, as changes
//     to the newest point's, and the upload is committed. Until then the vault
//     shows nothing of it.
//
// One worker takes a batch through reading, hashing, asking, compressing and
// sending, so that with a few workers all of that overlaps, and memory is a
// few batches per worker whatever the disk's size. What the map needs is 40
// bytes a changed block; that is spooled to a file when it gets large.
//
// When the server goes away in the middle, the transfer begins again on the
// same snapshot once it is back: what had been acknowledged is found there and
// not sent twice.
//
// [RestoreDisk] is the way back: it writes a point's disk to a source.DiskWriter.
//
// The package imports client, client/source, blockstore/block and
// blockstore/diskmap; never server or mount.
package agent
