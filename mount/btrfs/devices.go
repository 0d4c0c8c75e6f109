package btrfs

// Devices is how many devices the file system lies on, those included that were
// not given to Open. With more than one, offsets on its volume say nothing: see
// Stored.
func (f *FS) Devices() int { return int(min(f.v.super.devices, maxDeviceCount)) }

// maxDeviceCount keeps a hostile superblock's count within an int.
const maxDeviceCount = 1 << 20
