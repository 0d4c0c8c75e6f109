package mount

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
)

// maxNodes is how many names may be looked up before the kernel is asked to
// forget those of files. It never forgets by itself while it has memory to spare,
// and each takes about a kilobyte here: a find over some millions of files would
// take gigabytes.
const maxNodes = 50_000

// known notes one more node, and prunes when there are many.
func (m *mounted) known(root *fs.Inode) {
	if m.made.Add(1) < m.maxNodes || !m.pruning.CompareAndSwap(false, true) {
		return
	}
	m.made.Store(0)
	m.prunes.Go(func() {
		defer m.pruning.Store(false)
		prune(root)
	})
}

// prune asks the kernel to forget the names of all files below a directory. Who
// has one open keeps it. Directories stay: they are few, and the kernel would cut
// off a program from its working directory. It must not be called while a
// request is served, since the kernel waits for the directory's lock.
func prune(dir *fs.Inode) bool {
	for name, child := range dir.Children() {
		if child.IsDir() {
			if !prune(child) {
				return false
			}
			continue
		}
		switch dir.NotifyEntry(name) {
		case 0, syscall.ENOENT: // forgotten, or was
		default:
			return false // the mount ends, or the kernel cannot
		}
	}
	return true
}
