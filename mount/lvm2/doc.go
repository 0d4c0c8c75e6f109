// Package lvm2 reads Linux logical volumes: from the physical volumes that lie on
// the disks of a point it makes one blockdev.Device for each logical volume,
// without device-mapper, the lvm tools or anything else of the running kernel.
//
//	pv, err := lvm2.Read(device)            // for every device that may be one
//	for _, vg := range lvm2.Assemble(pvs) {
//		for _, lv := range vg.LVs {         // lv.Device, or lv.Reason
//
// # How volumes lie on disks
//
// A physical volume (PV) has a label in one of its first four sectors of 512
// bytes. It tells the PV's UUID and where its data and its metadata areas are:
//
//	sector 0–3   "LABELONE", crc, "LVM2 001", PV UUID, size,
//	             data areas…, metadata areas…                       (label.go)
//	4096…        metadata area: a header of 512 bytes, then a ring in which
//	             each change of the group is written as a new text  (area.go)
//	…end−area    a second metadata area, where one was asked for
//	pe_start…    extents, all of one size
//
// The text is that of lvm.conf: sections, numbers, strings, lists (config.go). It
// describes the whole volume group (VG): its PVs, and its logical volumes (LVs)
// as rows of segments (metadata.go). Each segment has a type and the areas that
// it is made of, which are extents of PVs, or of other LVs that the user does not
// see:
//
//	striped (linear with one stripe)         build.go
//	mirror, also of a move in progress       mirror.go
//	raid0, raid1, raid4, 5, 6, 10            raid.go (places: mount/raid)
//	thin, thin-pool                          thin.go, btree.go
//	snapshot (copy on write)                 snapshot.go, overlay.go
//	cache, cache-pool                        cache.go, overlay.go
//	error, zero                              nothing.go
//	vdo, writecache, integrity and others    refused by name
//
// # What holds
//
//   - Every PV may keep the metadata of the whole group, or none. The text with
//     the highest sequence number decides. PVs that still have an older one were
//     away when the group was changed: that is said in VG.Warnings.
//   - Nothing is guessed. Two disks that both carry one PV (a clone), a missing
//     PV, an unknown segment type, a damaged tree: the volumes concerned have no
//     Device but a Reason, the others are not affected.
//   - A mirror's legs are read only where they are known to be in step: not legs
//     that are being rebuilt, nor those that the group's metadata or the array's
//     own superblock calls failed.
//   - A leg's data is computed from parity only where the array's bitmap says
//     that the legs were in step when the disks were copied.
//   - What a cache has is read from there, since with writeback it is newer than
//     the volume behind it. A snapshot that is being merged is shown in its
//     origin as if that were done, which is what the guest sees after a start.
//   - Space that a thin volume never wrote, and a zero segment, reads as zeros
//     and has the place Nowhere.
//   - Everything is untrusted. Texts, counts, depths and tables have limits, a
//     volume made of itself is refused, and what a volume is made of is searched
//     by binary search or through trees of bounded depth. Tables that must be held
//     whole (snapshots, caches) are limited over the whole group.
//
// Formats: lvm2's own documentation (man lvm.conf, pvck, lvmthin, lvmraid,
// lvmcache) and the output of `pvck --dump` and `vgcfgbackup`; the formats of
// device-mapper's targets as the kernel's Documentation/admin-guide/device-mapper
// and thin-provisioning-tools describe them.
//
// Errors wrap the sentinels of mount/filesys. The package imports that,
// mount/blockdev and mount/raid, and nothing else of Cairn.
package lvm2
