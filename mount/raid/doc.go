// Package raid is where the bytes of an array lie on its legs. It knows nothing
// of superblocks: mount/mdraid and mount/lvm2, whose formats differ but whose
// arrays the kernel runs by the same code, say what the legs are and how they are
// laid out, and get a blockdev.Device.
//
//	Concat                      one device after the other
//	New: levels 0, 1, 10        stripes, mirrors, and stripes of mirrors with
//	                            near, far and offset copies
//	New: levels 4, 5, 6         stripes with parity in all of Linux's layouts
//
// A leg that is missing, or whose bytes cannot be trusted at some place, is not
// read there. Another copy is, or the bytes are computed from the parity if the
// caller says that it can be trusted.
//
// Errors wrap the sentinels of mount/filesys. The package imports that and
// mount/blockdev, and nothing else of Cairn.
package raid
