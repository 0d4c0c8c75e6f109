package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"cairn/client/source"
	"cairn/client/source/libvirt/domxml"
	"cairn/client/source/libvirt/rpc"
)

// place is where a disk goes.
type place struct {
	source.RestoreDisk
	path   string // the final one, symbolic links resolved
	format string // raw or qcow2
	block  bool   // a device that is written to directly
	kept   string // where the file that is replaced will wait, or ""
	stays  bool   // for good
	staged string
	done   bool // its writer was committed
}

// newFormat is the format of a disk that had another one: raw and qcow2 are
// what this package writes.
func newFormat(format string) string {
	if format == "raw" {
		return "raw"
	}
	return "qcow2"
}

func (j *restoreJob) warn(format string, args ...any) {
	j.warnings = append(j.warnings, source.Warning{Kind: source.WarnRestore, Text: fmt.Sprintf(format, args...)})
}

func (j *restoreJob) warnAll(texts []string) {
	for _, t := range texts {
		j.warn("%s", t)
	}
}

// checkTitle refuses what is no name of a domain, or none of a file.
func checkTitle(title string) error {
	switch {
	case strings.TrimSpace(title) == "":
		return fmt.Errorf("%w: the new machine needs a name", source.ErrRestoreUnsupported)
	case len(title) > 200 || strings.ContainsFunc(title, func(r rune) bool { return r == '/' || r < ' ' || r == 0x7f || r == 0xfffd }):
		return fmt.Errorf("%w: %.200q cannot be a machine's name: up to 200 bytes, no slash, no control characters", source.ErrRestoreUnsupported, title)
	}
	return nil
}

// planNew plans a machine beside the old one.
func (j *restoreJob) planNew() error {
	title := j.spec.New.Title
	if err := checkTitle(title); err != nil {
		return err
	}
	if err := j.resume(title); err != nil || j.resumed {
		return err
	}
	doms, err := j.hv.ListDomains(j.ctx, 0)
	if err != nil {
		return mapped(err)
	}
	for _, d := range doms {
		if d.Name == title {
			return fmt.Errorf("%w: a machine named %q exists: choose another name", source.ErrTargetExists, title)
		}
		if j.r.idOf(d.Name) == j.r.idOf(title) {
			return fmt.Errorf("%w: the machine %q could not be told from %q (both would be %s): choose another name", source.ErrTargetExists, d.Name, title, j.r.idOf(title))
		}
	}
	id := uuid.New()
	log := &j.log.record
	log.Domain, log.UUID, log.New, log.Created = title, id.String(), true, true
	if dir := j.spec.New.Directory; dir != "" {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() || !filepath.IsAbs(dir) {
			return fmt.Errorf("%w: %s is no directory that exists (give its absolute path)", source.ErrRestoreUnsupported, dir)
		}
	}
	held := map[string]bool{}
	for _, k := range j.spec.Disks {
		held[k.Target] = true
		old, _ := j.dom.Disk(k.Target)
		dir := j.spec.New.Directory
		if dir == "" {
			if dir = j.directory(old, k.Path); dir == j.r.images && filepath.Dir(k.Path) != dir {
				j.warn("disk %s was on %s; it becomes a file in %s", k.Target, old.Where(), dir)
			}
		}
		p := &place{RestoreDisk: k, format: newFormat(k.Format)}
		if old.Type == "block" || old.Type == "network" {
			p.format = "qcow2"
		}
		p.path = filepath.Join(dir, title+"-"+k.Target+"."+p.format)
		if exists(p.path) {
			return fmt.Errorf("%w: %s", source.ErrTargetExists, p.path)
		}
		j.reachable(dir)
		j.places[k.Target] = p
	}
	for _, k := range j.dom.Disks() {
		if !held[k.Target] && !k.Removable() {
			j.dom.RemoveDisk(k.Target)
			j.warn("disk %s (%s) is not part of the point: the new machine does not have it", k.Target, k.Where())
		}
	}
	if err := j.planState(id.String(), title); err != nil {
		return err
	}
	notices, err := j.dom.Renew(domxml.Identity{Name: title, UUID: id, NVRAM: j.nvram, Exists: exists})
	if err != nil {
		return err
	}
	j.warnAll(notices)
	return j.moveDisks(j.spec.Disks, nil)
}

// directory is that of a disk's file, or the default one if there is none.
func (j *restoreJob) directory(old domxml.Disk, path string) string {
	if old.Type == "file" || old.Type == "volume" {
		dir := filepath.Dir(path)
		if st, err := os.Stat(dir); err == nil && st.IsDir() && filepath.IsAbs(dir) && !strings.HasPrefix(dir, "/dev") {
			return dir
		}
	}
	return j.r.images
}

// moveDisks has the definition tell where disks are, unless it does already.
func (j *restoreJob) moveDisks(disks []source.RestoreDisk, backing func(target string) *domxml.NBD) error {
	for _, k := range disks {
		p, to := j.places[k.Target], domxml.Place{}
		to.Path, to.Block, to.Format = p.path, p.block, p.format
		if backing != nil {
			to.Backing = backing(k.Target)
		}
		notices, err := j.dom.SetDisk(k.Target, to)
		if err != nil {
			return err
		}
		j.warnAll(notices)
	}
	return nil
}

// planInPlace plans the replacement of disks of a machine that exists, or that
// existed.
func (j *restoreJob) planInPlace() error {
	if j.log.Phase != phaseWrite {
		return fmt.Errorf("%w: restore %s has made a new machine that still reads from the store", source.ErrMachineState, j.spec.ID)
	}
	dom, err := j.r.machine(j.ctx, j.hv, j.spec.MachineID)
	if errors.Is(err, source.ErrMachineNotFound) {
		return j.planGone()
	} else if err != nil {
		return err
	}
	if err := j.mustBeOff(dom); err != nil {
		return err
	}
	xml, err := j.hv.XMLDesc(j.ctx, dom, rpc.XMLSecure|rpc.XMLInactive)
	if err != nil {
		return mapped(err)
	}
	now, err := domxml.Parse([]byte(xml))
	if err != nil {
		return fmt.Errorf("the definition of %s: %w", dom.Name, err)
	}
	saved := j.dom
	j.dom = now
	log := &j.log.record
	log.Domain, log.UUID, log.OldXML = dom.Name, dom.UUID.String(), xml
	var moved []source.RestoreDisk
	for _, k := range j.spec.Disks {
		old, there := now.Disk(k.Target)
		if !there {
			if err := now.AddDisk(saved, k.Target); err != nil {
				return err
			}
			old, _ = now.Disk(k.Target)
			j.warn("disk %s had been removed from the machine; it is added again", k.Target)
		}
		p, err := j.present(k, old)
		if err != nil {
			return err
		}
		if old.Removable() {
			return fmt.Errorf("%w: %s of the machine is a %s drive now", source.ErrRestoreUnsupported, k.Target, old.Device)
		}
		j.places[k.Target] = p
		if !there && exists(p.path) {
			return fmt.Errorf("%w: %s, where disk %s was, which the machine has no more", source.ErrTargetExists, p.path, k.Target)
		}
		was := old.Format
		if was == "" {
			was = "raw"
		}
		if !there || was != p.format || len(old.Backings) > 0 || old.Encrypted || old.Type == "network" || (old.Type == "file" && resolve(old.Path) != p.path) || old.Type == "dir" || old.Type == "nvme" || old.Type == "vhostuser" {
			moved = append(moved, k)
		}
	}
	if err := j.moveDisks(moved, nil); err != nil {
		return err
	}
	if err := j.planState(log.UUID, log.Domain); err != nil {
		return err
	}
	if len(moved) > 0 || j.redefine {
		log.NewXML = string(now.Bytes())
	} else {
		log.OldXML = ""
	}
	return nil
}

// mustBeOff refuses a machine whose disks are in use, or that would go on from
// a memory that does not fit other disks.
func (j *restoreJob) mustBeOff(dom rpc.Domain) error {
	on, err := isActive(j.ctx, j.hv, dom)
	if err != nil {
		return err
	}
	if on {
		// Somebody else has started it, and it is theirs to stop.
		if err := j.r.forget(dom.UUID.String()); err != nil {
			return err
		}
		return fmt.Errorf("%w: %s is running: shut it down before it is restored in place", source.ErrMachineState, dom.Name)
	}
	saved, err := j.hv.HasManagedSave(j.ctx, dom)
	if err != nil {
		return mapped(err)
	}
	if saved {
		return fmt.Errorf("%w: %s was saved to disk with its memory, which would not fit the restored disks: remove it first (virsh managedsave-remove), or start the machine and shut it down", source.ErrMachineState, dom.Name)
	}
	return nil
}

// present is the place of a disk of the machine as it is now.
func (j *restoreJob) present(k source.RestoreDisk, old domxml.Disk) (*place, error) {
	p := &place{RestoreDisk: k, format: newFormat(k.Format)}
	path := old.Path
	if old.Type == "volume" {
		var err error
		if path, err = j.hv.VolumePath(j.ctx, old.Pool, old.Volume); err != nil {
			return nil, fmt.Errorf("disk %s, %s: %w", k.Target, old.Where(), mapped(err))
		}
	}
	path = resolve(path)
	st, err := os.Stat(path)
	switch {
	case path == "" || old.Type == "network" || old.Type == "dir" || old.Type == "nvme" || old.Type == "vhostuser":
		p.format = "qcow2"
		p.path = filepath.Join(j.r.images, j.log.Domain+"-"+k.Target+".qcow2")
		j.warn("disk %s was on %s, which stays as it is; the restored disk is %s", k.Target, old.Where(), p.path)
		if exists(p.path) {
			return nil, fmt.Errorf("%w: %s", source.ErrTargetExists, p.path)
		}
	case old.Type == "block" || err == nil && st.Mode()&os.ModeDevice != 0:
		if err != nil {
			return nil, fmt.Errorf("%w: disk %s: %w", source.ErrRestoreUnsupported, k.Target, err)
		}
		p.path, p.block, p.format = path, true, "raw"
		j.warn("disk %s is written directly to %s, for there is no room for two: if the restore is broken off, what was on it does not come back but from a safety point", k.Target, path)
	case err == nil && !st.Mode().IsRegular():
		return nil, fmt.Errorf("%w: disk %s: %s is neither a file nor a device", source.ErrRestoreUnsupported, k.Target, path)
	default:
		p.path = path
		if old.Path != "" && old.Type == "volume" && !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%w: disk %s: %s", source.ErrRestoreUnsupported, k.Target, old.Where())
		}
		if err == nil {
			p.kept = j.keptName(path)
		} else if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("%w: disk %s: its directory is not there: %w", source.ErrRestoreUnsupported, k.Target, err)
		}
	}
	return p, nil
}

// keptName is where a file waits that is replaced.
func (j *restoreJob) keptName(path string) string { return path + ".cairn-old-" + j.spec.ID }

// resolve follows symbolic links, as far as there is something at their end.
func resolve(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return path
}

// planGone plans a machine that does not exist any more, as it was.
func (j *restoreJob) planGone() error {
	name, id := j.dom.Name(), j.dom.UUID()
	if j.r.idOf(name) != j.spec.MachineID {
		return fmt.Errorf("%s: %w, and the point is one of %q", j.spec.MachineID, source.ErrMachineNotFound, name)
	}
	if id == "" {
		return fmt.Errorf("%w: the definition in the point has no UUID", source.ErrRestoreUnsupported)
	}
	u, err := rpc.ParseUUID(id)
	if err != nil {
		return fmt.Errorf("%w: %w", source.ErrRestoreUnsupported, err)
	}
	if d, err := j.hv.LookupByUUID(j.ctx, u); err == nil {
		return fmt.Errorf("%w: the UUID of %s belongs to the machine %q now: restore as a new machine", source.ErrTargetExists, name, d.Name)
	} else if !errors.Is(err, rpc.ErrNoDomain) {
		return mapped(err)
	}
	used, err := j.filesInUse()
	if err != nil {
		return err
	}
	log := &j.log.record
	log.Domain, log.UUID, log.Created = name, id, true
	j.warn("the machine %s does not exist any more: it is defined as it was", name)
	var moved []source.RestoreDisk
	for _, k := range j.spec.Disks {
		old, _ := j.dom.Disk(k.Target)
		if old.Type == "volume" {
			if _, err := j.hv.VolumePath(j.ctx, old.Pool, old.Volume); err != nil { // gone as well
				old = domxml.Disk{Target: k.Target, Type: "file", Path: k.Path, Device: "disk"}
			}
		}
		if old.Type == "file" {
			if dir := j.directory(old, old.Path); dir != filepath.Dir(resolve(old.Path)) && dir != filepath.Dir(old.Path) {
				old.Path = filepath.Join(dir, filepath.Base(old.Path))
				j.warn("the directory of disk %s is gone; it is restored to %s", k.Target, old.Path)
			}
		}
		p, err := j.present(k, old)
		if err != nil {
			return err
		}
		if by := used[p.path]; by != "" {
			return fmt.Errorf("%w: %s, where disk %s was, belongs to the machine %q", source.ErrTargetExists, p.path, k.Target, by)
		}
		if p.kept != "" {
			p.stays = true
			j.warn("there was a file at %s, where disk %s belongs: it is kept as %s", p.path, k.Target, p.kept)
		}
		j.places[k.Target] = p
		moved = append(moved, k)
	}
	held := map[string]bool{}
	for _, k := range j.spec.Disks {
		held[k.Target] = true
	}
	for _, k := range j.dom.Disks() {
		if held[k.Target] || k.Path == "" || exists(k.Path) {
			continue
		}
		if k.Removable() {
			j.dom.Eject(k.Target)
			j.warn("the medium %s of the drive %s is not there: the drive is empty", k.Path, k.Target)
		} else {
			j.dom.RemoveDisk(k.Target)
			j.warn("disk %s (%s) is neither part of the point nor there: the machine does not have it any more", k.Target, k.Where())
		}
	}
	if err := j.moveDisks(moved, nil); err != nil {
		return err
	}
	if err := j.planState(id, name); err != nil {
		return err
	}
	log.NewXML = string(j.dom.Bytes())
	return nil
}

// filesInUse are the paths of all machines' disks, and whose they are.
func (j *restoreJob) filesInUse() (map[string]string, error) {
	doms, err := j.hv.ListDomains(j.ctx, 0)
	if err != nil {
		return nil, mapped(err)
	}
	used := map[string]string{}
	for _, d := range doms {
		xml, err := j.hv.XMLDesc(j.ctx, d, rpc.XMLInactive)
		if errors.Is(err, rpc.ErrNoDomain) {
			continue
		} else if err != nil {
			return nil, mapped(err)
		}
		dom, err := domxml.Parse([]byte(xml))
		if err != nil {
			continue
		}
		for _, k := range dom.Disks() {
			for _, path := range append(k.Backings, k.Path) {
				if path != "" {
					used[resolve(path)] = d.Name
				}
			}
		}
	}
	return used, nil
}
