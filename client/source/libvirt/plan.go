package libvirt

import (
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cairn/client/source"
	"cairn/client/source/live"
)

// task is what a backup does with one disk.
type task struct {
	disk
	skip  bool   // not in the backup
	track bool   // in the new checkpoint
	since string // the checkpoint to read the changes since, or "": all is read
	why   string // why all is read although it should not be; "" when that is no news
}

// plan is what a backup does with all disks of a domain, in their order.
type plan struct {
	tasks []task
	name  string // of the new checkpoint; "" when nothing is tracked
	about string // its description
	why   string // why no disk's changes are known; "" when it is told for each disk
}

// note is the description of our checkpoints: whose they are and how large the
// disks were.
type note struct {
	By    string           `json:"by"` // noteBy
	Owner string           `json:"owner"`
	Sizes map[string]int64 `json:"sizes"`
}

const noteBy = "cairn agent"

// checkpoint is what is known of a checkpoint of the domain.
type checkpoint struct {
	name  string
	note  note
	sound map[string]bool // disks that it covers: whether their bitmaps are in order
}

// makePlan decides. since is nil if there is no checkpoint to start from, and
// then missing says why, or is "" when that is no news.
func makePlan(disks []disk, exclude []string, name, owner string, since *checkpoint, missing string) plan {
	p := plan{name: name, why: missing}
	n := note{By: noteBy, Owner: owner, Sizes: map[string]int64{}}
	for _, k := range disks {
		t := task{disk: k, skip: slices.Contains(exclude, k.info.Target)}
		t.track = !t.skip && trackable(k)
		if t.track {
			n.Sizes[k.info.Target] = k.info.Size
			t.since, t.why = startFrom(k.info, since)
		}
		p.tasks = append(p.tasks, t)
	}
	if len(n.Sizes) == 0 {
		p.name, p.why = "", ""
		return p
	}
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and numbers
	}
	p.about = string(b)
	return p
}

// startFrom tells whether a disk's changes since a checkpoint are known, and if
// not, why.
func startFrom(d source.Disk, since *checkpoint) (name, why string) {
	if since == nil {
		return "", ""
	}
	sound, covered := since.sound[d.Target]
	size, sized := since.note.Sizes[d.Target]
	switch {
	case !covered:
		return "", "it is new, or was excluded, since the last recovery point"
	case sized && size != d.Size:
		return "", fmt.Sprintf("it was resized from %d to %d bytes since the last recovery point", size, d.Size)
	case !sized:
		return "", fmt.Sprintf("its size at checkpoint %s is not known", since.name)
	case !sound:
		return "", brokenBitmap(since.name)
	}
	return since.name, ""
}

func brokenBitmap(name string) string {
	return fmt.Sprintf("its bitmap of checkpoint %s is missing or inconsistent (QEMU did not end in good order, or the disk was replaced)", name)
}

// trackable tells whether a disk can hold a bitmap that knows of all changes.
func trackable(k disk) bool {
	return k.info.Format == "qcow2" && !k.ReadOnly && !k.Shareable && !k.Transient && !oldQCOW2(k.info.Path)
}

// oldQCOW2 tells whether an image is of version 2 of the format, which has no
// place for bitmaps. Source: docs/interop/qcow2.txt of QEMU, "Header".
func oldQCOW2(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() && (st.Mode()&os.ModeDevice == 0 || st.Mode()&os.ModeCharDevice != 0) {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var h [8]byte
	_, err = io.ReadFull(f, h[:])
	return err == nil && string(h[:4]) == "QFI\xfb" && binary.BigEndian.Uint32(h[4:]) < 3
}

// incremental tells whether any disk is.
func (p *plan) incremental() bool {
	return slices.ContainsFunc(p.tasks, func(t task) bool { return t.since != "" })
}

// distrust makes the disks full that a message of the daemon names, or all of
// them when it names none. It tells whether there was anything left to change.
func (p *plan) distrust(message string) bool {
	named := func(t task) bool { return strings.Contains(message, "'"+t.info.Target+"'") }
	all := !slices.ContainsFunc(p.tasks, func(t task) bool { return t.since != "" && named(t) })
	did := false
	for i := range p.tasks {
		if t := &p.tasks[i]; t.since != "" && (all || named(*t)) {
			t.why, t.since, did = brokenBitmap(t.since), "", true
		}
	}
	return did
}

// untrack makes a plan without any checkpoint.
func (p *plan) untrack(why string) {
	p.name, p.about, p.why = "", "", why
	for i := range p.tasks {
		p.tasks[i].track, p.tasks[i].since, p.tasks[i].why = false, "", ""
	}
}

// warnings are what the user should know.
func (p *plan) warnings() (list []source.Warning) {
	add := func(kind source.WarningKind, format string, args ...any) {
		list = append(list, source.Warning{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	if p.why != "" {
		add(source.WarnTracking, "%s: everything is read", p.why)
	}
	for _, t := range p.tasks {
		switch {
		case t.skip:
		case t.why != "" && p.why == "":
			add(source.WarnTracking, "disk %s is read in full: %s", t.info.Target, t.why)
		case t.Shareable:
			add(source.WarnSnapshot, "disk %s is shared with other machines: what they write meanwhile may be in the copy in part", t.info.Target)
		}
	}
	return list
}

// backupXML is the definition of a backup job, and what the daemon tells of one.
// Source: https://libvirt.org/formatbackup.html
type backupXML struct {
	XMLName xml.Name `xml:"domainbackup"`
	Mode    string   `xml:"mode,attr"`
	Server  struct {
		Transport string `xml:"transport,attr,omitempty"`
		Socket    string `xml:"socket,attr,omitempty"`
		Name      string `xml:"name,attr,omitempty"`
		Port      string `xml:"port,attr,omitempty"`
	} `xml:"server"`
	Disks []backupDisk `xml:"disks>disk"`
}

type backupDisk struct {
	Name         string       `xml:"name,attr"`
	Backup       string       `xml:"backup,attr"`
	Type         string       `xml:"type,attr,omitempty"`
	Mode         string       `xml:"backupmode,attr,omitempty"`
	Incremental  string       `xml:"incremental,attr,omitempty"`
	ExportName   string       `xml:"exportname,attr,omitempty"`
	ExportBitmap string       `xml:"exportbitmap,attr,omitempty"`
	Scratch      *scratchFile `xml:"scratch"`
}

type scratchFile struct {
	File string `xml:"file,attr"`
}

// checkpointXML is the definition of a checkpoint, and what the daemon tells of
// one. Source: https://libvirt.org/formatcheckpoint.html
type checkpointXML struct {
	XMLName     xml.Name         `xml:"domaincheckpoint"`
	Name        string           `xml:"name"`
	Description string           `xml:"description,omitempty"`
	Created     string           `xml:"creationTime,omitempty"`
	Disks       []checkpointDisk `xml:"disks>disk"`
}

type checkpointDisk struct {
	Name       string `xml:"name,attr"`
	Checkpoint string `xml:"checkpoint,attr"`
	Bitmap     string `xml:"bitmap,attr,omitempty"`
	Size       string `xml:"size,attr,omitempty"`
}

// exportBitmap is the name under which the changed blocks are exported.
const exportBitmap = "dirty"

// backup is the XML of the job. Scratch files go to the directory scratch.
func (p *plan) backup(socket, scratch string) string {
	x := backupXML{Mode: "pull"}
	x.Server.Transport, x.Server.Socket = "unix", socket
	for _, t := range p.tasks {
		k := backupDisk{Name: t.Target, Backup: "no"}
		if !t.skip {
			k = backupDisk{Name: t.Target, Backup: "yes", Type: "file", Mode: "full", ExportName: t.Target,
				Scratch: &scratchFile{scratchPath(scratch, t)}}
			if t.since != "" {
				k.Mode, k.Incremental, k.ExportBitmap = "incremental", t.since, exportBitmap
			}
		}
		x.Disks = append(x.Disks, k)
	}
	return marshal(x)
}

// scratchPath is where what the guest overwrites on a disk is copied to.
func scratchPath(dir string, t task) string {
	return filepath.Join(dir, t.info.Target+".scratch")
}

// checkpoint is the XML of the new checkpoint, or "".
func (p *plan) checkpoint() string {
	if p.name == "" {
		return ""
	}
	x := checkpointXML{Name: p.name, Description: p.about}
	for _, t := range p.tasks {
		k := checkpointDisk{Name: t.Target, Checkpoint: "no"}
		if t.track {
			k.Checkpoint = "bitmap"
		}
		x.Disks = append(x.Disks, k)
	}
	return marshal(x)
}

func marshal(x any) string {
	b, err := xml.Marshal(x)
	if err != nil {
		panic(err) // strings
	}
	return string(b)
}

// ours tells whether a checkpoint may be deleted by who has the owner's name.
func (c *checkpoint) ours(owner string) bool {
	return strings.HasPrefix(c.name, live.CheckpointPrefix) && c.note.By == noteBy && c.note.Owner == owner
}
