// Package source is where disks come from and where restored disks go.
//
// A Source lists machines, watches for changes, and takes Snapshots of a
// machine's disks, which are read by extent. Images is the Source of image
// files in a directory. CreateRaw and CreateQCOW2 make the files that a
// restore writes.
//
// The backup and restore pipelines call it. It knows nothing of gRPC, of the
// protocol or of the block store.
package source
