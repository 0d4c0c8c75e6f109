package dirtytest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// workload changes a mounted file system at random, as many small programs
// would, and keeps some files open.
type workload struct {
	dir   string
	rng   *rand.Rand
	dirs  []string
	files []string // everything that is not a directory
	open  []*os.File
	next  int
	each  func(step int) // called before each step of run, may be nil
}

// failure is what ends a workload.
type failure struct{ error }

// run does a number of random changes, then commits, changes some more without
// committing, and leaves files open without a name.
func (w *workload) run(steps int) (err error) {
	defer caught(&err)
	w.dirs = []string{w.dir}
	for i := range steps {
		if w.each != nil {
			w.each(i)
		}
		w.step()
		if w.rng.IntN(20) == 0 {
			w.commit()
		}
	}
	// Files that are open and have no name any more: orphans at the next mount.
	for i := range 4 {
		f := w.create(w.name())
		w.write(f, w.rng.IntN(300_000))
		w.check(f.Sync())
		w.check(os.Remove(f.Name()))
		if i == 3 {
			w.check(f.Truncate(1000))
		}
		w.open = append(w.open, f)
	}
	w.commit()
	// Not committed: a crash loses it.
	for range 30 {
		w.step()
	}
	return nil
}

func (w *workload) close() {
	for _, f := range w.open {
		f.Close()
	}
	w.open = nil
}

// check ends the workload on an error other than that of a full file system.
func (w *workload) check(err error) {
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		panic(failure{err})
	}
}

// caught turns what check threw into an error.
func caught(err *error) {
	switch v := recover().(type) {
	case nil:
	case failure:
		*err = v
	default:
		panic(v)
	}
}

// commit makes the kernel commit the running transaction, by syncing one file.
func (w *workload) commit() {
	f := w.create(w.name())
	w.write(f, 100)
	w.check(f.Sync())
	w.check(f.Close())
	w.files = append(w.files, f.Name())
}

func (w *workload) someDir() string { return w.dirs[w.rng.IntN(len(w.dirs))] }

func (w *workload) name() string {
	w.next++
	name := fmt.Sprintf("n%d", w.next)
	switch w.rng.IntN(6) {
	case 0:
		name += strings.Repeat("x", 255-len(name))
	case 1:
		name += "-돌탑"
	}
	return filepath.Join(w.someDir(), name)
}

// take removes a random file from the list and returns it, "" if there is none.
func (w *workload) take() string {
	if len(w.files) == 0 {
		return ""
	}
	i := w.rng.IntN(len(w.files))
	path := w.files[i]
	w.files[i] = w.files[len(w.files)-1]
	w.files = w.files[:len(w.files)-1]
	return path
}

func (w *workload) create(path string) *os.File {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600|os.FileMode(w.rng.IntN(0o200)))
	if err != nil {
		panic(failure{err})
	}
	return f
}

// write writes size bytes where the file is. Some begin every kibibyte with the
// number that a log must escape.
func (w *workload) write(f *os.File, size int) {
	p := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], w.rng.Uint64())
	}
	if w.rng.IntN(3) == 0 {
		for i := 0; i+4 <= size; i += 1024 {
			binary.BigEndian.PutUint32(p[i:], 0xC03B3998)
		}
	}
	_, err := f.Write(p)
	w.check(err)
}

// step makes one change.
func (w *workload) step() {
	switch w.rng.IntN(16) {
	case 0, 1, 2, 3:
		f := w.create(w.name())
		w.write(f, w.size())
		if w.rng.IntN(5) == 0 {
			w.check(f.Sync())
		}
		w.check(f.Close())
		w.files = append(w.files, f.Name())
	case 4:
		path := w.name()
		w.check(os.Mkdir(path, 0o755))
		w.dirs = append(w.dirs, path)
		// Enough names for a second block, so that its removal revokes one.
		for i := range w.rng.IntN(40) {
			w.check(os.Symlink(strings.Repeat("t", 1+w.rng.IntN(100)), fmt.Sprintf("%s/s%d%s", path, i, strings.Repeat("y", 60))))
		}
	case 5:
		if len(w.dirs) > 3 {
			w.removeDir(w.dirs[1+w.rng.IntN(len(w.dirs)-1)])
		}
	case 6, 7:
		if path := w.take(); path != "" {
			w.check(os.Remove(path))
		}
	case 8:
		if path := w.take(); path != "" {
			to := w.name()
			w.check(os.Rename(path, to))
			w.files = append(w.files, to)
		}
	case 9:
		w.onFile(func(path string) {
			to := w.name()
			w.check(unix.Linkat(unix.AT_FDCWD, path, unix.AT_FDCWD, to, 0))
			w.files = append(w.files, to)
		})
	case 10:
		path := w.name()
		w.check(os.Symlink(strings.Repeat("../", w.rng.IntN(40))+"target", path))
		w.files = append(w.files, path)
	case 11:
		w.onRegular(func(path string) { w.check(os.Truncate(path, int64(w.size()))) })
	case 12:
		w.onRegular(func(path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			w.check(err)
			_, err = f.Seek(int64(w.size()), 0)
			w.check(err)
			w.write(f, w.size()/4)
			w.check(f.Close())
		})
	case 13:
		w.onFile(func(path string) {
			at := time.Unix(w.rng.Int64N(1<<33), w.rng.Int64N(1e9))
			ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano() + 1)}
			w.check(unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
			w.check(os.Lchown(path, w.rng.IntN(70000), w.rng.IntN(70000)))
		})
	case 14:
		w.onRegular(func(path string) {
			value := make([]byte, w.rng.IntN(500))
			w.check(unix.Setxattr(path, fmt.Sprintf("user.x%d", w.rng.IntN(3)), value, 0))
		})
	case 15:
		w.onRegular(func(path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			w.check(err)
			mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE}[w.rng.IntN(3)]
			// Files mapped by indirect blocks cannot be preallocated.
			if err := unix.Fallocate(int(f.Fd()), mode, int64(w.size()), 1+int64(w.size())); !errors.Is(err, unix.EOPNOTSUPP) {
				w.check(err)
			}
			w.check(f.Close())
		})
	}
}

// size is mostly small.
func (w *workload) size() int { return w.rng.IntN(1 << (4 + w.rng.IntN(14))) }

func (w *workload) onFile(fn func(path string)) {
	if len(w.files) > 0 {
		fn(w.files[w.rng.IntN(len(w.files))])
	}
}

func (w *workload) onRegular(fn func(path string)) {
	w.onFile(func(path string) {
		info, err := os.Lstat(path)
		if err != nil {
			panic(failure{err})
		}
		if info.Mode().IsRegular() {
			fn(path)
		}
	})
}

// removeDir removes a directory with all that is in it.
func (w *workload) removeDir(path string) {
	w.check(os.RemoveAll(path))
	under := func(p string) bool { return p == path || strings.HasPrefix(p, path+"/") }
	keep := func(list []string) (out []string) {
		for _, p := range list {
			if !under(p) {
				out = append(out, p)
			}
		}
		return out
	}
	w.dirs, w.files = keep(w.dirs), keep(w.files)
}

// fastCommits makes changes that the kernel can commit without a transaction.
func (w *workload) fastCommits() (err error) {
	defer caught(&err)
	w.commit()
	for range 5 {
		f := w.create(w.name())
		w.write(f, 5000)
		w.check(f.Sync())
		w.check(f.Close())
	}
	return nil
}
