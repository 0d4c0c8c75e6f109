package volume

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"cairn/mount/blockdev"
	"cairn/mount/filesys"
	"cairn/mount/luks"
)

// Disk is one disk of a point.
type Disk struct {
	Name        string // as Linux names it: "vda"
	io.ReaderAt        // nil: there is none
	Size        int64  // bytes
}

// Options say how what is found is opened. The zero value is the common case.
type Options struct {
	filesys.Options
	// Secrets open encrypted volumes.
	Secrets []Secret
	// Keys remembers what they opened, which is slow to find out, for who opens
	// several points of a machine; nil remembers nothing.
	Keys *luks.Keyring
}

// Secret is a passphrase, or the whole content of a key file.
type Secret struct {
	Volume string // the entry that it is for, by name ("vda3"); "": any that it opens
	Bytes  []byte
	From   string // where it is from, for messages: "key file root.key"
}

// Layout is all that the disks of a point hold.
type Layout struct {
	Disks []DiskTable
	// Entries in the order in which they are shown: the partitions of each
	// disk, or the disk itself where it has none, then what is made of them.
	Entries []*Entry
	// Unread is why something could not be read while this was put together, or
	// nil. Entries tell as far as it mattered to them; another look may find more.
	Unread error
}

// DiskTable is the partition table of a disk.
type DiskTable struct {
	Name string
	Size int64
	Table
	Err error // why the disk could not be looked into at all
}

// Made says how an entry came to be.
type Made string

// What entries are made by.
const (
	Partition Made = ""      // a row of a disk's partition table, or a disk without one
	LVM       Made = "lvm2"  // a logical volume
	Array     Made = "raid"  // a software raid
	Decrypted Made = "crypt" // the inside of an encrypted volume
	Subvolume Made = "subvolume"
)

// Title is the way an entry came to be, in words for a person.
func (m Made) Title() string {
	switch m {
	case LVM:
		return "Logical volume"
	case Array:
		return "Software raid"
	case Decrypted:
		return "Decrypted volume"
	case Subvolume:
		return "Subvolume"
	}
	return "Partition"
}

// Entry is one volume: a partition, a disk without partitions, or something
// that a volume manager, a software raid or an encryption makes of others.
// Every one has a line in volumes/, readable or not.
type Entry struct {
	// Name is unique in a point. Partitions have Linux's names, logical volumes
	// and arrays those of their links in /dev (vg-lv as in /dev/mapper, md-NAME
	// for /dev/md/NAME), the inside of an encrypted volume the name of that with _crypt.
	Name string
	Made Made
	Disk string   // the disk that a Partition is on
	Of   []string // names of the entries that it is made of
	Into []string // names of the entries that are made of it; it has no files of its own then
	// Part is the row of the partition table; of what is not a partition only
	// Content and Length count.
	Part Volume
	// Device is its bytes, nil when they cannot be had.
	Device blockdev.Device
	// Reason says, fit for the end of "it cannot be read: …", why there is no
	// Device, or none that could hold files.
	Reason   string
	Warnings []string // sentences about how it was put together
	Err      error    // the disk cannot be looked into; this entry stands for all of it

	open   func(o filesys.Options) (filesys.FS, error) // set where it is not by Content
	others []blockdev.Device                           // the further devices of its file system (btrfs)
}

// HoldsFiles says whether the entry is to be opened as a file system: whether
// files may be expected of it, rather than of something made of it, or nothing.
func (e *Entry) HoldsFiles() bool {
	return e.Err == nil && len(e.Into) == 0 && (e.open != nil || e.Part.Content.Kind.Class() != ClassNothing || e.Device == nil)
}

// CanRead says whether there is a reader for what the entry holds. The file
// system may still turn out to be damaged.
func (e *Entry) CanRead() bool {
	return e.HoldsFiles() && e.Device != nil && e.Reason == "" && (e.open != nil || CanRead(e.Part.Content.Kind))
}

// Open opens the entry's file system.
func (e *Entry) Open(o filesys.Options) (filesys.FS, error) {
	switch {
	case e.Err != nil:
		return nil, e.Err
	case e.Reason != "":
		return nil, &openError{e.Reason, filesys.ErrUnsupported}
	case e.Device == nil || !e.Part.Readable():
		return nil, &openError{e.Part.Problem, filesys.ErrInvalid}
	case e.open != nil:
		return e.open(o)
	}
	return OpenFS(append([]blockdev.Device{e.Device}, e.others...), e.Part.Content.Kind, o)
}

// Assemble looks into all disks of a point, side by side, and puts together what
// lies over several of them or inside of another. What cannot be read is in the
// result with its reason; nothing is left out. It has no error: a disk that
// cannot be looked into has one.
func Assemble(disks []Disk, o Options) *Layout {
	l := &Layout{Disks: make([]DiskTable, len(disks))}
	disks = slices.Clone(disks)
	var lost atomic.Pointer[error]
	var wg sync.WaitGroup
	for i, d := range disks {
		t := &l.Disks[i]
		t.Name, t.Size = d.Name, d.Size
		if d.ReaderAt == nil {
			t.Err = errors.New("the disk has no image")
			continue
		}
		disks[i].ReaderAt = watched{d.ReaderAt, &lost}
		wg.Go(func() { t.Table, t.Err = Scan(disks[i].ReaderAt, d.Size) })
	}
	wg.Wait()
	a := &assembly{Layout: l, opts: o, taken: map[string]bool{}}
	for i, d := range disks {
		t := &l.Disks[i]
		if t.Err != nil {
			a.add(&Entry{Name: d.Name, Disk: d.Name, Err: t.Err})
			continue
		}
		dev := blockdev.Disk(i, d.ReaderAt, d.Size)
		for _, v := range t.Volumes {
			a.add(&Entry{Name: partitionName(d.Name, v.Number), Disk: d.Name, Part: v, Device: blockdev.Section(dev, v.Start, v.Length)})
		}
	}
	a.assemble()
	if err := lost.Load(); err != nil {
		l.Unread = *err
	}
	return l
}

// watched notes that a disk could not be read. Who puts groups and arrays
// together can often do without, and says so, but what the server's absence left
// out must not stay left out.
type watched struct {
	io.ReaderAt
	lost *atomic.Pointer[error]
}

func (w watched) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.ReaderAt.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		w.lost.CompareAndSwap(nil, &err)
	}
	return n, err
}

// maxEntries bounds how many volumes a point may have: hostile metadata could
// list them without end.
const maxEntries = 4096

// assembly is a Layout being built.
type assembly struct {
	*Layout
	opts  Options
	taken map[string]bool // names
	full  bool
	// What was put together already, by identity.
	arrays, groups map[string]bool
}

func (a *assembly) add(e *Entry) {
	if len(a.Entries) >= maxEntries {
		a.full = true
		return
	}
	e.Name = unique(a.taken, e.Name)
	a.Entries = append(a.Entries, e)
}

// addDevice adds what d holds as e, or its partitions when it has some: an array
// or a decrypted disk may well have a table.
func (a *assembly) addDevice(e *Entry) {
	if e.Device == nil {
		a.add(e)
		return
	}
	t, err := Scan(e.Device, e.Device.Size())
	if err != nil {
		e.Err = err
		a.add(e)
		return
	}
	e.Warnings = append(e.Warnings, t.Warnings...)
	if t.Scheme == Bare {
		e.Part = t.Volumes[0]
		e.Part.TypeName = ""
		a.add(e)
		return
	}
	whole := *e
	whole.Part = Volume{Length: e.Device.Size(), Content: Content{Kind: Unpartitioned}}
	a.add(&whole)
	for _, v := range t.Volumes {
		p := &Entry{Name: partitionName(whole.Name, v.Number), Made: e.Made, Of: []string{whole.Name}, Part: v,
			Device: blockdev.Section(e.Device, v.Start, v.Length)}
		a.add(p)
		whole.Into = append(whole.Into, p.Name)
	}
}

// assemble goes on until nothing new appears. Encryption comes before arrays and
// those before volume groups at each turn, so that a group is put together once
// all that could be its members is there.
func (a *assembly) assemble() {
	a.arrays, a.groups = map[string]bool{}, map[string]bool{}
	for from := 0; from < len(a.Entries); {
		n := len(a.Entries)
		a.decrypt(from)
		if len(a.Entries) == n {
			a.raid()
		}
		if len(a.Entries) == n {
			a.lvm()
		}
		from = n
	}
	a.btrfs()
}

// byKind are the entries that hold a kind and are nobody's yet.
func (a *assembly) byKind(k Kind) (list []*Entry) {
	for _, e := range a.Entries {
		if e.Part.Content.Kind == k && e.Device != nil && e.Part.Readable() && e.Reason == "" && len(e.Into) == 0 {
			list = append(list, e)
		}
	}
	return list
}

// into notes that made is made of e.
func into(e *Entry, made string) {
	if !slices.Contains(e.Into, made) {
		e.Into = append(e.Into, made)
	}
}

// partitionName is the name that Linux would give: a p goes between a name that
// ends in a digit and the number.
func partitionName(disk string, number int) string {
	switch last := disk[len(disk)-1]; {
	case number == 0:
		return disk
	case last >= '0' && last <= '9':
		return fmt.Sprintf("%sp%d", disk, number)
	default:
		return fmt.Sprintf("%s%d", disk, number)
	}
}

// safeName makes a name out of metadata fit for one path element.
func safeName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, clean(name))
	if name == "" || name == "." || name == ".." {
		return "unnamed"
	}
	return name
}

// unique appends a number to a name that is taken.
func unique(taken map[string]bool, name string) string {
	try := name
	for i := 2; taken[try]; i++ {
		try = fmt.Sprintf("%s~%d", name, i)
	}
	taken[try] = true
	return try
}

// reason is an error as the end of a sentence, without the words of a sentinel
// that say nothing more.
func reason(err error) string {
	s := err.Error()
	for _, sentinel := range []error{filesys.ErrUnsupported, filesys.ErrCorrupt, filesys.ErrInvalid} {
		if errors.Is(err, sentinel) {
			s = strings.TrimSuffix(s, ": "+sentinel.Error())
		}
	}
	return s
}
