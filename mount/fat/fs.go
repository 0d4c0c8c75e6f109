package fat

import (
	"fmt"
	"io"
	"strings"
	"time"

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
	warnings []string
	label    string
	labelled time.Time // when the label was set
	dirs     *cluster.Cache[uint64, *dir]
	indexes  *cluster.Indexes
	parents  *cluster.Parents
	free     func() (uint32, error)
}

var _ filesys.Briefer = (*FS)(nil)

// Open reads the boot sector of a volume of size bytes and finds the root
// directory. Errors wrap filesys.ErrWrongType when it is no FAT volume,
// ErrUnsupported with the name of what would have to be known, ErrCorrupt when
// the boot sector or the root directory cannot be used, or what r returned. FAT
// has no log, so there is nothing for the options to say.
//
// r must stay usable for as long as the FS is used.
func Open(r io.ReaderAt, size int64, _ filesys.Options) (*FS, error) {
	f, err := open(r, size)
	if err != nil {
		return nil, fmt.Errorf("open FAT file system: %w", err)
	}
	return f, nil
}

func open(r io.ReaderAt, size int64) (*FS, error) {
	v := cluster.NewVolume(r, size)
	b, warnings, err := anyBoot(v)
	if err != nil {
		return nil, err
	}
	t, tableWarnings, err := b.anyTable(v)
	if err != nil {
		return nil, err
	}
	f := &FS{
		volume: v, boot: b, table: t, label: b.label(),
		dirs:    cluster.NewCache[uint64, *dir](dirLimit),
		indexes: cluster.NewIndexes(),
	}
	f.warnings = append(append(warnings, tableWarnings...), b.state(t)...)
	if b.end > size {
		f.warnings = append(f.warnings, fmt.Sprintf(
			"The volume has %d bytes where its file system has %d; what lay behind the end cannot be read.", size, b.end))
	}
	f.parents = cluster.NewParents(rootIno, f.subdirectories)
	f.free = cluster.Once(t.CountFree)
	if b.width == 32 {
		if f.root, err = f.chainDir(rootIno, b.rootFirst); err != nil {
			return nil, fmt.Errorf("root directory: %w", err)
		}
	} else {
		f.root = &dir{rootIno, cluster.FixedSlots(v, b.rootOff, b.rootSlots), b.rootSlots * cluster.SlotSize}
	}
	if err := f.readLabel(); err != nil {
		return nil, err
	}
	return f, nil
}

// readLabel looks for the label in the root directory, where it is kept up to
// date; the one in the boot sector stays as it was when the volume was made.
// That the directory is damaged is told when it is read.
func (f *FS) readLabel() error {
	cursor := f.root.slots.Cursor()
	for slot := int64(0); ; slot++ {
		p, _, err := cursor.At(slot)
		if err != nil && err != io.EOF && !cluster.Damaged(err) {
			return fmt.Errorf("root directory: %w", err)
		}
		if err != nil || p[0] == 0 {
			return nil
		}
		if p[0] == 0xE5 || p[11]&attrVolume == 0 || p[11]&attrLongMask == attrLong || p[11]&attrDirectory != 0 {
			continue
		}
		raw := [11]byte(p)
		if raw[0] == 0x05 {
			raw[0] = 0xE5
		}
		f.label = strings.TrimRight(decodeOEM(raw[:]), " ")
		f.labelled = cluster.Stamp(le.Uint16(p[24:]), le.Uint16(p[22:]), 0)
		return nil
	}
}

// Root is the inode number of the root directory.
func (f *FS) Root() uint64 { return rootIno }

// Info describes the volume. The first call reads the whole table, to count
// what is free.
func (f *FS) Info() filesys.Info {
	b, info := f.boot, f.Brief()
	free, err := f.free()
	if err != nil {
		info.Warnings = append(info.Warnings[:len(info.Warnings):len(info.Warnings)], fmt.Sprintf("The free space cannot be counted: %v.", err))
	}
	info.Size, info.Free = int64(b.clusters)*b.cluster, int64(free)*b.cluster
	info.Available = info.Free
	return info
}

// Brief describes the volume without counting its free clusters.
func (f *FS) Brief() filesys.Info {
	b := f.boot
	return filesys.Info{
		Type: fmt.Sprintf("fat%d", b.width), Label: f.label, UUID: b.serial(), BlockSize: int(b.cluster), NameMax: 3 * maxUnits, Warnings: f.warnings,
	}
}
