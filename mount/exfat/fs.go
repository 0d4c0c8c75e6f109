package exfat

import (
	"fmt"
	"io"
	"math/bits"

	"cairn/mount/fat/cluster"
	"cairn/mount/filesys"
)

// rootIno is the root's inode number. No entry is there: the boot sector is.
const rootIno = 1

// dirLimit bounds the directories that one FS remembers to have opened.
const dirLimit = 4 << 20

// FS is an opened volume. It is immutable but for what it remembers, and safe
// for concurrent use if the reader below it is.
type FS struct {
	volume   *cluster.Volume
	boot     *boot
	table    *cluster.Table
	root     *dir
	rootSize int64
	upcase   *upcase
	bitmap   *cluster.Content
	label    string
	warnings []string
	dirs     *cluster.Cache[uint64, *dir]
	indexes  *cluster.Indexes
	parents  *cluster.Parents
	free     func() (int64, error)
}

var _ filesys.Briefer = (*FS)(nil)

// Open reads the boot region of a volume of size bytes and the root directory.
// Errors wrap filesys.ErrWrongType when it is no exFAT volume, ErrUnsupported
// with the name of what would have to be known, ErrCorrupt when the boot region
// or the root directory cannot be used, or what r returned. exFAT has no log, so
// there is nothing for the options to say.
//
// r must stay usable for as long as the FS is used.
func Open(r io.ReaderAt, size int64, _ filesys.Options) (*FS, error) {
	f, err := open(r, size)
	if err != nil {
		return nil, fmt.Errorf("open exFAT file system: %w", err)
	}
	return f, nil
}

func open(r io.ReaderAt, size int64) (*FS, error) {
	v := cluster.NewVolume(r, size)
	b, warnings, err := anyBoot(v)
	if err != nil {
		return nil, err
	}
	f := &FS{
		volume: v, boot: b, table: b.table(v), upcase: plainUpcase(),
		dirs: cluster.NewCache[uint64, *dir](dirLimit), indexes: cluster.NewIndexes(),
	}
	f.warnings = append(warnings, b.state()...)
	if b.length > size {
		f.warnings = append(f.warnings, fmt.Sprintf(
			"The volume has %d bytes where its file system has %d; what lay behind the end cannot be read.", size, b.length))
	}
	f.parents = cluster.NewParents(rootIno, f.subdirectories)
	f.free = cluster.Once(f.countFree)
	c, err := f.table.Chain(b.root, f.table.Count(maxDirectory)+1)
	if err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	f.rootSize = c.Clusters() << b.clusterBits
	f.root = &dir{rootIno, cluster.ChainSlots(c, maxDirectory/cluster.SlotSize)}
	if err := f.readRoot(); err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	return f, nil
}

// readRoot looks for the volume's own entries in the root directory. What is
// damaged there is told when the directory is read.
func (f *FS) readRoot() error {
	var upcaseErr, bitmapErr error
	seen := false
	err := f.scan(f.root, 0, func(*entry) bool { return true }, func(p []byte) {
		switch p[0] {
		case typeLabel:
			units := make([]uint16, min(int(p[1]), 11))
			for i := range units {
				units[i] = le.Uint16(p[2+2*i:])
			}
			f.label = cluster.DecodeUTF16(units)
		case typeUpcase:
			if seen {
				return
			}
			seen = true
			var u *upcase
			if u, upcaseErr = f.readUpcase(p); upcaseErr == nil {
				f.upcase = u
			}
		case typeBitmap:
			if int(p[1]&1) != f.boot.active() || f.bitmap != nil {
				return
			}
			size := (int64(f.boot.clusters) + 7) / 8
			if uint64(size) > le.Uint64(p[24:]) {
				return
			}
			var c *cluster.Chain
			if c, bitmapErr = f.table.Chain(le.Uint32(p[20:]), f.table.Count(size)); bitmapErr == nil && c.Whole() == nil {
				f.bitmap = cluster.NewContent(c, size, size)
			}
		}
	})
	for _, err := range []error{err, upcaseErr, bitmapErr} {
		if err != nil && !cluster.Damaged(err) {
			return err
		}
	}
	if upcaseErr != nil || !seen {
		text := "there is none"
		if upcaseErr != nil {
			text = upcaseErr.Error()
		}
		f.warnings = append(f.warnings, fmt.Sprintf(
			"The table of upper case cannot be used (%s); other letters than those of ASCII have to be typed in the right case.", text))
	}
	if f.bitmap == nil {
		f.warnings = append(f.warnings, "The bitmap of clusters in use cannot be read; no free space is shown.")
	}
	return nil
}

// countFree counts the bits that are not set.
func (f *FS) countFree() (int64, error) {
	if f.bitmap == nil {
		return 0, nil
	}
	used, size := int64(0), f.bitmap.Size()
	buf := make([]byte, min(1<<20, size))
	for off := int64(0); off < size; {
		n, err := f.bitmap.ReadAt(buf, off)
		if err != nil && err != io.EOF {
			return 0, err
		}
		off += int64(n)
		if rest := f.boot.clusters % 8; off == size && rest != 0 {
			buf[n-1] &= 1<<rest - 1
		}
		for _, c := range buf[:n] {
			used += int64(bits.OnesCount8(c))
		}
	}
	return int64(f.boot.clusters) - used, nil
}

// Root is the inode number of the root directory.
func (f *FS) Root() uint64 { return rootIno }

// Info describes the volume. The first call reads the whole bitmap.
func (f *FS) Info() filesys.Info {
	b, info := f.boot, f.Brief()
	free, err := f.free()
	if err != nil {
		info.Warnings = append(info.Warnings[:len(info.Warnings):len(info.Warnings)], fmt.Sprintf("The free space cannot be counted: %v.", err))
	}
	info.Size, info.Free = int64(b.clusters)<<b.clusterBits, free<<b.clusterBits
	info.Available = info.Free
	return info
}

// Brief describes the volume without counting its free clusters.
func (f *FS) Brief() filesys.Info {
	b := f.boot
	return filesys.Info{
		Type: "exfat", Label: f.label, UUID: b.serial(), BlockSize: 1 << b.clusterBits, NameMax: 3 * maxUnits, Warnings: f.warnings,
	}
}
