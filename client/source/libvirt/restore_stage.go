package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"golang.org/x/sys/unix"

	"cairn/client/source"
)

// checkSpace sums up what goes onto each file system.
func (j *restoreJob) checkSpace() error {
	type need struct {
		bytes, free int64
		dir         string
	}
	needs := map[uint64]*need{}
	for _, p := range j.places {
		if p.block {
			continue
		}
		dir := filepath.Dir(p.path)
		var st unix.Stat_t
		var fs unix.Statfs_t
		if err := unix.Stat(dir, &st); errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%w: %s, where disk %s goes, is not there: name another directory", source.ErrRestoreUnsupported, dir, p.Target)
		} else if err != nil {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		if err := unix.Statfs(dir, &fs); err != nil {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		n := needs[uint64(st.Dev)]
		if n == nil {
			n = &need{dir: dir, free: int64(fs.Bavail) * fs.Bsize}
			needs[uint64(st.Dev)] = n
		}
		n.bytes += p.Data
		if p.format == "qcow2" {
			n.bytes += p.Data/4096 + 1<<20
		}
	}
	for _, n := range needs {
		if n.bytes > n.free {
			return fmt.Errorf("%w: the disks need %d bytes, %d are free on the file system of %s", source.ErrNoSpace, n.bytes, n.free, n.dir)
		}
	}
	return nil
}

// stage makes the directories in which files come to be, next to where they
// will be. The journal knows of them before they exist.
func (j *restoreJob) stage() error {
	dirs := map[string]bool{}
	add := func(final string) string {
		dir := filepath.Join(filepath.Dir(final), stagingPrefix+j.spec.ID)
		dirs[dir] = true
		return filepath.Join(dir, filepath.Base(final))
	}
	for _, p := range j.places {
		if p.kept != "" && exists(p.kept) {
			return fmt.Errorf("%w: %s, which an earlier restore has kept", source.ErrTargetExists, p.kept)
		}
		if !p.block {
			p.staged = add(p.path)
		}
	}
	for _, s := range j.states {
		if s.kept != "" && exists(s.kept) {
			return fmt.Errorf("%w: %s, which an earlier restore has kept", source.ErrTargetExists, s.kept)
		}
		for dir := filepath.Dir(s.path); !exists(dir); dir = filepath.Dir(dir) {
			j.log.Made = append([]string{dir}, j.log.Made...)
		}
		s.staged = add(s.path)
	}
	for dir := range dirs {
		j.log.Staging = append(j.log.Staging, dir)
	}
	sort.Strings(j.log.Staging)
	seen := map[string]bool{}
	made := j.log.Made[:0]
	for _, dir := range j.log.Made {
		if !seen[dir] {
			seen[dir] = true
			made = append(made, dir)
		}
	}
	sort.Strings(made)
	j.log.Made = made
	if err := j.log.write(phaseWrite); err != nil {
		return err
	}
	for _, dir := range j.log.Made {
		if err := j.makeDir(dir); err != nil {
			return err
		}
	}
	for dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make a directory for what is restored: %w", err)
		}
	}
	return nil
}

// reachable warns when QEMU's user cannot come to a directory.
func (j *restoreJob) reachable(dir string) {
	user, ok := qemuUser()
	if !ok || j.looked[dir] {
		return
	}
	if j.looked == nil {
		j.looked = map[string]bool{}
	}
	j.looked[dir] = true
	for d := dir; ; d = filepath.Dir(d) {
		var st unix.Stat_t
		if unix.Stat(d, &st) != nil {
			return
		}
		need := uint32(0o001)
		switch {
		case int(st.Uid) == user.uid:
			need = 0o100
		case int(st.Gid) == user.gid:
			need = 0o010
		}
		if st.Mode&need == 0 {
			j.warn("QEMU's user %s may not enter %s: the machine will not start from disks in %s until it may (chmod, or setfacl)", user.name, d, dir)
			return
		}
		if d == filepath.Dir(d) {
			return
		}
	}
}
