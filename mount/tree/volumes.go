package tree

import (
	"context"
	"errors"
	"fmt"
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

// Volume is one volume of a point: a partition, a disk without partitions, or
// what a volume manager, a software raid or an encryption makes of those.
type Volume struct {
	*volume.Entry

	tree   *Tree
	time   time.Time
	inodes *inodes
	fs     lazy[opened]
	note   lazy[*text]
}

// opened is how opening a volume ended, once that is settled.
type opened struct {
	fs   filesys.FS
	info filesys.Info // brief, where the file system can be
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
			if b, ok := fs.(filesys.Briefer); ok {
				o.info = b.Brief()
			} else {
				o.info = fs.Info()
			}
		}
		v.report(o)
		return o, nil
	})
	if err == nil {
		err = o.err
	}
	return o.fs, err
}

// Brief describes the opened volume without counting what is free; it is zero
// before FS has succeeded.
func (v *Volume) Brief() filesys.Info {
	if !v.fs.done.Load() {
		return filesys.Info{}
	}
	return v.fs.v.info
}

// Info describes the opened volume, free space and all, for which much may have
// to be read; it is zero before FS has succeeded.
func (v *Volume) Info() filesys.Info {
	if !v.fs.done.Load() || v.fs.v.err != nil {
		return filesys.Info{}
	}
	return v.fs.v.fs.Info()
}

func (v *Volume) open() (filesys.FS, error) {
	if open := v.tree.opts.OpenFS; open != nil && v.Err == nil && v.Device != nil && v.Part.Readable() {
		return open(v.Device, v.Device.Size())
	}
	if !v.HoldsFiles() && v.Err == nil && v.Part.Readable() {
		return nil, fmt.Errorf("it %s: %w", v.content(), filesys.ErrWrongType)
	}
	return v.Entry.Open(v.tree.opts.Volumes.Options)
}

// report logs how a volume was opened, once.
func (v *Volume) report(o opened) {
	log := v.tree.opts.Log.With("volume", v.Name)
	for _, w := range v.Warnings {
		log.Warn("volume is not whole", "warning", w)
	}
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
	return v.Err == nil && v.Reason == "" && v.Part.Readable() && !v.HoldsFiles()
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

// volumesDir is the directory volumes/ of a point.
type volumesDir struct {
	base
	disks []Disk
	all   lazy[*found]
	known map[string]*Volume // those that were opened, by name; guarded by all's lock
}

// found is what the disks of a point hold.
type found struct {
	disks   []volume.DiskTable
	volumes []*Volume
}

// errUnread: something could not be read, and another look may find it.
var errUnread = errors.New("not everything could be read")

// list looks into the disks. What could not be read on the way is looked for
// again the next time; volumes that were opened meanwhile stay as they are.
func (d *volumesDir) list() *found {
	f, err := d.all.get(func() (*found, error) {
		disks := make([]volume.Disk, len(d.disks))
		for i, disk := range d.disks {
			disks[i] = volume.Disk{Name: disk.Name, ReaderAt: disk.Image, Size: disk.size()}
		}
		l := volume.Assemble(disks, d.tree.opts.Volumes)
		f := &found{disks: l.Disks}
		err := l.Unread
		for _, t := range l.Disks {
			for _, w := range t.Warnings {
				d.tree.opts.Log.Warn("partition table", "disk", t.Name, "warning", w)
			}
		}
		for _, e := range l.Entries {
			v := d.known[e.Name]
			if v == nil || !v.fs.done.Load() || v.fs.v.err != nil {
				ids := &inodes{}
				if v != nil {
					ids = v.inodes
				} else {
					ids.slot = d.tree.slot.Add(1)
				}
				v = &Volume{Entry: e, tree: d.tree, time: d.time, inodes: ids}
				if d.known == nil {
					d.known = map[string]*Volume{}
				}
				d.known[e.Name] = v
			}
			if e.Err != nil {
				err = errUnread
			}
			f.volumes = append(f.volumes, v)
		}
		return f, err
	})
	_ = err // said by the entries
	return f
}

func (d *volumesDir) Lookup(ctx context.Context, name string) (Node, error) {
	for _, v := range d.list().volumes {
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
	vols := d.list().volumes
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
	for _, v := range d.all.v.volumes {
		if !v.settled() {
			return retryAfter
		}
	}
	return 0
}
