package tree

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Point is one recovery point, as its owner hands it to the tree.
type Point struct {
	Name  string // resource name, for messages
	ID    string
	Time  time.Time
	JSON  []byte // the point as a JSON object; becomes point.json
	Disks []Disk
	Close func() error // called by Tree.Close, may be nil
}

// Disk is one disk of a point.
type Disk struct {
	Name  string // "vda"
	Size  int64  // bytes; 0: ask Image
	Image Image
	// Allocated is how much of the disk is data, in bytes; 0: not known.
	Allocated int64
}

func (d Disk) size() int64 {
	if d.Size > 0 || d.Image == nil {
		return d.Size
	}
	return d.Image.Size()
}

// NewPoint lays out one point. It reads nothing yet.
func NewPoint(p Point, opts Options) *Tree {
	t := newTree(opts)
	t.root = t.pointDir(t.newBase(dirMode, p.Time), p)
	_ = t.onClose(p.Close)
	return t
}

// pointDir builds a point's directory; b is the directory's own identity.
func (t *Tree) pointDir(b base, p Point) *dir {
	disks := make([]child, 0, len(p.Disks))
	vols := &volumesDir{base: t.newBase(dirMode, p.Time)}
	names := make(map[string]bool)
	for _, d := range p.Disks {
		d.Name = unique(names, fileName(d.Name, "disk"))
		disks = append(disks, child{d.Name + ".raw", &raw{t.newBase(fileMode, p.Time), d}})
		vols.disks = append(vols.disks, d)
	}
	json := &text{base: t.newBase(fileMode, p.Time)}
	json.render = func(ctx context.Context) ([]byte, error) { return pointJSON(ctx, p.JSON, vols) }
	return &dir{b, []child{
		{"disks", &dir{t.newBase(dirMode, p.Time), disks}},
		{"point.json", json},
		{"volumes", vols},
	}}
}

// fileName makes a name from outside fit for one path element.
func fileName(name, fallback string) string {
	name = strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' || r == 0x7f {
			return '_'
		}
		return r
	}, name)
	if name == "" || name == "." || name == ".." {
		return fallback
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
