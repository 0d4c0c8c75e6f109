package qemu

import (
	"fmt"

	"cairn/client/source"
)

// granularity of our bitmaps in bytes: that of qcow2's clusters, and of backups.
const granularity = 64 << 10

// usable returns the bitmap that holds what changed on a disk since a
// checkpoint, or why there is none.
func (d *disk) usable(since checkpoint) (bitmap, why string) {
	why = fmt.Sprintf("no record of the changes since %s is there: the disk is new, or its image was replaced or copied, or QEMU was started anew and the image's format (%s) cannot keep the record", since, d.Format)
	for _, b := range d.bitmaps {
		size, ok := since.records(b.Name)
		switch {
		case !ok:
			continue
		case b.Inconsistent:
			return "", "the record of its changes is inconsistent: QEMU did not end in good order"
		case size != d.Size:
			why = fmt.Sprintf("it was resized: it has %d bytes and had %d", d.Size, size)
			continue
		case b.Busy:
			return "", "the record of its changes is in use by another operation"
		case !b.Recording:
			return "", "the record of its changes was switched off"
		case b.Granularity != granularity:
			return "", fmt.Sprintf("the record of its changes has a granularity of %d bytes: it is none of ours", b.Granularity)
		}
		return b.Name, ""
	}
	return "", why
}

// tracked decides for each disk which bitmap says what is to be read, and warns
// of those that have none although they should.
func tracked(disks []*disk, o source.SnapshotOptions) (bitmaps []string, warnings []source.Warning) {
	bitmaps = make([]string, len(disks))
	if o.Since == "" {
		if o.Continues {
			warnings = append(warnings, source.Warning{Kind: source.WarnTracking,
				Text: "the earlier backup has no checkpoint to tell the changes from: everything is read"})
		}
		return bitmaps, warnings
	}
	for n, d := range disks {
		var why string
		if bitmaps[n], why = d.usable(checkpoint(o.Since)); why != "" {
			warnings = append(warnings, source.Warning{Kind: source.WarnTracking,
				Text: fmt.Sprintf("disk %s is read in full: %s", d.Target, why)})
		}
	}
	return bitmaps, warnings
}
