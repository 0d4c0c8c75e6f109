package source

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Images is the Source of image files in a directory; see the package comment
// for which files are which machines.
type Images struct {
	dir string
	now func() time.Time

	mu    sync.Mutex
	infos map[string]cachedInfo // by path
}

var _ Source = (*Images)(nil)

// NewImages returns the source of the images in dir, which must be a directory
// that can be read.
func NewImages(dir string) (*Images, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("images directory %s: %w", dir, err)
	}
	s := &Images{dir: abs, now: time.Now, infos: map[string]cachedInfo{}}
	if _, err := s.list(); err != nil {
		return nil, err
	}
	return s, nil
}

// machine is a machine as its files' names tell, before any is opened.
type machine struct {
	id, title string
	images    []*image
	problem   error
}

// image is one disk of a machine.
type image struct {
	target, path string
	chain        *layer // nil if there is a problem
	running      bool   // a QEMU has it open for writing
	problem      error
}

// list finds the machines by the names of files.
func (s *Images) list() ([]*machine, error) {
	names, err := readDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("images directory %s: %w", s.dir, err)
	}
	parts := s.parts(s.dir, names)
	byID := map[string]*machine{}
	for _, name := range names {
		m := s.entry(name, parts)
		if m == nil {
			continue
		}
		if first := byID[m.id]; first != nil {
			first.problem = unusable("%s and %s would both be machine %s: rename one of them", first.title, m.title, m.id)
			first.images = nil
			continue
		}
		byID[m.id] = m
	}
	all := make([]*machine, 0, len(byID))
	for _, m := range byID {
		if m.problem == nil && len(m.images) == 1 && filepath.Dir(m.images[0].path) == s.dir {
			m.title = stem(m.title)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *machine) int { return cmp.Compare(a.id, b.id) })
	return all, nil
}

// entry makes a machine of one name in the images directory, or nil.
func (s *Images) entry(name string, parts map[string]bool) *machine {
	path := filepath.Join(s.dir, name)
	st, err := os.Stat(path)
	isDir := err == nil && st.IsDir()
	switch {
	case extFormat(name) != "" && !parts[path]:
		// A directory, a dangling link and so on is told to be one when it is
		// opened.
		return &machine{id: IDOf(stem(name), "vm"), title: name, images: []*image{{target: "vda", path: path}}}
	case isDir && !strings.HasPrefix(name, "."):
		m := &machine{id: IDOf(name, "vm"), title: name}
		names, err := readDir(path)
		if err != nil {
			m.problem = unusable("%s: cannot be read: %v", path, err)
			return m
		}
		m.images = disksIn(path, names, s.parts(path, names))
		if len(m.images) == 0 {
			return nil
		}
		return m
	}
	return nil
}

// disksIn makes disks of the images among the names in dir.
func disksIn(dir string, names []string, parts map[string]bool) []*image {
	var all []*image
	first := map[string]*image{}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if extFormat(name) == "" || parts[path] {
			continue
		}
		im := &image{target: IDOf(stem(name), "disk"), path: path}
		if other := first[im.target]; other == nil {
			first[im.target] = im
		} else {
			im.problem = unusable("%s and %s would both be disk %s: rename one of them", other.path, path, im.target)
			other.problem = im.problem
			im.target = IDOf(name+"\x80", im.target) // with a hash in it
		}
		all = append(all, im)
	}
	return all
}

// readDir returns the sorted names in a directory.
func readDir(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// parts finds the files that are no images of their own, but hold the data of
// another one in the same directory: VMDK extents, external data files.
func (s *Images) parts(dir string, names []string) map[string]bool {
	parts := map[string]bool{}
	for _, name := range names {
		format := extFormat(name)
		if format != "qcow2" && format != "qcow" && format != "vmdk" {
			continue
		}
		path := filepath.Join(dir, name)
		f, st, err := openRegular(path)
		if err != nil {
			continue // reported when the image is probed
		}
		if format, err = formatOf(f, format); err == nil {
			refs, _ := references(f, st.Size(), format)
			for _, ref := range refs {
				if file, err := resolve(path, ref.name); err == nil && file != path {
					parts[file] = true
				}
			}
		}
		f.Close()
	}
	return parts
}

// probeImages looks into the images of machines. Only a cancelled ctx is an
// error; what is wrong with an image is noted there.
func (s *Images) probeImages(ctx context.Context, images []*image) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, im := range images {
		if im.problem != nil {
			continue
		}
		g.Go(func() error {
			im.chain, im.problem = s.probe(ctx, im.path, "")
			if im.problem == nil {
				im.running = openForWriting(im.path)
			}
			return context.Cause(ctx)
		})
	}
	return g.Wait()
}

// Machines implements Source.
func (s *Images) Machines(ctx context.Context) ([]Machine, error) {
	list, err := s.list()
	if err != nil {
		return nil, err
	}
	var images []*image
	for _, m := range list {
		images = append(images, m.images...)
	}
	if err := s.probeImages(ctx, images); err != nil {
		return nil, fmt.Errorf("images directory %s: %w", s.dir, err)
	}
	all := make([]Machine, len(list))
	for i, m := range list {
		all[i] = m.public()
	}
	return all, nil
}

// public is the machine as the source's users see it.
func (m *machine) public() Machine {
	p := Machine{ID: m.id, Title: valid(m.title)}
	if m.problem != nil {
		p.Problem = valid(m.problem.Error())
	}
	bad := 0
	for _, im := range m.images {
		d := im.public()
		p.Disks = append(p.Disks, d)
		if im.running {
			p.State = StateRunning
		}
		if d.Problem == "" {
			continue
		}
		if bad++; bad == 1 {
			p.Problem = fmt.Sprintf("disk %s: %s", d.Target, d.Problem)
		}
	}
	if bad > 1 {
		p.Problem += fmt.Sprintf(" (and %d more of its disks have problems)", bad-1)
	}
	return p
}

func (im *image) public() Disk {
	d := Disk{Target: im.target, Path: valid(im.path), Format: extFormat(filepath.Base(im.path))}
	if im.problem != nil {
		d.Problem = valid(im.problem.Error())
	}
	if im.chain == nil {
		return d
	}
	d.Format, d.Size = im.chain.format, im.chain.size
	for l := im.chain; l != nil; l = l.backing {
		d.Allocated += l.alloc
	}
	return d
}

// valid makes a text fit to be shown and sent: file names can hold any bytes.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
