// Package history compares the files of recovery points: which versions a file
// had (Versions), where a name was (Find), and what changed between two points
// (Diff). It is what `cairn versions`, `cairn find` and `cairn diff` do.
//
// A point is complete in itself, and most of two points of one machine is equal.
// So nothing here costs what a point costs, but what a change does:
//
//   - Two disks are compared by their maps, in time proportional to what differs
//     (diskmap.Diff), and the difference is carried over to volumes by the place
//     of every byte (blockdev.Device). Where that cannot be told (an array that
//     lacks a disk, a damaged map) both trees are walked.
//   - Of a volume whose reader is a filesys.Differ only the inodes that may have
//     changed are looked at. Names of those whose directories did not change are
//     found from below (filesys.Namer) or in the directories around them
//     (searcher). Readers that cannot tell have both trees walked, in step.
//   - All points share one cache of blocks (Cache), keyed by digest: metadata
//     that two points have in common is fetched once.
//   - Contents are compared by where they are stored (filesys.Stored): bytes at
//     the same place in unchanged blocks are the same. Only what lies in a block
//     that did change is read, on both sides, and compared.
//
// # What it says of a file
//
// Two states of a file are compared by type, content, mode, owner, modification
// time, extended attributes, symlink target and device number. Access times,
// change times, link counts, inode numbers and where content is stored are not
// differences; of directories the modification time is none either, since it
// says no more than the entries do. That a file was changed is noticed as far as
// the guest's own kernel noted it in the inode (size, times, map of blocks). What
// was written past it, by a repair or an editor of file systems, may leave no such
// trace; Options.Walk finds that too, at the cost of walking both trees. And so may
// what was written over other data in the last seconds before a crash-consistent
// point: data can reach the disk before the inode does, whose new times are then a
// change of the point after.
//
// A file is the same one under another name when the inode number and the time
// of creation are; where a format keeps no such time, size and modification time
// must be equal too, of anything but a directory.
//
// # Limits
//
// Memory grows with what is found: the changes of a Diff, the names that match
// of a Find, the entries of a directory that changed. A volume that cannot be
// read, or a part of one, is reported to Options.Problem, never taken for empty.
//
// The package imports mount/tree, mount/filesys, mount/blockdev and
// blockstore/diskmap. It knows nothing of the client: blocks come from a
// diskmap.BlockReader.
package history
