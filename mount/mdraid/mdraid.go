package mdraid

import "cairn/mount/blockdev"

// Member is one device of an array.
type Member struct {
	Device  blockdev.Device // what Read was given
	UUID    string          // of the array, as mdadm prints it: four words in hex between colons
	Name    string          // of the array, as its creator gave it ("host:0"), may be empty
	Version string          // of the metadata: "0.90", "1.0", "1.1", "1.2", "imsm", "ddf"
	Level   string          // of the array: "raid0", "raid1", "linear", …

	sb superblock
}

// Array is a software raid array.
type Array struct {
	Name  string // as its creator gave it, may be empty
	UUID  string
	Level string
	Size  int64 // bytes, 0 when unknown
	// Device has the array's content. It is nil when that cannot be read, and
	// then Reason says why. Parts of a Device may still give errors.
	Device  blockdev.Device
	Reason  string
	Members []*Member // those given, whether they are read or not
	// Warnings are sentences for a person: a missing or stale member, a rebuild
	// that was under way.
	Warnings []string
}
