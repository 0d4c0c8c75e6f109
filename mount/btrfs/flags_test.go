package btrfs_test

import "flag"

var dirtyRounds = flag.Int("dirty-rounds", 2, "how often TestDirty makes a file system of each kind")
