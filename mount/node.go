package mount

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// node is a tree.Node in FUSE's terms.
type node struct {
	fs.Inode
	mnt *mounted
	n   tree.Node
}

// What a node supports; which of it applies depends on its type, and the tree
// answers for the rest.
var (
	_ fs.NodeLookuper       = (*node)(nil)
	_ fs.NodeGetattrer      = (*node)(nil)
	_ fs.NodeStatxer        = (*node)(nil)
	_ fs.NodeAccesser       = (*node)(nil)
	_ fs.NodeOpendirHandler = (*node)(nil)
	_ fs.NodeReadlinker     = (*node)(nil)
	_ fs.NodeOpener         = (*node)(nil)
	_ fs.NodeGetxattrer     = (*node)(nil)
	_ fs.NodeListxattrer    = (*node)(nil)
	_ fs.NodeStatfser       = (*node)(nil)
)

// whole is the context that the tree is asked with. A request's own context ends
// with any signal that the asking process gets, be it the end of a child or
// another size of its terminal, and few programs expect a failing stat then.
var whole = context.Background()

// mounted is what all nodes of a mount share.
type mounted struct {
	reporter
	uids, gids idMap

	maxNodes int64 // see prune.go
	made     atomic.Int64
	pruning  atomic.Bool
	prunes   sync.WaitGroup
}

func (n *node) errno(err error, op string) syscall.Errno {
	return n.mnt.errno(err, op, func() string { return "/" + n.Path(nil) })
}

// adopt makes the FUSE node for a child and fills in its entry.
func (n *node) adopt(ctx context.Context, child tree.Node, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	a, err := child.Attr(whole)
	if err != nil {
		return nil, n.errno(err, "read attributes in")
	}
	n.mnt.fill(child, a, &out.Attr)
	// Zero leaves the mount's own timeout, an hour.
	if fresh := n.n.Fresh(); fresh > 0 {
		out.SetEntryTimeout(fresh)
	}
	if fresh := child.Fresh(); fresh > 0 {
		out.SetAttrTimeout(fresh)
	}
	n.mnt.known(n.Root())
	return n.NewInode(ctx, &node{mnt: n.mnt, n: child}, fs.StableAttr{Mode: a.Mode, Ino: a.Ino}), 0
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	child, err := n.n.Lookup(whole, name)
	if err != nil {
		if n.n.Fresh() > 0 {
			// Any timeout but zero keeps go-fuse from letting the kernel
			// remember for an hour that the name is absent.
			out.SetEntryTimeout(time.Nanosecond)
		}
		return nil, n.errno(err, "look up "+name+" in")
	}
	return n.adopt(ctx, child, out)
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	a, err := n.n.Attr(whole)
	if err != nil {
		return n.errno(err, "read attributes of")
	}
	n.mnt.fill(n.n, a, &out.Attr)
	if fresh := n.n.Fresh(); fresh > 0 {
		out.SetTimeout(fresh)
	}
	return 0
}

// Statx is asked for the time of birth, which Getattr has no room for.
func (n *node) Statx(_ context.Context, _ fs.FileHandle, _, _ uint32, out *fuse.StatxOut) syscall.Errno {
	a, err := n.n.Attr(whole)
	if err != nil {
		return n.errno(err, "read attributes of")
	}
	var b fuse.Attr
	n.mnt.fill(n.n, a, &b)
	out.Statx = fuse.Statx{
		Mask: unix.STATX_BASIC_STATS, Blksize: b.Blksize, Nlink: b.Nlink, Uid: b.Uid, Gid: b.Gid, Mode: uint16(b.Mode),
		Ino: b.Ino, Size: b.Size, Blocks: b.Blocks, Atime: sxTime(a.Atime), Ctime: sxTime(a.Ctime), Mtime: sxTime(a.Mtime),
		RdevMajor: unix.Major(a.Rdev), RdevMinor: unix.Minor(a.Rdev),
	}
	if !a.Btime.IsZero() {
		out.Mask |= unix.STATX_BTIME
		out.Btime = sxTime(a.Btime)
	}
	if fresh := n.n.Fresh(); fresh > 0 {
		out.SetTimeout(fresh)
	}
	return 0
}

func sxTime(t time.Time) fuse.SxTime {
	return fuse.SxTime{Sec: uint64(t.Unix()), Nsec: uint32(t.Nanosecond())}
}

// fill translates attributes. FUSE has 32 bits for a device number, in the
// kernel's own encoding, and takes negative seconds as two's complement.
func (m *mounted) fill(n tree.Node, a filesys.Attr, out *fuse.Attr) {
	out.Ino = a.Ino
	out.Mode = a.Mode
	out.Nlink = a.Nlink
	out.Size = uint64(a.Size)
	out.Blocks = uint64(a.Blocks)
	out.Uid, out.Gid = m.uids.show(a.UID), m.gids.show(a.GID)
	major, minor := unix.Major(a.Rdev), unix.Minor(a.Rdev)
	out.Rdev = minor&0xff | major<<8 | minor&^0xff<<12
	out.Blksize = 4096
	if v := n.Volume(); v != nil {
		if bs := v.Brief().BlockSize; bs > 0 {
			out.Blksize = uint32(bs)
		}
	}
	out.Atime, out.Atimensec = uint64(a.Atime.Unix()), uint32(a.Atime.Nanosecond())
	out.Mtime, out.Mtimensec = uint64(a.Mtime.Unix()), uint32(a.Mtime.Nanosecond())
	out.Ctime, out.Ctimensec = uint64(a.Ctime.Unix()), uint32(a.Ctime.Nanosecond())
}

// Access is decided in the kernel, or not at all; see the package comment.
// ENOSYS keeps it from asking again.
func (n *node) Access(context.Context, uint32) syscall.Errno { return syscall.ENOSYS }

func (n *node) Readlink(_ context.Context) ([]byte, syscall.Errno) {
	target, err := n.n.Readlink(whole)
	if err != nil {
		return nil, n.errno(err, "read symlink")
	}
	return []byte(target), 0
}

func (n *node) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	names, err := n.n.Xattrs(whole)
	if err != nil {
		return 0, n.errno(err, "list extended attributes of")
	}
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return give(dest, list)
}

func (n *node) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	v, err := n.n.Xattr(whole, name)
	if err == nil && isACL(name) {
		v, err = n.mnt.showACL(v)
	}
	if err != nil {
		return 0, n.errno(err, "read extended attribute "+name+" of")
	}
	return give(dest, v)
}

func give(dest, v []byte) (uint32, syscall.Errno) {
	if len(v) > len(dest) {
		return uint32(len(v)), syscall.ERANGE
	}
	return uint32(copy(dest, v)), 0
}

// Statfs describes the volume that the node is in; around the volumes there is
// nothing to tell.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: 255}
	v := n.n.Volume()
	if v == nil {
		return 0
	}
	info := v.Info()
	bs := uint64(max(info.BlockSize, 512))
	*out = fuse.StatfsOut{
		Bsize: uint32(bs), Frsize: uint32(bs),
		Blocks: uint64(info.Size) / bs, Bfree: uint64(info.Free) / bs, Bavail: uint64(info.Available) / bs,
		Files: info.Files, Ffree: info.FilesFree, NameLen: uint32(info.NameMax),
	}
	return 0
}

func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, err := n.n.Open(whole)
	if err != nil {
		return nil, 0, n.errno(err, "open")
	}
	keep := uint32(fuse.FOPEN_KEEP_CACHE)
	if n.n.Fresh() > 0 {
		keep = 0
	}
	return &file{n, f}, keep | fuse.FOPEN_NOFLUSH, 0
}

// file is an open file.
type file struct {
	n *node
	f tree.File
}

var (
	_ fs.FileReader  = (*file)(nil)
	_ fs.FileLseeker = (*file)(nil)
)

// Read gives exactly what was asked for, up to the end of the file, or an error.
func (f *file) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	left := f.f.Size() - off
	if left <= 0 {
		return fuse.ReadResultData(nil), 0
	}
	dest = dest[:min(int64(len(dest)), left)]
	n, err := f.f.ReadAt(dest, off)
	if n < len(dest) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, f.n.errno(err, "read")
	}
	return fuse.ReadResultData(dest), 0
}

// patience is how long a search of holes goes on although a signal came. Signals
// are common, and programs do not expect EINTR of a file: only one who waits for
// a file of very many extents, or for a server that is gone, is let go.
const patience = time.Second

// Lseek answers SEEK_DATA and SEEK_HOLE.
func (f *file) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	size := f.f.Size()
	if off > 1<<63-1 || int64(off) >= size {
		return 0, syscall.ENXIO
	}
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, syscall.EINVAL
	}
	began := time.Now()
	for at := int64(off); at < size; {
		if ctx.Err() != nil && time.Since(began) > patience {
			return 0, syscall.EINTR
		}
		data, n, err := f.f.Extent(whole, at)
		if err != nil {
			return 0, f.n.errno(err, "find the holes of")
		}
		if data == (whence == unix.SEEK_DATA) {
			return uint64(at), 0
		}
		if n <= 0 {
			return 0, syscall.EIO
		}
		at += n
	}
	if whence == unix.SEEK_HOLE {
		return uint64(size), 0 // the end of the file is a hole
	}
	return 0, syscall.ENXIO
}

// owner is who mounts.
func owner() (uid, gid uint32) { return uint32(os.Getuid()), uint32(os.Getgid()) }
