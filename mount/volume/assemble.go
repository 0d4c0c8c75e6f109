package volume

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cairn/mount/blockdev"
	"cairn/mount/btrfs"
	"cairn/mount/filesys"
	"cairn/mount/luks"
	"cairn/mount/lvm2"
	"cairn/mount/mdraid"
)

// fail notes why an entry cannot be read: for ever, if that lies in what the
// disks hold, else as an error that may have gone at the next look.
func (e *Entry) fail(err error) {
	for _, s := range []error{filesys.ErrCorrupt, filesys.ErrUnsupported, filesys.ErrWrongType, filesys.ErrInvalid} {
		if errors.Is(err, s) {
			e.Reason = reason(err)
			return
		}
	}
	e.Err = err
}

// decrypt opens the encrypted volumes among the entries from the given one on,
// as far as the secrets go.
func (a *assembly) decrypt(from int) {
	for _, e := range a.byKind(LUKS) {
		if slices.Index(a.Entries, e) < from {
			continue
		}
		secrets := slices.DeleteFunc(slices.Clone(a.opts.Secrets), func(s Secret) bool { return s.Volume != "" && s.Volume != e.Name })
		if len(secrets) == 0 {
			e.Reason = "it is encrypted (LUKS), and no key was given: --key-file FILE or --ask-passphrase opens it"
			if others := a.opts.Secrets; len(others) > 0 { // perhaps a name is wrong
				var names []string
				for _, s := range others {
					names = append(names, s.Volume)
				}
				e.Reason = fmt.Sprintf("it is encrypted (LUKS), and keys were given for %s alone: --key-file %s=FILE opens it", strings.Join(names, ", "), e.Name)
			}
			continue
		}
		for _, s := range secrets {
			d, err := a.opts.Keys.Open(e.Device, s.Bytes)
			if errors.Is(err, luks.ErrSecret) {
				e.Reason = fmt.Sprintf("it is encrypted (LUKS), and no key slot opens with the %s", fromAll(secrets))
				if inner := errors.Unwrap(err); inner != luks.ErrSecret {
					e.Reason += ": " + reason(inner) // some slots could not be tried
				}
				continue
			}
			e.Reason = ""
			if err != nil {
				e.fail(err)
				break
			}
			if h, err := luks.Read(e.Device); err == nil {
				e.Warnings = append(e.Warnings, h.Warnings...)
			}
			in := &Entry{Name: e.Name + "_crypt", Made: Decrypted, Of: []string{e.Name}, Device: d}
			into(e, in.Name)
			a.addDevice(in)
			break
		}
	}
}

// fromAll names the secrets that were tried. A line break at the end is part of
// a key file, and seldom meant.
func fromAll(secrets []Secret) string {
	var list []string
	for _, s := range secrets {
		from := s.From
		if bytes.HasSuffix(s.Bytes, []byte("\n")) {
			from += " (which ends in a line break)"
		}
		list = append(list, from)
	}
	return strings.Join(list, " or the ")
}

// raid puts arrays together.
func (a *assembly) raid() {
	var members []*mdraid.Member
	of := map[*mdraid.Member]*Entry{}
	for _, e := range a.byKind(MDRaid) {
		m, err := mdraid.Read(e.Device)
		if err != nil {
			e.fail(err)
			continue
		}
		members = append(members, m)
		of[m] = e
	}
	for _, ar := range mdraid.Assemble(members) {
		if a.arrays[ar.UUID] {
			continue
		}
		a.arrays[ar.UUID] = true
		e := &Entry{Name: arrayName(ar), Made: Array, Device: ar.Device, Warnings: ar.Warnings, Reason: ar.Reason,
			Part: Volume{Length: ar.Size, Content: Content{Kind: Unknown, UUID: ar.UUID, Label: clean(ar.Name)}}}
		for _, m := range ar.Members {
			e.Of = append(e.Of, of[m].Name)
			into(of[m], e.Name)
		}
		a.addDevice(e)
	}
}

// arrayName is md0 for an array called 0 or host:0, md-root for one called root.
func arrayName(ar *mdraid.Array) string {
	_, name, ok := strings.Cut(ar.Name, ":")
	if !ok {
		name = ar.Name
	}
	switch {
	case name == "":
		return "md-" + safeName(ar.UUID)
	case strings.Trim(name, "0123456789") == "":
		return "md" + name
	}
	return "md-" + safeName(name)
}

// lvm puts volume groups together. Every volume that its owner made is an entry,
// readable or not; what those are made of is not.
func (a *assembly) lvm() {
	var pvs []*lvm2.PV
	of := map[*lvm2.PV]*Entry{}
	for _, e := range a.byKind(LVM2) {
		pv, err := lvm2.Read(e.Device)
		if err != nil {
			e.fail(err)
			continue
		}
		pvs = append(pvs, pv)
		of[pv] = e
		e.Warnings = append(e.Warnings, pv.Warnings...)
	}
	for _, vg := range lvm2.Assemble(pvs) {
		id := cmp.Or(vg.UUID, vg.Name)
		if a.groups[id] {
			continue
		}
		a.groups[id] = true
		var parts []string
		for _, pv := range vg.PVs {
			parts = append(parts, of[pv].Name)
		}
		visible := 0
		for _, lv := range vg.LVs {
			if !lv.Visible || lv.Pool {
				continue
			}
			visible++
			e := &Entry{Name: safeName(lvm2.MapperName(vg.Name, lv.Name)), Made: LVM, Of: parts, Device: lv.Device, Reason: lv.Reason,
				Warnings: lv.Warnings,
				Part:     Volume{Length: lv.Size, TypeName: lv.Type, Content: Content{Kind: Unknown, UUID: lv.UUID}}}
			for _, pv := range vg.PVs {
				into(of[pv], e.Name)
			}
			if visible == 1 {
				e.Warnings = append(slices.Clone(vg.Warnings), e.Warnings...)
			}
			a.addDevice(e)
		}
		if visible == 0 { // a group without volumes, or one of which too little is left
			for _, pv := range vg.PVs {
				of[pv].Reason = fmt.Sprintf("its volume group %q has no logical volumes", clean(vg.Name))
				if len(vg.Missing) > 0 {
					of[pv].Reason = fmt.Sprintf("of its volume group %q these are missing: %s", clean(vg.Name), clean(strings.Join(vg.Missing, "; ")))
				}
			}
		}
	}
}

// btrfs finds the devices that share a file system: the first of them shows it.
// Where a plain mount shows another subvolume than the one that holds all others,
// that one has an entry of its own: files may be where no default leads.
func (a *assembly) btrfs() {
	var all []*Entry
	first := map[string]*Entry{}
	for _, e := range a.byKind(Btrfs) {
		id, err := btrfs.Identify(e.Device, e.Device.Size())
		if err != nil {
			continue // opening it says why
		}
		if f := first[id.FSID]; f != nil {
			f.others = append(f.others, e.Device)
			into(e, f.Name)
			f.Of = append(f.Of, e.Name)
			continue
		}
		first[id.FSID] = e
		all = append(all, e)
	}
	for _, e := range all {
		fs, err := btrfsOn(append([]blockdev.Device{e.Device}, e.others...), a.opts.Options)
		if err != nil {
			continue // likewise
		}
		e.open = func(filesys.Options) (filesys.FS, error) { return fs, nil }
		subs, err := fs.Subvolumes()
		if err != nil || !slices.ContainsFunc(subs, func(s btrfs.Subvolume) bool { return s.Default && s.ID != btrfs.TopLevel }) {
			continue
		}
		a.add(&Entry{Name: e.Name + TopLevel, Made: Subvolume, Of: []string{e.Name}, Device: e.Device,
			Part: Volume{Length: e.Part.Length, Content: e.Part.Content},
			open: func(filesys.Options) (filesys.FS, error) {
				top, err := fs.Sub(btrfs.TopLevel)
				if err != nil {
					return nil, err
				}
				return top, nil
			}})
	}
}

// TopLevel follows the name of a btrfs volume in that of the entry for the
// subvolume that contains all others, where a plain mount shows another.
const TopLevel = ".toplevel"
