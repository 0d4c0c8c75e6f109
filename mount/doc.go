// Package mount shows a tree.Tree, a recovery point or all points of an item,
// as a read-only file system through FUSE. It adapts, nothing more: what there
// is to see is decided in mount/tree, and `cairn ls` and `cairn cp` show the
// same without this package.
//
// # Concepts
//
// Mount checks the mount point, mounts it (directly as root, else through
// fusermount3) and serves requests until the file system is unmounted, by
// Server.Unmount or by anyone's umount. Each tree.Node becomes one FUSE node;
// its inode number is the tree's, so hard links of a guest are hard links here.
// Nothing is ever written: every modifying call fails with EROFS in the kernel.
//
// # Who may look
//
// Only the user who mounts, unless AllowOther is set. That user may read every
// file, whatever mode and owner it has in the guest: whoever holds the backup
// holds its contents, and an operator must be able to bring back a file of any
// owner. So the guest's permission bits are shown but not enforced. With
// AllowOther they are (default_permissions): other users of this host get what
// the guest's bits and numeric ids give them.
//
// Ids are the guest's. MapOwner shows everything as owned by who mounts, UIDs and
// GIDs show single ones as others; then access control lists are mapped too.
//
// The mount is nosuid and nodev: the guest's devices and set-uid programs are
// shown as what they are and have no effect here.
//
// Symlinks have their raw target. An absolute one, followed by a program on
// this host, leads into the host. `cairn ls` and `cairn cp` follow symlinks
// inside the guest.
//
// # Caching
//
// A recovery point never changes, so the kernel may keep what it has been told:
// names, attributes and absent names for an hour, file contents and directory
// listings across opens (FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR). What tree.Node.Fresh
// calls not settled (the list of an item's points, a volume that could not be
// reached) is cached only for that long. Directories are listed with their
// entries' attributes (readdirplus).
//
// The kernel remembers every name that it was told, and what it remembers takes
// memory here. After 50,000 names it is asked to forget those of files.
//
// # Errors
//
// What a reader cannot vouch for is EIO, never bytes: a block that does not
// match its digest, a damaged structure of the guest's file system, a server
// that does not answer. A read that fails halfway fails as a whole, because the
// kernel would take a short answer for the end of the file. The log gets one
// line for each such error, with the path and what the error names (the block,
// the inode), and does not repeat it for the retries that follow.
//
// # Parallelism
//
// Requests are served side by side, one goroutine each, up to MaxBackground
// readahead requests of up to 1 MiB at a time. Nothing here holds a lock while
// it reads. A request that hangs in the Image hangs the process that asked and
// nobody else, but the kernel lets no signal end that wait: an Image whose
// blocks come from elsewhere must give up by itself after a while.
//
// # Known deadlocks
//
// A process that reads its own mount can block itself: a page fault on a mapped
// file of the mount stops the thread, and with it a scheduler slot that serving
// the fault may need. Don't map files of one's own mount, don't start child
// processes with a working directory or program in it, and don't let the path
// from Image to server lead through the mount. Backing up a host on which a
// point is mounted is safe as long as the mount point is not part of an image.
//
// The package imports mount/... only, never the client or the server.
package mount
