// Package mdraid reads Linux software raid: from the members that lie on the
// disks of a point it makes one blockdev.Device for each array, without mdadm or
// the md driver.
//
//	m, err := mdraid.Read(device)            // for every device that may be one
//	for _, a := range mdraid.Assemble(members) {
//		…                                    // a.Device, or a.Reason
//
// # How an array lies on its members
//
// Each member carries a superblock, at its end (metadata 0.90 and 1.0), at its
// start (1.1) or 4096 bytes in (1.2). It names the array (a UUID), its level,
// layout and chunk size, the member's own slot, and where on the member the
// array's data begins:
//
//	1.2:  ├ 4096 ┤ superblock │ bitmap, log │ data_offset … data … │
//	1.0:  │ data …                        │ bitmap │ superblock │
//
// An event counter in the superblock goes up with every change of the array's
// state. The member with the highest one tells which members take part: one that
// lags behind was failed or removed, and its data is old.
//
// Where which byte lies for each level is the business of mount/raid.
//
// # What holds
//
//   - Data of a member that is failed, stale, a spare, or not yet rebuilt up to
//     that place is never read. A mirror goes on with another member; raid4, 5
//     and 6 compute it from the others, unless the array was being written when
//     its members were copied, so that the parity may not match: that is an
//     error, never a guess.
//   - Sectors in a member's bad block log, or that its medium cannot read, are
//     read from the other copies in the same way.
//   - Two members that claim one slot with the same events are refused.
//   - Reshapes in progress, write journals, clusters and the containers of
//     firmware raid (IMSM, DDF) are refused by name.
//   - Everything is untrusted: superblocks are checked (checksum, ranges), and
//     no count is used before it was compared with a limit.
//
// Formats: the kernel's md_p.h as described in the Linux raid wiki ("RAID
// superblock formats") and md(4); layouts as in md(4) and mdadm(8).
//
// Errors wrap the sentinels of mount/filesys. The package imports that,
// mount/blockdev and mount/raid, and nothing else of Cairn.
package mdraid
