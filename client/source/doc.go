// Package source is where disks come from and where restored disks go.
//
// A Source lists machines, watches for changes, and takes Snapshots of a
// machine's disks, which are read by extent. CreateRaw and CreateQCOW2 make
// the files that a restore writes. The backup and restore pipelines call it;
// it knows nothing of gRPC, of the protocol or of the block store.
//
// # Image files
//
// Images is the Source of the image files in a directory:
//
//	images/
//	  web1.raw          machine web1, disk vda
//	  Mail.qcow2        machine mail, disk vda
//	  db/               machine db
//	    system.qcow2      disk system
//	    data.raw          disk data
//
// A file in the directory itself is a machine whose one disk is called vda. A
// sub-directory with images in it is a machine whose disks are called after
// their files, so that a disk's name never depends on what lies beside it.
// Deeper directories, hidden files and files without one of these extensions
// are passed over (also *.part and *.tmp, therefore):
//
//	.raw .dd .img                           raw
//	.qcow2 .qcow .qed .vmdk .vhdx .vhd .vpc .vdi   as QEMU knows them
//
// An id is the name in lower case without its extension; what an id cannot
// hold becomes a hyphen. Names of which nothing is left that way, or too much,
// get an id with a hash of the name in it. Two names that give the same id are
// a Problem of that machine: neither is read, for the backups of one must not
// continue with the data of the other.
//
// The extension says what the format is and the contents never do. A guest
// that writes a qcow2 header to the beginning of its raw disk, naming a file of
// the host as backing file, would otherwise have that file in its next backup.
// Only .img is in doubt, because distributions give qcow2 images that name: an
// .img that begins like another format is refused until it is renamed.
//
// Formats other than raw can refer to more files: backing files, external data
// files, extents. Those must lie in the images directory too, symbolic links
// resolved, whatever the header says; and QEMU is given the whole graph of
// files with their formats, so that it has nothing left to look up. What is
// not trusted is the contents of images. The names in the directory are: an
// image may be a symbolic link to a file anywhere, and who can rename files
// there while a snapshot is taken can choose what is read.
//
// Raw files are read directly. Everything else is opened by a qemu-nbd, one
// for each disk, read-only, which lives as long as the snapshot and never
// longer than this process. QEMU reads what an image lacks (a truncated file)
// as zeros, so the structure of every image is checked first.
//
// An image file is a picture of a stopped machine. Images in formats other than
// raw cannot be read while a QEMU has them open for writing (ErrInUse), and as
// long as their snapshot is open, no QEMU can open them for writing. A raw
// image can always be read, but if it is written to meanwhile, what was read
// mixes moments: Snapshot.Check tells (ErrChanged).
package source
