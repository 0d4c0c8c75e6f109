package lvm2

import (
	"strings"

	"cairn/mount/blockdev"
)

// PV is one physical volume: a device that carries an lvm2 label.
type PV struct {
	UUID   string          // as lvm prints it, with hyphens
	VGName string          // the group it belongs to by its own metadata; empty when it has none
	VGUUID string          // likewise
	Device blockdev.Device // what Read was given
	// Warnings are sentences for a person: a metadata area that is damaged, a
	// label in an unusual sector.
	Warnings []string

	label label
	texts []text // of its own metadata areas, newest first
}

// VG is a volume group.
type VG struct {
	Name string
	UUID string
	PVs  []*PV // those found, in the order of the metadata
	// Missing are the PVs that the group has and that were not among those
	// given, or cannot be used: their UUID and why or where they once were.
	Missing  []string
	LVs      []LV // in the order of the metadata
	Warnings []string
}

// LV is a logical volume.
type LV struct {
	Name string
	UUID string
	Size int64  // bytes
	Type string // of its first segment, as lvs shows it: "linear", "raid1", "thin", …
	// Device has the volume's content. It is nil when that cannot be read, and
	// then Reason says why. Parts of a Device may still give errors.
	Device blockdev.Device
	Reason string
	// Visible volumes are those that the user made. The others are what those
	// are made of (legs of mirrors, data and metadata of pools).
	Visible bool
	// Pool: a thin, cache or vdo pool, whose own bytes mean nothing to anybody
	// but the volumes in it. Its Device is nil.
	Pool bool
	// Warnings are about this volume alone: a leg that is not read.
	Warnings []string
}

// MapperName is the name under /dev/mapper of a volume: hyphens in either name
// are doubled, one stands between them.
func MapperName(vg, lv string) string {
	return strings.ReplaceAll(vg, "-", "--") + "-" + strings.ReplaceAll(lv, "-", "--")
}

// formatUUID sets the hyphens that lvm sets: 6-4-4-4-4-4-6.
func formatUUID(raw string) string {
	if len(raw) != 32 {
		return raw
	}
	return strings.Join([]string{raw[:6], raw[6:10], raw[10:14], raw[14:18], raw[18:22], raw[22:26], raw[26:]}, "-")
}
