package live

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// CheckpointPrefix begins the name of every checkpoint that we make. What has
// another name is never touched.
const CheckpointPrefix = "cairn-"

// NewCheckpoint returns a name for a checkpoint that nobody has used or can guess.
func NewCheckpoint() string {
	var b [8]byte
	rand.Read(b[:])
	return fmt.Sprintf("%s%x", CheckpointPrefix, b)
}

// Record is what a session knows of itself: <session>/session.json.
type Record struct {
	// Machine is the machine's ID in its source.
	Machine string `json:"machine"`
	// Checkpoint is the name of the checkpoint being made, or "".
	Checkpoint string `json:"checkpoint,omitempty"`
	// HypervisorID is the machine's own identity (a UUID), or "".
	HypervisorID string `json:"hypervisorId,omitempty"`
	// Agent tells that the guest may be frozen by us.
	Agent bool      `json:"agent,omitempty"`
	Time  time.Time `json:"time"`
	// Extra is the source's own.
	Extra map[string]string `json:"extra,omitempty"`
}

// Session is the directory of one snapshot. While it is held, nobody else's
// Leftovers returns it.
type Session struct {
	dir  string
	lock *os.File // the directory itself, locked

	mu     sync.Mutex
	record Record
}

// recordName is where a session's Record lies. It never changes in place: what
// is there is complete.
const recordName = "session.json"

// NewSession makes a session in the state directory, which it makes too if need
// be. When it returns, the record is on disk.
//
// Both directories have mode 0711: a hypervisor that runs as another user
// reaches sockets and files by their names, and the session's cannot be guessed.
func NewSession(state string, r Record) (_ *Session, err error) {
	if err := os.MkdirAll(state, 0o711); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	for {
		var b [12]byte
		rand.Read(b[:])
		s := &Session{dir: filepath.Join(state, fmt.Sprintf("s%x", b))}
		if err := os.Mkdir(s.dir, 0o711); err != nil {
			return nil, fmt.Errorf("new session: %w", err)
		}
		// Somebody's Leftovers may have found the directory before it is locked,
		// and remove it.
		switch ok, err := s.acquire(); {
		case err != nil:
			return nil, fmt.Errorf("new session: %w", err)
		case !ok:
			continue
		}
		err := os.Chmod(s.dir, 0o711) // whatever the umask
		if err == nil {
			err = s.Update(r)
		}
		if err == nil {
			err = syncDir(state)
		}
		if err != nil {
			s.Remove()
			return nil, err
		}
		return s, nil
	}
}

// Leftovers returns the sessions in a state directory whose process is gone.
// They are locked now: the caller cleans up and calls Remove, or Release. An
// error tells of those that could not be looked at, and comes with the others.
func Leftovers(state string) (list []*Session, err error) {
	entries, err := os.ReadDir(state)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), "s") {
			continue
		}
		s := &Session{dir: filepath.Join(state, e.Name())}
		switch ok, err := s.acquire(); {
		case err != nil:
			errs = append(errs, fmt.Errorf("session %s: %w", s.dir, err))
			continue
		case !ok:
			continue
		}
		b, err := os.ReadFile(s.Path(recordName))
		if err == nil {
			err = json.Unmarshal(b, &s.record)
		}
		switch {
		case err == nil:
			list = append(list, s)
		case errors.Is(err, fs.ErrNotExist):
			// It died before it had done anything, or after everything.
			errs = append(errs, s.Remove())
		default:
			errs = append(errs, fmt.Errorf("session %s: %w", s.dir, err))
			s.Release()
		}
	}
	return list, errors.Join(errs...)
}

// acquire locks the session's directory. It answers false when somebody else has
// it, or has removed it meanwhile.
func (s *Session) acquire() (bool, error) {
	f, err := os.Open(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, fmt.Errorf("lock: %w", err)
	}
	locked, err1 := f.Stat()
	named, err2 := os.Stat(s.dir)
	if err1 != nil || err2 != nil || !os.SameFile(locked, named) {
		f.Close()
		return false, nil
	}
	s.lock = f
	return true, nil
}

// Dir returns the session's directory.
func (s *Session) Dir() string { return s.dir }

// Path returns the path of a file in it.
func (s *Session) Path(name string) string { return filepath.Join(s.dir, name) }

// Record returns what was recorded last. Its Extra is the caller's to change.
func (s *Session) Record() Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.record
	r.Extra = maps.Clone(r.Extra)
	return r
}

// Update replaces the record and returns when it is on disk.
func (s *Session) Update(r Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("session record: %w", err)
	}
	path := s.Path(recordName)
	if err := writeSynced(path+".new", b); err != nil {
		return fmt.Errorf("session record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("session record: %w", err)
	}
	if err := syncDir(s.dir); err != nil {
		return fmt.Errorf("session record: %w", err)
	}
	s.record = r
	return nil
}

// Remove removes the directory and all that is in it. Call it when nothing of
// the session is left anywhere else.
func (s *Session) Remove() error {
	err := os.RemoveAll(s.dir)
	s.Release()
	if err != nil {
		return fmt.Errorf("remove session: %w", err)
	}
	return nil
}

// Release leaves the session to the next Leftovers: cleaning up has failed.
func (s *Session) Release() { s.lock.Close() }

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
