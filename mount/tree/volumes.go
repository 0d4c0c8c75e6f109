package tree

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"cairn/mount/filesys"
	"cairn/mount/volume"
)

const (
	// openLimit bounds how many disks are scanned and volumes opened at once.
	openLimit = 8
	// retryAfter is how long what is not settled yet may be cached: a volume
	// that could not be reached is tried again after it.
	retryAfter = 2 * time.Second
)

// Volume is one volume of a point: a partition, or a disk without partitions.
type Volume struct {
	Name string        // its directory in volumes/, as Linux names it: "vda1"
	Disk string        // the disk's name: "vda"
	Part volume.Volume // its place in the partition table and what it holds

	tree    *Tree
	time    time.Time
	scanErr error // the disk could not be scanned: this entry stands for all of it
	reader  io.ReaderAt
	size    int64
	inodes  inodes
	fs      lazy[opened]
	note    lazy[*text]
}

// opened is how opening a volume ended, once that is settled.
type opened struct {
	fs   filesys.FS
	info filesys.Info
	err  error
}

// FS opens the volume's file system, at the first call. What a broken or unknown
// volume answers is remembered; an error on the way to it is not.
func (v *Volume) FS() (filesys.FS, error) {
	o, err := v.fs.get(func() (opened, error) {
		fs, err := v.open()
		if err != nil && !permanent(err) {
			return opened{}, err
		}
		o := opened{fs: fs, err: err}
		if err == nil {
			o.info = fs.Info()
		}
		v.report(o)
		return o, nil
	})
	if err == nil {
		err = o.err
	}
	return o.fs, err
}

// Info describes the opened volume; it is zero before FS has succeeded.
func (v *Volume) Info() filesys.Info {
	if !v.fs.done.Load() {
		return filesys.Info{}
	}
	return v.fs.v.info
}

func (v *Volume) open() (filesys.FS, error) {
	switch {
	case v.scanErr != nil:
		return nil, v.scanErr
	case !v.Part.Readable():
		return nil, fmt.Errorf("%s: %w", v.Part.Problem, filesys.ErrInvalid)
	}
	return v.tree.opts.OpenFS(v.reader, v.size)
}

// report logs how a volume was opened, once.
func (v *Volume) report(o opened) {
	log := v.tree.opts.Log.With("volume", v.Name)
	switch {
	case o.err != nil && !v.isEmpty():
		log.Warn("volume cannot be read", "reason", o.err)
	case o.err == nil:
		if v.Part.Problem != "" {
			log.Warn("volume has a problem", "problem", v.Part.Problem)
		}
		for _, w := range o.info.Warnings {
			log.Info("volume opened", "note", w)
		}
	}
}

// isEmpty: no files are to be expected here, and nothing is wrong.
func (v *Volume) isEmpty() bool {
	return v.scanErr == nil && v.Part.Readable() && v.Part.Content.Kind.Class() == volume.ClassNothing
}

// settled: another look would give the same answer.
func (v *Volume) settled() bool { return v.fs.done.Load() }

// entry is what volumes/ shows for the volume: its root directory, or the note
// that says why there is none.
func (v *Volume) entry() child {
	fs, err := v.FS()
	if err == nil {
		return child{v.Name, v.root(fs)}
	}
	reason := err
	if v.settled() {
		n, _ := v.note.get(func() (*text, error) { return v.newNote(reason), nil })
		return child{v.noteName(), n}
	}
	return child{v.noteName(), v.newNote(reason)}
}

func (v *Volume) noteName() string {
	if v.isEmpty() {
		return v.Name + "." + strings.ToUpper(string(v.Part.Content.Kind)) + ".txt"
	}
	return v.Name + ".UNREADABLE.txt"
}

func (v *Volume) newNote(reason error) *text {
	t := &text{base: v.tree.newBase(fileMode, v.time)}
	t.content.v = []byte(v.describe(reason))
	t.content.done.Store(true)
	return t
}

// describe is the text of the note.
func (v *Volume) describe(reason error) string {
	var b strings.Builder
	p := &v.Part
	if v.isEmpty() {
		fmt.Fprintf(&b, "%s holds %s.\n", v.Name, p.Content.Kind.Title())
	} else {
		text := reason.Error()
		if p.Problem != "" && !p.Readable() {
			text = p.Problem
		}
		fmt.Fprintf(&b, "%s cannot be read: %s.\n", v.Name, text)
	}
	if v.scanErr != nil {
		return b.String()
	}
	fmt.Fprintf(&b, "\nDisk %s", v.Disk)
	if p.Number > 0 {
		fmt.Fprintf(&b, ", partition %d: %s", p.Number, p.TypeName)
		if p.Label != "" {
			fmt.Fprintf(&b, " %q", p.Label)
		}
	}
	fmt.Fprintf(&b, "\nContents: %s", p.Content.Kind.Title())
	if p.Content.Label != "" {
		fmt.Fprintf(&b, ", label %q", p.Content.Label)
	}
	if p.Content.UUID != "" {
		fmt.Fprintf(&b, ", UUID %s", p.Content.UUID)
	}
	if p.Problem != "" && p.Readable() {
		fmt.Fprintf(&b, "\nProblem: %s", p.Problem)
	}
	fmt.Fprintf(&b, "\nIts bytes are in disks/%s.raw from byte %d, %d bytes long.\n", v.Disk, p.Start, p.Length)
	return b.String()
}

// diskVolumes is the volumes of one disk.
type diskVolumes struct {
	disk  Disk
	table lazy[scanned]
}

type scanned struct {
	table   volume.Table
	volumes []*Volume
}

func (d *diskVolumes) scan(t *Tree, at time.Time) (scanned, error) {
	return d.table.get(func() (scanned, error) {
		if d.disk.Image == nil {
			return scanned{}, fmt.Errorf("disk %s has no image", d.disk.Name)
		}
		table, err := volume.Scan(d.disk.Image, d.disk.size())
		if err != nil {
			return scanned{}, err
		}
		for _, w := range table.Warnings {
			t.opts.Log.Warn("partition table", "disk", d.disk.Name, "warning", w)
		}
		s := scanned{table: table}
		for _, p := range table.Volumes {
			v := &Volume{Name: partitionName(d.disk.Name, p.Number), Disk: d.disk.Name, Part: p, tree: t, time: at}
			v.reader, v.size = p.Section(d.disk.Image, d.disk.size())
			v.inodes.slot = t.slot.Add(1)
			s.volumes = append(s.volumes, v)
		}
		return s, nil
	})
}

// partitionName is the name that Linux would give: a p goes between a disk name
// that ends in a digit and the number.
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

// volumesDir is the directory volumes/ of a point.
type volumesDir struct {
	base
	disks []*diskVolumes
	all   lazy[[]*Volume]
}

// list scans the disks, side by side. A disk that cannot be scanned is one
// unreadable Volume, and scanned again the next time.
func (d *volumesDir) list(ctx context.Context) []*Volume {
	all, err := d.all.get(func() ([]*Volume, error) {
		per := make([][]*Volume, len(d.disks))
		failed := make([]error, len(d.disks))
		var g errgroup.Group
		g.SetLimit(openLimit)
		for i, dv := range d.disks {
			g.Go(func() error {
				s, err := dv.scan(d.tree, d.time)
				if err != nil {
					failed[i] = err
					s.volumes = []*Volume{{Name: dv.disk.Name, Disk: dv.disk.Name, scanErr: err, tree: d.tree, time: d.time}}
				}
				per[i] = s.volumes
				return nil
			})
		}
		_ = g.Wait()
		all := slices.Concat(per...)
		taken := make(map[string]bool)
		for _, v := range all {
			v.Name = unique(taken, v.Name)
		}
		for _, err := range failed {
			if err != nil {
				return all, err
			}
		}
		return all, nil
	})
	_ = err // said by the disk's entry
	return all
}

func (d *volumesDir) Lookup(ctx context.Context, name string) (Node, error) {
	for _, v := range d.list(ctx) {
		switch {
		case name == v.Name:
			fs, err := v.FS()
			if err == nil {
				return v.root(fs), nil
			}
			if !v.settled() {
				return nil, err // the way to it failed: it may well be there
			}
		case strings.HasPrefix(name, v.Name+".") && name == v.noteName():
			if e := v.entry(); e.name == name {
				return e.node, nil
			}
		}
	}
	return nil, notExist(name)
}

// ReadDir opens all volumes, side by side: only then is it known which have an
// entry as a directory.
func (d *volumesDir) ReadDir(ctx context.Context, cookie uint64, fn func(Entry) bool) error {
	vols := d.list(ctx)
	entries := make([]child, len(vols))
	var g errgroup.Group
	g.SetLimit(openLimit)
	for i, v := range vols {
		g.Go(func() error {
			entries[i] = v.entry()
			return nil
		})
	}
	_ = g.Wait()
	readDir(entries, cookie, fn)
	return nil
}

// Fresh: for ever, once every volume has been opened or found unreadable.
func (d *volumesDir) Fresh() time.Duration {
	if !d.all.done.Load() {
		return retryAfter
	}
	for _, v := range d.all.v {
		if !v.settled() {
			return retryAfter
		}
	}
	return 0
}
