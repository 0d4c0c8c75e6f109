package tree

import (
	"fmt"
	"strings"

	"cairn/mount/volume"
)

// noteName is the name of the text that stands in volumes/ for a volume without
// files: what it holds, or that it cannot be read.
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

// content is what a volume without files holds, after "it ".
func (v *Volume) content() string {
	s := "holds " + v.Part.Content.Kind.Title()
	if len(v.Into) > 0 {
		s += "; its data is in " + strings.Join(v.Into, ", ")
	}
	return s
}

// describe is the text of the note.
func (v *Volume) describe(reason error) string {
	var b strings.Builder
	p := &v.Part
	if v.isEmpty() {
		fmt.Fprintf(&b, "%s %s.\n", v.Name, v.content())
	} else {
		text := reason.Error()
		if p.Problem != "" && !p.Readable() && v.Err == nil {
			text = p.Problem
		}
		fmt.Fprintf(&b, "%s cannot be read: %s.\n", v.Name, text)
	}
	for _, w := range v.Warnings {
		fmt.Fprintln(&b, w)
	}
	if v.Err != nil {
		return b.String()
	}
	b.WriteString("\n")
	if v.Made == volume.Partition {
		fmt.Fprintf(&b, "Disk %s", v.Disk)
	} else {
		fmt.Fprintf(&b, "%s on %s", v.Made.Title(), strings.Join(v.Of, ", "))
	}
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
	if v.Made == volume.Partition {
		fmt.Fprintf(&b, "\nIts bytes are in disks/%s.raw from byte %d, %d bytes long.", v.Disk, p.Start, p.Length)
	}
	b.WriteString("\n")
	return b.String()
}
