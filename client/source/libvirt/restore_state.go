package libvirt

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cairn/client/source"
)

// stateFile is a file of the firmware or of the TPM on its way.
type stateFile struct {
	source.StateFile
	path, staged, kept string
	stays              bool
	owner              account
	mode               os.FileMode
}

// planState says where the state files go.
//
// libvirt 9 has UEFI variables in /var/lib/libvirt/qemu/nvram/NAME_VARS.fd, mode
// 0600, of QEMU's user (it sets the owner at start). A TPM is a directory
// /var/lib/libvirt/swtpm/UUID/tpm2 (or tpm1.2), mode 0700, with a file
// tpm2-00.permall, mode 0600, both of the user that swtpm runs as: of the
// directory libvirt sets the owner at start, of the files in it nobody does. A
// directory with a file in it is not set up anew.
func (j *restoreJob) planState(id, name string) error {
	fw := j.dom.Firmware()
	tpm := j.dom.TPM()
	seen := map[string]bool{}
	for _, s := range j.spec.StateFiles {
		f := &stateFile{StateFile: s, mode: 0o600}
		switch s.Kind {
		case source.StateNVRAM:
			if f.path = fw.NVRAM; j.spec.New != nil || f.path == "" {
				dir := filepath.Dir(s.Path)
				if st, err := os.Stat(dir); err != nil || !st.IsDir() || !filepath.IsAbs(dir) {
					dir = j.r.nvram
				}
				ext := filepath.Ext(s.Path)
				if ext == "" {
					ext = ".fd"
				}
				f.path = filepath.Join(dir, name+"_VARS"+ext)
				if j.spec.New == nil && !j.log.Created && filepath.IsAbs(s.Path) {
					f.path = s.Path
				}
			}
			if j.nvram = f.path; j.spec.New == nil && f.path != fw.NVRAM {
				j.dom.SetNVRAM(f.path)
				j.redefine = true
			}
			f.owner, _ = qemuUser()
		case source.StateTPM:
			if tpm == "" {
				j.warn("the point holds the state of a TPM (%s), but the machine has no emulated TPM: it is not restored", s.Name)
				continue
			}
			base := filepath.Base(s.Path)
			version := filepath.Base(filepath.Dir(s.Path))
			if version != "tpm2" && version != "tpm1.2" {
				if version = "tpm2"; tpm == "1.2" {
					version = "tpm1.2"
				}
			}
			if base == "." || base == "/" || base == ".lock" {
				continue
			}
			f.path = filepath.Join(j.r.swtpm, id, version, base)
			f.owner = j.r.tpmUser()
		default:
			j.warn("the state file %s is of a kind that is not known here: it is not restored", s.Name)
			continue
		}
		f.path = resolve(f.path)
		if seen[f.path] {
			return fmt.Errorf("%w: two state files would be %s", source.ErrRestoreUnsupported, f.path)
		}
		seen[f.path] = true
		if st, err := os.Lstat(f.path); err == nil {
			if j.spec.New != nil {
				return fmt.Errorf("%w: %s", source.ErrTargetExists, f.path)
			}
			if !st.Mode().IsRegular() {
				return fmt.Errorf("%w: %s is no file", source.ErrRestoreUnsupported, f.path)
			}
			f.kept, f.stays = j.keptName(f.path), j.log.Created
		}
		j.states = append(j.states, f)
	}
	if fw.UEFI() && j.nvram == "" && j.spec.New == nil && !j.log.Created {
		j.warn("the point holds no UEFI variables: those of the machine stay as they are")
	}
	if tpm != "" && j.spec.New != nil {
		for _, s := range j.states {
			if s.Kind == source.StateTPM {
				return nil
			}
		}
		j.warn("the point holds no state of the TPM: the new machine begins with an empty one, and what the TPM sealed (BitLocker) asks for its recovery key")
	}
	return nil
}

// writeStates writes the state files into their staging directories.
func (j *restoreJob) writeStates() error {
	for _, s := range j.states {
		if err := writeSynced(s.staged, s.Data, s.mode); err != nil {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
		if err := os.Chown(s.staged, s.owner.uid, s.owner.gid); err != nil && !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
		if s.kept != "" {
			if err := likeness(s.path, s.staged); err != nil {
				return fmt.Errorf("write %s: %w", s.path, err)
			}
		}
	}
	return nil
}

func writeSynced(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// makeDir makes a directory for state files: those of a TPM belong to its user.
func (j *restoreJob) makeDir(dir string) error {
	mode, owner := os.FileMode(0o711), account{}
	if b := filepath.Base(dir); b == "tpm2" || b == "tpm1.2" {
		mode, owner = 0o700, j.r.tpmUser()
	}
	if err := os.Mkdir(dir, mode); err != nil {
		return fmt.Errorf("make a directory for state files: %w", err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		return err
	}
	if owner.uid != 0 {
		return os.Chown(dir, owner.uid, owner.gid)
	}
	return nil
}

// likeness gives a new file the owner, mode and security attributes of the one
// that it replaces. (libvirt's own notes in trusted.libvirt.* are of a machine
// that runs, and stay behind.)
func likeness(old, new string) error {
	st, err := os.Stat(old)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(new, int(sys.Uid), int(sys.Gid)); err != nil && !errors.Is(err, os.ErrPermission) {
			return err
		}
	}
	if err := os.Chmod(new, st.Mode().Perm()); err != nil {
		return err
	}
	names := make([]byte, 64<<10)
	n, err := unix.Listxattr(old, names)
	if err != nil {
		return nil // a file system without attributes has none to copy
	}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if !strings.HasPrefix(name, "security.") && name != "system.posix_acl_access" {
			continue
		}
		value := make([]byte, 64<<10)
		if n, err := unix.Getxattr(old, name, value); err == nil {
			if err := unix.Setxattr(new, name, value[:n], 0); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOTSUP) {
				return fmt.Errorf("copy %s of %s: %w", name, old, err)
			}
		}
	}
	return nil
}

// account is a user of the host.
type account struct {
	name     string
	uid, gid int
}

func accountOf(name string) (account, bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, false
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return account{name, uid, gid}, err1 == nil && err2 == nil
}

// qemuUser is whom libvirt runs QEMU as: what qemu.conf says, or the user that
// distributions make for it. Without one it is root.
func qemuUser() (account, bool) {
	for _, name := range []string{configured("user"), "libvirt-qemu", "qemu"} {
		if a, ok := accountOf(strings.TrimPrefix(name, "+")); ok {
			return a, true
		}
	}
	return account{}, false
}

// tpmUser is whom libvirt runs swtpm as: what qemu.conf says, libvirt's default
// of tss, or root where there is no such user.
func (r *restorer) tpmUser() account {
	for _, name := range []string{configured("swtpm_user"), "tss", "swtpm"} {
		if a, ok := accountOf(name); ok {
			return a
		}
	}
	return account{}
}

// configured reads a setting of libvirt's qemu.conf; "" if it is not set.
func configured(key string) string {
	f, err := os.Open("/etc/libvirt/qemu.conf")
	if err != nil {
		return ""
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		k, v, ok := strings.Cut(in.Text(), "=")
		if ok && strings.TrimSpace(k) == key {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}
