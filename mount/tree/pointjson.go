package tree

import (
	"bytes"
	"context"
	"encoding/json"

	"cairn/mount/volume"
)

// layout is what point.json says about a disk, under the key "layout".
type layout struct {
	Disk       string         `json:"disk"`
	Size       int64          `json:"size"`
	Scheme     volume.Scheme  `json:"partitionTable,omitempty"`
	SectorSize int            `json:"sectorSize,omitempty"`
	UUID       string         `json:"uuid,omitempty"`
	Warnings   []string       `json:"warnings,omitempty"`
	Error      string         `json:"error,omitempty"`
	Volumes    []layoutVolume `json:"volumes"`
}

type layoutVolume struct {
	Name    string      `json:"name"`
	Path    string      `json:"path,omitempty"` // set when its files should be readable
	Start   int64       `json:"start"`
	Length  int64       `json:"length"`
	Type    string      `json:"type,omitempty"`
	Label   string      `json:"partitionLabel,omitempty"`
	UUID    string      `json:"partitionUuid,omitempty"`
	Content volume.Kind `json:"content"`
	FSLabel string      `json:"label,omitempty"`
	FSUUID  string      `json:"uuid,omitempty"`
	Problem string      `json:"problem,omitempty"`
	// Unreadable is the reason why there is no directory for the volume.
	Unreadable string `json:"unreadable,omitempty"`
}

// pointJSON is the caller's JSON object with the layout of the disks added. It
// reads the partition tables, not the file systems: a volume that turns out to
// be damaged shows that in volumes/ only.
func pointJSON(ctx context.Context, point []byte, d *volumesDir) ([]byte, error) {
	vols := d.list(ctx)
	disks := make([]layout, 0, len(d.disks))
	for _, dv := range d.disks {
		l := layout{Disk: dv.disk.Name, Size: dv.disk.size(), Volumes: []layoutVolume{}}
		if dv.table.done.Load() {
			t := dv.table.v.table
			l.Scheme, l.SectorSize, l.UUID, l.Warnings = t.Scheme, t.SectorSize, t.UUID, t.Warnings
		}
		for _, v := range vols {
			switch {
			case v.Disk != dv.disk.Name:
			case v.scanErr != nil:
				l.Error = v.scanErr.Error()
			default:
				l.Volumes = append(l.Volumes, v.layout())
			}
		}
		disks = append(disks, l)
	}
	out, err := json.Marshal(disks)
	if err != nil {
		return nil, err
	}
	out = addKey(point, "layout", out)
	var pretty bytes.Buffer
	if json.Indent(&pretty, out, "", "  ") == nil {
		out = append(pretty.Bytes(), '\n')
	}
	if !d.all.done.Load() {
		return out, errUnsettled
	}
	return out, nil
}

func (v *Volume) layout() layoutVolume {
	p := &v.Part
	l := layoutVolume{
		Name: v.Name, Start: p.Start, Length: p.Length, Type: p.TypeName, Label: p.Label, UUID: p.UUID,
		Content: p.Content.Kind, FSLabel: p.Content.Label, FSUUID: p.Content.UUID, Problem: p.Problem,
	}
	switch {
	case !p.Readable() || v.isEmpty():
	case volume.CanRead(p.Content.Kind):
		l.Path = "volumes/" + v.Name
	default:
		l.Unreadable = p.Content.Kind.Title() + " is recognised but not readable yet"
	}
	return l
}

// addKey puts a member at the end of a JSON object, whose own members keep their
// order. What is not an object is replaced by one that has it as "point".
func addKey(object []byte, key string, value []byte) []byte {
	object = bytes.TrimSpace(object)
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil || members == nil {
		if !json.Valid(object) {
			object = []byte("null")
		}
		object = append(append([]byte(`{"point":`), object...), '}')
		members = map[string]json.RawMessage{"point": nil}
	}
	out := bytes.Clone(object[:len(object)-1])
	if len(members) > 0 {
		out = append(out, ',')
	}
	out = append(out, `"`+key+`":`...)
	return append(append(out, value...), '}')
}
