package history

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"cairn/mount/filesys"
	"cairn/mount/tree"
)

// openAhead is how many points are opened at a time.
const openAhead = 8

// Version is a file as it was in a row of points, one after the other.
type Version struct {
	First, Last Ref
	Points      int
	// Path is where the file is in the points' trees, /volumes/vda1/etc/hosts,
	// without symlinks on the way. It is empty, and so is all that follows,
	// where there is no such file.
	Path string
	Attr filesys.Attr // with the guest's inode number; of the first of the points
	// Target is that of a symlink.
	Target string
	// Digest stands for the content of a regular file: two versions with one
	// digest have equal contents. Empty where that cannot be told.
	Digest string
	// SHA256 of the content, in hex, if it was asked for.
	SHA256 string
	// What differs from the version before, 0 of the first and where either does
	// not have the file.
	What What
	// Err says why it is not known whether the points have the file.
	Err error
}

// Present says whether the points have the file.
func (v *Version) Present() bool { return v.Err == nil && v.Path != "" }

// VersionOptions tune Versions.
type VersionOptions struct {
	Options
	// SHA256 reads the content of each version.
	SHA256 bool
}

// ErrAmbiguous: a path is on several volumes; the message names them.
var ErrAmbiguous = errors.New("the path is on several volumes")

// Versions calls fn with every version of a file, oldest first: rows of points
// in which it is the same by the rules of this package, and rows in which it is
// not there. p is a path in the tree of a point (/volumes/vda1/etc/hosts), or one
// inside the guest (/etc/hosts), which must not be on several volumes.
//
// Of a directory the versions are those of its attributes, not of what is in it.
//
// Only what leads to the file is read in each point. Contents are read where
// points keep the file in blocks that differ, and just its own bytes there.
func Versions(ctx context.Context, item Item, p string, o VersionOptions, fn func(Version) error) error {
	g, opening := errgroup.WithContext(ctx)
	states := make([]*state, len(item.Refs))
	defer func() {
		for _, s := range states {
			s.close()
		}
	}()
	g.SetLimit(openAhead)
	for i := range item.Refs {
		g.Go(func() error {
			s, err := lookIn(opening, item, i, p)
			states[i] = s
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := settleVolume(states, p); err != nil {
		return err
	}
	v := &versioner{ctx: ctx, o: o, fn: fn}
	for _, s := range states {
		if err := v.add(s); err != nil {
			return err
		}
	}
	if err := v.flush(); err != nil {
		return err
	}
	if v.incomplete {
		return ErrIncomplete
	}
	return nil
}

// state is what one point has at the path.
type state struct {
	ref   Ref
	point *Point
	spots []spot // where it is: one for each volume that has it
	read  map[string]bool
	// mounted: the guest's table of mounts says which volume the path is on.
	mounted bool
	err     error // of a volume that cannot be read, or of the way to the file
}

// spot is a file in a volume.
type spot struct {
	vol  *volume
	path string
	fs   filesys.FS
	ino  uint64
	attr filesys.Attr
	// elsewhere: not on the volume that the guest's table of mounts tells.
	elsewhere bool
}

func (s *state) close() {
	if s != nil && s.point != nil {
		_ = s.point.Tree.Close() // leases run out by themselves
		s.point = nil
	}
}

// lookIn looks for the path in one point.
func lookIn(ctx context.Context, item Item, i int, p string) (*state, error) {
	s := &state{ref: item.Refs[i], read: map[string]bool{}}
	var err error
	if s.point, err = item.Open(ctx, i); err != nil {
		return s, fmt.Errorf("open point %s: %w", s.ref.ID, err)
	}
	return s, s.look(ctx, p)
}

// look finds the path on the point's volumes. One inside the guest is where the
// guest's own table of mounts says; only what is not there is looked for on
// other volumes, and not even that below where the guest mounts something else.
func (s *state) look(ctx context.Context, p string) error {
	only, inside := splitVolume(p)
	if only == "" {
		at, own, err := s.point.Tree.GuestPath(ctx, p)
		if err != nil {
			s.err = err
			return ctx.Err()
		}
		if at != "" {
			s.mounted = true
			vol, in := splitVolume(at)
			if err := s.onVolumes(ctx, vol, in, false); err != nil || len(s.spots) > 0 || s.err != nil || own {
				return err
			}
		}
		if at == "" && own {
			s.err = fmt.Errorf("%s: by its /etc/fstab the guest mounts a file system there that is none of the volumes that can be read", p)
			return ctx.Err()
		}
	}
	return s.onVolumes(ctx, only, inside, s.mounted)
}

// onVolumes looks for a path inside of a volume, or of all.
func (s *state) onVolumes(ctx context.Context, only, inside string, elsewhere bool) error {
	vols, err := s.point.volumes(ctx, only)
	if err != nil {
		return fmt.Errorf("point %s: %w", s.ref.ID, err)
	}
	var failed []error
	for _, v := range vols {
		if v.fs == nil {
			failed = append(failed, fmt.Errorf("%s: %w", v.path(), v.err))
			continue
		}
		f, err := s.point.Tree.Resolve(ctx, v.path()+inside, false)
		switch {
		case err == nil:
			s.read[v.name] = true
			if err := s.found(v, f, elsewhere); err != nil {
				failed = append(failed, err)
			}
		case errors.Is(err, filesys.ErrNotExist) || errors.Is(err, filesys.ErrNotDir):
			s.read[v.name] = true
		default:
			failed = append(failed, err)
		}
	}
	if err := s.point.lost(ctx); err != nil {
		failed = append(failed, err)
	}
	s.err = errors.Join(failed...)
	return ctx.Err()
}

// splitVolume takes the volume off a path in the tree; only is empty for a path
// inside the guest.
func splitVolume(p string) (only, inside string) {
	p = path.Clean("/" + p)
	rest, ok := strings.CutPrefix(p, "/volumes/")
	if !ok {
		return "", p
	}
	only, inside, _ = strings.Cut(rest, "/")
	return only, "/" + inside
}

func (s *state) found(v *volume, f tree.Found, elsewhere bool) error {
	fs, ino, ok := tree.Guest(f.Node)
	if !ok {
		return fmt.Errorf("%s: %w", f.Path, filesys.ErrInvalid)
	}
	a := f.Attr
	a.Ino = ino
	s.spots = append(s.spots, spot{v, f.Path, fs, ino, a, elsewhere})
	return nil
}

// settleVolume decides which volume a path inside the guest means: the one that
// has it in some point. Where that volume can be read, others do not matter.
func settleVolume(states []*state, p string) error {
	names := map[string]bool{}
	home := slices.ContainsFunc(states, func(s *state) bool { return len(s.spots) > 0 && !s.spots[0].elsewhere })
	for _, s := range states {
		if home { // what other volumes have at that path is something else
			s.spots = slices.DeleteFunc(s.spots, func(sp spot) bool { return sp.elsewhere })
		}
		for _, sp := range s.spots {
			names[sp.vol.name] = true
		}
	}
	if len(names) > 1 {
		var list []string
		_, inside := splitVolume(p)
		for n := range names {
			list = append(list, "/volumes/"+n+inside)
		}
		slices.Sort(list)
		return fmt.Errorf("%s: %w: write %s", p, ErrAmbiguous, strings.Join(list, " or "))
	}
	for _, s := range states {
		for n := range names {
			if s.read[n] {
				s.err = nil
			}
		}
	}
	return nil
}

// versioner makes versions of states.
type versioner struct {
	ctx        context.Context
	o          VersionOptions
	fn         func(Version) error
	now        *Version
	last       *state // the newest of now's points
	incomplete bool
}

func (v *versioner) add(s *state) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	w, same, err := v.compare(s)
	if err != nil && v.ctx.Err() != nil {
		return v.ctx.Err()
	}
	if err != nil { // it is there, and cannot be compared
		s.err = err
	}
	if same && err == nil {
		v.now.Last = s.ref
		v.now.Points++
		v.last.close()
		v.last = s
		return nil
	}
	if err := v.flush(); err != nil {
		return err
	}
	v.now = &Version{First: s.ref, Last: s.ref, Points: 1, What: w, Err: s.err}
	v.last = s
	if s.err != nil {
		v.incomplete = true
		if v.o.Problem != nil {
			v.o.Problem(s.ref.ID, "", s.err)
		}
		return nil
	}
	if len(s.spots) == 0 {
		return nil
	}
	return v.describe(&s.spots[0])
}

// describe fills in the version that begins with sp.
func (v *versioner) describe(sp *spot) (err error) {
	n := v.now
	n.Path, n.Attr = sp.path, sp.attr
	switch kind(sp.attr) {
	case filesys.TypeSymlink:
		n.Target, err = sp.fs.Readlink(sp.ino)
	case filesys.TypeRegular:
		var f filesys.File
		if f, err = sp.fs.Open(sp.ino); err != nil {
			break
		}
		if n.Digest, err = digest(v.ctx, sp.vol, f); err == nil && v.o.SHA256 {
			n.SHA256, err = sum(v.ctx, f)
		}
	}
	if err != nil && v.ctx.Err() == nil { // what is known of it still holds
		v.incomplete = true
		if v.o.Problem != nil {
			v.o.Problem(n.First.ID, n.Path, err)
		}
		err = nil
	}
	return err
}

func (v *versioner) flush() error {
	if v.now == nil {
		return nil
	}
	n := *v.now
	v.now = nil
	v.last.close()
	return v.fn(n)
}

// compare compares a state with the newest of the current version.
func (v *versioner) compare(s *state) (w What, same bool, err error) {
	if v.now == nil {
		return 0, false, nil
	}
	l := v.last
	switch {
	case l.err != nil || s.err != nil:
		return 0, l.err != nil && s.err != nil && l.err.Error() == s.err.Error(), nil
	case len(l.spots) == 0 || len(s.spots) == 0:
		return 0, len(l.spots) == len(s.spots), nil
	}
	w, err = v.differ(&l.spots[0], &s.spots[0])
	return w, w == 0 && err == nil, err
}

// differ compares the file of one point with that of the next.
func (v *versioner) differ(x, y *spot) (What, error) {
	w, err := differing(x.fs, x.attr, y.fs, y.attr)
	if err != nil || w&Type != 0 || kind(x.attr) != filesys.TypeRegular {
		return w, err
	}
	if x.attr.Size != y.attr.Size {
		return w | Content, nil
	}
	f, errX := x.fs.Open(x.ino)
	g, errY := y.fs.Open(y.ino)
	if err := errors.Join(errX, errY); err != nil {
		if errors.Is(errX, filesys.ErrUnsupported) && errors.Is(errY, filesys.ErrUnsupported) { // encrypted, say
			if w&Mtime != 0 {
				w |= Content
			}
			return w, nil
		}
		return w, err
	}
	c := &comparer{ctx: v.ctx}
	if x.vol.dev != nil && y.vol.dev != nil {
		c.changed = func(off, n int64) ([]filesys.Range, error) { return part(v.ctx, x.vol, y.vol, off, n) }
	}
	_, storedX := f.(filesys.Stored)
	// Where only reading all of it would tell, what the guest noted has to do.
	noted := func() (What, error) {
		if w&Mtime != 0 || !untouched(x.attr, y.attr) {
			w |= Content
		}
		return w, nil
	}
	if c.changed == nil || !storedX {
		return noted()
	}
	if w&Mtime != 0 && x.ino != y.ino {
		return w | Content, nil // another file under the name
	}
	same, err := c.same(f, g)
	if errors.Is(err, errNoPlace) {
		return noted()
	}
	if err == nil && !same {
		w |= Content
	}
	return w, err
}

// sum reads a file, leaving out its holes, and gives its SHA-256.
func sum(ctx context.Context, f filesys.File) (string, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for off, size := int64(0), f.Size(); off < size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		data, n, err := f.Extent(off)
		if err != nil || n <= 0 {
			return "", fmt.Errorf("extent at %d: %w", off, errors.Join(err, io.ErrUnexpectedEOF))
		}
		n = min(n, size-off, int64(len(buf)))
		if data {
			if err := readFull(f, buf[:n], off); err != nil {
				return "", err
			}
		} else {
			clear(buf[:n])
		}
		_, _ = h.Write(buf[:n])
		off += n
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
