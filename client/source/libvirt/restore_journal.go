package libvirt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"cairn/client/source"
)

// Phases of a restore, in their order. What a crash leaves is undone up to
// phasePlace; from phasePlaced on everything new is in its place, and the
// restore is brought to its end instead: the machine may have run on it.
const (
	phaseWrite   = "write"   // disks are being written, beside what exists
	phasePlace   = "place"   // files are being renamed, the machine is being defined
	phasePlaced  = "placed"  // all is in place; the machine is to be started
	phaseBack    = "back"    // the start failed: all is being undone
	phaseDone    = "done"    // what was kept of the old is being removed
	phaseInstant = "instant" // the machine runs on overlays; its data is elsewhere
)

// record is the state of a restore, as its journal has it.
type record struct {
	ID    string `json:"id"`
	Phase string `json:"phase"`
	// Domain is the machine's name, UUID its domain's.
	Domain string `json:"domain"`
	UUID   string `json:"uuid"`
	// New tells that the machine is beside another one, Created that its domain
	// was not defined before.
	New     bool `json:"new,omitempty"`
	Created bool `json:"created,omitempty"`
	Start   bool `json:"start,omitempty"`
	// OldXML and NewXML are the definition before and after, if it changes.
	OldXML string `json:"old_xml,omitempty"`
	NewXML string `json:"new_xml,omitempty"`
	// Final is the definition of an instant machine once it has its data.
	Final string `json:"final_xml,omitempty"`
	// Staging directories belong to this restore alone, with all that is in them.
	Staging []string `json:"staging,omitempty"`
	// Made are directories that go if they are empty.
	Made   []string `json:"made,omitempty"`
	Moves  []move   `json:"moves,omitempty"`
	Socket string   `json:"socket,omitempty"`
	// Placed tells that phasePlaced was reached: the machine may run on what was
	// restored.
	Placed bool `json:"placed,omitempty"`
	// Spec is a digest of what is being restored.
	Spec string `json:"spec,omitempty"`
}

// move is a file on its way from a staging directory to where it belongs.
type move struct {
	Staged string `json:"staged"`
	Final  string `json:"final"`
	// Kept is where the file that is replaced waits, or "" if there is none. With
	// Stays it is not removed at the end.
	Kept  string `json:"kept,omitempty"`
	Stays bool   `json:"stays,omitempty"`
	// Dev and Ino tell our file from others that come to have its name.
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// ours tells whether the file at path is the one that was staged.
func (m move) ours(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && uint64(st.Dev) == m.Dev && st.Ino == m.Ino
}

// journal is the file of one restore, one record in each line; the last whole
// one counts. Its process holds a lock on it, which a crash releases.
type journal struct {
	f    *os.File
	path string
	record
	// forward is set when undo found the machine running, and finished instead.
	forward bool
}

func (r *restorer) journalPath(id string) string { return filepath.Join(r.journals, id+".journal") }

// errBusy: another process that lives has the journal.
var errBusy = errors.New("a restore of this name is under way")

// openJournal makes the journal of a restore. What an earlier one of the same
// name left is undone first, unless it is an instant one, whose journal is
// returned as it is.
func (r *restorer) openJournal(ctx context.Context, hv hypervisor, id string) (*journal, error) {
	if l, err := lockJournal(r.journalPath(id)); err == nil {
		if l.Phase == phaseInstant {
			return l, nil
		}
		if err := r.recoverJournal(ctx, hv, l); err != nil {
			l.f.Close()
			return nil, fmt.Errorf("undo what an earlier restore left: %w", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(r.journalPath(id), os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", id, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("restore %s: %w", id, errBusy)
	}
	return &journal{f: f, path: f.Name(), record: record{ID: id, Phase: phaseWrite}}, syncDir(r.journals)
}

// lockJournal opens a journal that exists. errBusy if a living process has it.
func lockJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, errBusy)
	}
	if _, err := os.Stat(path); err != nil { // its process has just ended in good order
		f.Close()
		return nil, err
	}
	j := &journal{f: f, path: path}
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadBytes('\n')
		var rec record
		if err == nil && json.Unmarshal(line, &rec) == nil {
			j.record = rec
			continue
		}
		if err != nil && err != io.EOF {
			f.Close()
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if err == io.EOF {
			if len(line) > 0 { // torn: what is appended begins a new line
				if _, err := f.Write([]byte("\n")); err != nil {
					f.Close()
					return nil, fmt.Errorf("write %s: %w", path, err)
				}
			}
			return j, nil
		}
	}
}

// write makes the record durable in a phase.
func (j *journal) write(phase string) error {
	j.Phase = phase
	b, err := json.Marshal(j.record)
	if err != nil {
		return err
	}
	if _, err := j.f.Write(append(bytes.TrimSpace(b), '\n')); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := j.f.Sync(); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// remove ends the journal.
func (j *journal) remove() error {
	err := os.Remove(j.path)
	return errors.Join(err, j.f.Close())
}

// cleanUpRestores ends what restores of earlier processes left: it undoes those
// whose files were not all in place, and finishes the others. An instant restore
// whose machine exists is left alone: its guest waits for its data, and the
// restore goes on when it is asked for once more (see Instant). Then it starts
// the machines that were stopped for restores and are still off, unless their
// restore could not be ended. It can be repeated, and leaves alone what a living
// process does.
func (r *restorer) cleanUpRestores(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(r.journals, "*.journal"))
	if err != nil {
		return err
	}
	notes, err := filepath.Glob(filepath.Join(r.journals, "*"+noteSuffix))
	if err != nil || len(names)+len(notes) == 0 {
		return err
	}
	hv, err := r.connect(ctx)
	if err != nil {
		return mapped(err)
	}
	var errs []error
	pending := map[string]bool{} // machines whose restore has not ended
	for _, name := range names {
		j, err := lockJournal(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			pending[uuidIn(name)] = true
			if errors.Is(err, errBusy) {
				continue
			}
			errs = append(errs, err)
			continue
		}
		if err := r.recoverJournal(ctx, hv, j); err != nil {
			pending[j.UUID] = true
			j.f.Close()
			errs = append(errs, fmt.Errorf("clean up after restore %s: %w", strings.TrimSuffix(filepath.Base(name), ".journal"), err))
		}
	}
	errs = append(errs, r.startNoted(ctx, hv, notes, pending))
	return errors.Join(errs...)
}

// recoverJournal ends one restore that crashed, and its journal.
func (r *restorer) recoverJournal(ctx context.Context, hv hypervisor, j *journal) error {
	switch j.Phase {
	case phasePlaced:
		if j.Start {
			if err := r.startRestored(ctx, hv, j); err != nil {
				return r.undo(ctx, hv, j)
			}
		}
		return r.finish(ctx, hv, j)
	case phaseDone:
		return r.finish(ctx, hv, j)
	case phaseInstant:
		if _, err := j.lookup(ctx, hv); err == nil {
			return j.f.Close()
		} else if !errors.Is(err, source.ErrMachineNotFound) {
			return err
		}
	}
	return r.undo(ctx, hv, j)
}

// identify notes which file was staged.
func (m *move) identify() error {
	var st unix.Stat_t
	if err := unix.Lstat(m.Staged, &st); err != nil {
		return fmt.Errorf("%s: %w", m.Staged, err)
	}
	m.Dev, m.Ino = uint64(st.Dev), st.Ino
	return nil
}
