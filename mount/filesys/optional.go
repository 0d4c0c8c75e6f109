package filesys

// What is declared here goes beyond FS and File: a reader has it where its
// format allows, and callers ask for it by a type assertion.

// Options say how a volume is to be opened. The zero value is for everyone who
// wants what the guest would see.
type Options struct {
	// IgnoreLog opens a volume whose log must be replayed and cannot be, as if
	// the log were empty: the tree may be stale or contradict itself, and
	// Info.Warnings says so. Without it such a volume is refused.
	IgnoreLog bool
}

// Range is a run of bytes of a volume.
type Range struct {
	Off, Len int64
}

// Stored is a File that can tell which bytes of the volume its content comes
// from, without reading content.
type Stored interface {
	File
	// Stored tells for the byte at off (0 ≤ off < Size) which bytes of the
	// volume decide it and the n-1 bytes behind it (n ≥ 1, never beyond Size).
	// Of plain data at has n bytes, in the same order; of compressed data it is
	// the whole compressed extent; of data inside an inode or a tree item it
	// is that record. Len 0 is a hole, Off -1 means that it cannot be told.
	// Two reads of bytes with the same off, at and n give the same content as
	// long as the volume's bytes in at are the same. The work per call is bounded.
	Stored(off int64) (at Range, n int64, err error)
}

// Differ is an FS that can tell which of its inodes may differ from an earlier
// or later state of the same volume, without walking its tree of names.
type Differ interface {
	FS
	// ChangedInodes calls fn, until that returns false, with the number of each
	// inode, in use here or in other, for which Attr, Xattrs, Readlink, or the
	// entries of a directory may differ between the two. It may name inodes
	// that turn out to be equal, and the same one twice, and never leaves one
	// out. Changed content always shows in Attr, as far as the guest's own
	// kernel keeps its times.
	//
	// other is the same volume at another time, opened by the same package.
	// changed are the ranges of the volume whose bytes differ, ascending and
	// disjoint; what a replayed log holds is the reader's own business. An
	// error that wraps ErrUnsupported says that the two cannot be compared
	// like that (formatted anew, another geometry): callers then walk both.
	ChangedInodes(other FS, changed []Range, fn func(ino uint64) bool) error
}

// Briefer is an FS that describes itself without counting what is free, for
// which Info may have to read much of a large volume.
type Briefer interface {
	FS
	// Brief is Info without Size, Free, Available, Files and FilesFree, and
	// without warnings about those. It reads nothing.
	Brief() Info
}

// Name is one name of an inode.
type Name struct {
	Parent uint64 // inode number of the directory
	Name   string
}

// Namer is an FS whose format records with an inode the directories that name
// it, so that a path is found from below.
type Namer interface {
	FS
	// Names lists all names of an inode that is not the root. An error that
	// wraps ErrUnsupported says that this inode's names are not recorded.
	Names(ino uint64) ([]Name, error)
}

// Keeper is an FS that keeps what it has read of the volume's metadata, and can
// let go of it: whoever has many volumes open decides what they keep together.
type Keeper interface {
	FS
	// Kept is about how many bytes it keeps now, beside what it always needs.
	Kept() int64
	// Forget lets go of that. Nothing that the FS answers changes by it; what is
	// needed is read again.
	Forget()
}
