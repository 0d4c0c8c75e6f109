package ntfs

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"cairn/mount/filesys"
)

// Records with a fixed purpose. Those before firstUser are the file system's
// own.
const (
	inoMFT     = 0
	inoLogFile = 2
	inoVolume  = 3
	inoRoot    = 5
	inoBitmap  = 6
	inoSecure  = 9
	inoUpcase  = 10
	firstUser  = 16
)

// FS is an opened volume. It is immutable but for its cache, and safe for
// concurrent use if the reader below it is.
type FS struct {
	r        io.ReaderAt
	b        *boot
	cache    *cache
	mft      mft
	label    string
	warnings []string
	upcase   lazy[upcase]
	free     lazy[int64]
}

var (
	_ filesys.Briefer = (*FS)(nil)
	_ filesys.Namer   = (*FS)(nil)
	_ filesys.Differ  = (*FS)(nil)
)

// Open reads the boot sector of a volume of size bytes, finds its MFT and its
// root directory. Errors wrap filesys.ErrWrongType when there is no NTFS boot
// sector, ErrUnsupported when the version is not known, ErrCorrupt when the boot
// sector, the MFT or the root directory cannot be used, or what r returned.
//
// A volume that Windows did not unmount is opened as it stands, and
// Info.Warnings says so: no option refuses it.
//
// r must stay usable for as long as the FS is used.
func Open(r io.ReaderAt, size int64, _ filesys.Options) (*FS, error) {
	f, err := open(r, size)
	if err != nil {
		return nil, fmt.Errorf("open NTFS: %w", err)
	}
	return f, nil
}

func open(r io.ReaderAt, size int64) (*FS, error) {
	b, warnings, err := readBoot(r, size)
	if err != nil {
		return nil, err
	}
	f := &FS{r: r, b: b, cache: newCache(cacheBytes), warnings: warnings}
	if err := f.findMFT(); err != nil {
		return nil, err
	}
	if err := f.readVolume(); err != nil {
		return nil, err
	}
	if root, err := f.dir(inoRoot); err != nil {
		return nil, inRoot(err)
	} else if _, err := f.index(root, nameIndex); err != nil {
		return nil, inRoot(err)
	}
	f.warnings = append(f.warnings, f.mirrorWarnings()...)
	f.warnings = append(f.warnings, f.logWarnings()...)
	f.warnings = append(f.warnings, f.hibernationWarnings()...)
	return f, nil
}

// inRoot says that the root directory cannot be used. That it is not there or no
// directory is the volume's fault.
func inRoot(err error) error {
	if errors.Is(err, filesys.ErrNotExist) || errors.Is(err, filesys.ErrNotDir) {
		return corrupt("root directory: %v", err)
	}
	return fmt.Errorf("root directory: %w", err)
}

// Flags in $VOLUME_INFORMATION.
const (
	volumeDirty    = 0x0001
	volumeUpgrade  = 0x0004
	volumeModified = 0x8000 // by a check that did not end
)

// readVolume reads label, version and flags from $Volume.
func (f *FS) readVolume() error {
	in, err := f.inode(inoVolume)
	if err != nil {
		return corrupt("$Volume: %v", err)
	}
	s, err := in.stream(attrVolumeInfo, "")
	if err != nil {
		return fmt.Errorf("$Volume: %w", err)
	}
	if s == nil || s.first.nonresident || len(s.first.value) < 12 {
		return corrupt("$Volume has no version")
	}
	info := s.first.value
	if major, minor := info[8], info[9]; major < 1 || major > 3 {
		return unsupported("NTFS version %d.%d", major, minor)
	}
	flags := le.Uint16(info[10:])
	if flags&volumeDirty != 0 {
		f.warnings = append(f.warnings, "The volume is marked dirty: Windows wants to check it (chkdsk).")
	}
	if flags&volumeModified != 0 {
		f.warnings = append(f.warnings, "A check of the volume (chkdsk) has not ended.")
	}
	if flags&volumeUpgrade != 0 {
		f.warnings = append(f.warnings, "Windows would upgrade the volume's format when it mounts it.")
	}
	if s, err = in.stream(attrVolumeName, ""); err != nil {
		return fmt.Errorf("$Volume: %w", err)
	}
	if s != nil && !s.first.nonresident {
		f.label = strings.TrimRight(decodeName(string(s.first.value)), "\x00")
	}
	return nil
}

// mirrorWarnings says which of the first records had to be read from $MFTMirr.
func (f *FS) mirrorWarnings() []string {
	var damaged []string
	for num := range uint64(mirrored) {
		p := make([]byte, 1<<f.b.recordBits)
		err := f.mft.readAt(f, p, num<<f.b.recordBits)
		if err == nil {
			_, err = parseRecord(p, num)
		}
		if err == nil {
			continue
		}
		if _, err := f.record(num); err == nil {
			damaged = append(damaged, fmt.Sprint(num))
		}
	}
	if damaged == nil {
		return nil
	}
	return []string{fmt.Sprintf("The MFT is damaged (record %s); its copy in $MFTMirr is used.", strings.Join(damaged, ", "))}
}

// Root is the inode number of the root directory.
func (f *FS) Root() uint64 { return inoRoot }

// Info describes the volume. The first call reads $Bitmap; if that cannot be
// read, nothing is free.
func (f *FS) Info() filesys.Info {
	info := f.Brief()
	info.Size = int64(f.b.clusters << f.b.clusterBits)
	info.Free, _ = f.free.get(f.countFree)
	info.Available = info.Free
	return info
}

// Brief describes the volume without reading the map of its clusters.
func (f *FS) Brief() filesys.Info {
	return filesys.Info{
		Type: "ntfs", Label: f.label, UUID: fmt.Sprintf("%016X", f.b.serial), BlockSize: int(f.b.clusterSize()),
		NameMax: nameMax, Warnings: f.warnings,
	}
}
