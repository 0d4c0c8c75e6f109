// Package xfslog reads the log that XFS keeps of its metadata and lays what it
// holds over the volume, in memory, as the kernel does on disk when it mounts a
// file system that was not unmounted. XFS writes metadata back late: of a disk
// copied from under a running guest, a reader without the log may see none of
// the files of the last half minute, and inodes whose blocks hold something else.
//
// mount/xfs is the caller:
//
//	g, err := xfslog.ParseGeometry(superblock) // sector 0, verified
//	log, err := xfslog.Load(volume, g)
//	volume = log.Overlay(volume)
//	warnings = append(warnings, log.Report().Warnings()...)
//
// and everything, the superblock too, is then read (again) through the overlay.
// The package imports mount/filesys for its sentinels and nothing else of Cairn;
// it never writes.
package xfslog
