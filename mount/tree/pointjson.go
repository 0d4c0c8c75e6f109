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
	Name     string      `json:"name"`
	Path     string      `json:"path,omitempty"` // set when its files should be readable
	Made     volume.Made `json:"made,omitempty"` // by what, when it is no partition
	Of       []string    `json:"of,omitempty"`   // the volumes that it is made of
	Into     []string    `json:"into,omitempty"` // the volumes that are made of it
	Start    int64       `json:"start"`
	Length   int64       `json:"length"`
	Type     string      `json:"type,omitempty"`
	Label    string      `json:"partitionLabel,omitempty"`
	UUID     string      `json:"partitionUuid,omitempty"`
	Content  volume.Kind `json:"content"`
	FSLabel  string      `json:"label,omitempty"`
	FSUUID   string      `json:"uuid,omitempty"`
	Problem  string      `json:"problem,omitempty"`
	Warnings []string    `json:"warnings,omitempty"`
	// Unreadable is the reason why there is no directory for the volume.
	Unreadable string `json:"unreadable,omitempty"`
}

// pointJSON is the caller's JSON object with two members added: "layout", the
// disks with their partitions, and, when there are any, "assembled", what volume
// managers, software raids and encryption make of those. It reads partition
// tables and the metadata of those, not the file systems: a volume that turns
// out to be damaged shows that in volumes/ only.
func pointJSON(_ context.Context, point []byte, d *volumesDir) ([]byte, error) {
	found := d.list()
	disks := make([]layout, 0, len(d.disks))
	for _, t := range found.disks {
		l := layout{Disk: t.Name, Size: t.Size, Scheme: t.Scheme, SectorSize: t.SectorSize, UUID: t.UUID, Warnings: t.Warnings,
			Volumes: []layoutVolume{}}
		if t.Err != nil {
			l.Error = t.Err.Error()
		}
		for _, v := range found.volumes {
			if v.Made == volume.Partition && v.Disk == t.Name && t.Err == nil {
				l.Volumes = append(l.Volumes, v.layout())
			}
		}
		disks = append(disks, l)
	}
	var assembled []layoutVolume
	for _, v := range found.volumes {
		if v.Made != volume.Partition {
			assembled = append(assembled, v.layout())
		}
	}
	out, err := json.Marshal(disks)
	if err != nil {
		return nil, err
	}
	out = addKey(point, "layout", out)
	if assembled != nil {
		more, err := json.Marshal(assembled)
		if err != nil {
			return nil, err
		}
		out = addKey(out, "assembled", more)
	}
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
		Name: v.Name, Made: v.Made, Of: v.Of, Into: v.Into, Start: p.Start, Length: p.Length, Type: p.TypeName, Label: p.Label, UUID: p.UUID,
		Content: p.Content.Kind, FSLabel: p.Content.Label, FSUUID: p.Content.UUID, Problem: p.Problem, Warnings: v.Warnings,
	}
	switch {
	case v.Reason != "":
		l.Unreadable = v.Reason
	case v.Err != nil:
		l.Unreadable = v.Err.Error()
	case !p.Readable() || v.isEmpty():
	case v.CanRead():
		l.Path = "volumes/" + v.Name
	default:
		l.Unreadable = p.Content.Kind.Title() + " is recognised but cannot be read"
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
