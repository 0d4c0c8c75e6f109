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
	held  []*os.File // by the step under way
	next  int
	each  func(step int) // called before each step of run, may be nil
}

// failure is what ends a workload.
type failure struct{ error }

// run does a number of random changes, then forces the log, changes some more
// without, and leaves files open without a name.
func (w *workload) run(steps int) (err error) {
	defer caught(&err)
	w.dirs = []string{w.dir}
	for i := range steps {
		if w.each != nil {
			w.each(i)
		}
		w.try(w.step)
		if w.rng.IntN(20) == 0 {
			w.try(w.commit)
		}
	}
	// Files that are open and have no name any more: orphans at the next mount.
	for range 4 {
		w.try(func() {
			f := w.create(w.name())
			w.write(f, w.rng.IntN(300_000))
			w.check(f.Sync())
			w.check(os.Remove(f.Name()))
			w.open = append(w.open, f)
			w.held = nil
		})
	}
	w.try(w.commit)
	// Not committed: a crash loses it.
	for range 30 {
		w.try(w.step)
	}
	return nil
}

func (w *workload) close() {
	for _, f := range w.open {
		f.Close()
	}
	w.open = nil
}

// check ends the step on an error, and the workload too unless the file system
// is full.
func (w *workload) check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// try makes one change. When the file system is full, it makes room instead.
func (w *workload) try(change func()) {
	err := func() (err error) {
		defer caught(&err)
		change()
		return nil
	}()
	for _, f := range w.held {
		f.Close() // again, if the step came to its end
	}
	w.held = w.held[:0]
	if err == nil {
		return
	}
	if !errors.Is(err, unix.ENOSPC) {
		panic(failure{err})
	}
	for range 20 {
		if path := w.take(); path != "" {
			w.check(os.Remove(path))
		}
	}
}

// caught turns what check threw into an error.
func caught(err *error) {
	switch v := recover().(type) {
	case nil:
	case failure:
		*err = v.error
	default:
		panic(v)
	}
}

// commit forces the log, by syncing one file.
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
	w.held = append(w.held, f)
	return f
}

// write writes size bytes where the file is. Some begin every kibibyte with the
// number that begins a record of the log.
func (w *workload) write(f *os.File, size int) {
	p := make([]byte, size)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], w.rng.Uint64())
	}
	if w.rng.IntN(3) == 0 {
		for i := 0; i+4 <= size; i += 512 {
			binary.BigEndian.PutUint32(p[i:], 0xFEEDBABE)
		}
	}
	_, err := f.Write(p)
	w.check(err)
}

// step makes one change.
func (w *workload) step() {
	switch w.rng.IntN(21) {
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
		// Enough names for some blocks, in some directories for an index of
		// several.
		n := w.rng.IntN(40)
		if w.rng.IntN(8) == 0 {
			n *= 20
		}
		for i := range n {
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
		w.check(os.Symlink(strings.Repeat("../", w.rng.IntN(330))+"target", path))
		w.files = append(w.files, path)
	case 11:
		w.onRegular(func(path string) { w.check(os.Truncate(path, int64(w.size()))) })
	case 12:
		w.onRegular(func(path string) {
			w.openFile(path, func(f *os.File) {
				_, err := f.Seek(int64(w.size()), 0)
				w.check(err)
				w.write(f, w.size()/4)
			})
		})
	case 13:
		w.onFile(func(path string) {
			at := time.Unix(w.rng.Int64N(1<<31), w.rng.Int64N(1e9))
			ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano() + 1)}
			w.check(unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
			w.check(os.Lchown(path, w.rng.IntN(70000), w.rng.IntN(70000)))
		})
	case 14, 15:
		w.onRegular(func(path string) {
			name := fmt.Sprintf("user.x%d", w.rng.IntN(12))
			if w.rng.IntN(4) == 0 {
				if err := unix.Removexattr(path, name); !errors.Is(err, unix.ENODATA) {
					w.check(err)
				}
				return
			}
			// The largest are not logged but written.
			w.check(unix.Setxattr(path, name, make([]byte, w.rng.IntN(1<<w.rng.IntN(15))), 0))
		})
	case 16:
		w.onRegular(func(path string) {
			w.openFile(path, func(f *os.File) {
				modes := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE}
				w.check(unix.Fallocate(int(f.Fd()), modes[w.rng.IntN(4)], int64(w.size()), 1+int64(w.size())))
			})
		})
	case 17:
		path := w.name()
		w.check(unix.Mknod(path, []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK}[w.rng.IntN(4)]|0o640, int(unix.Mkdev(uint32(w.rng.IntN(512)), uint32(w.rng.IntN(1<<18))))))
		w.files = append(w.files, path)
	case 18, 19:
		w.clone()
	case 20:
		w.fragment()
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

func (w *workload) openFile(path string, fn func(f *os.File)) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	w.check(err)
	w.held = append(w.held, f)
	fn(f)
	w.check(f.Close())
}

// clone shares a file's blocks with a new one, and writes over some of them, so
// that they are copied.
func (w *workload) clone() {
	w.onRegular(func(path string) {
		w.openFile(path, func(from *os.File) {
			to := w.create(w.name())
			w.files = append(w.files, to.Name())
			err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
			if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
				w.check(err)
			}
			st, err := to.Stat()
			w.check(err)
			for range w.rng.IntN(5) {
				_, err := to.Seek(w.rng.Int64N(st.Size()+1), 0)
				w.check(err)
				w.write(to, w.rng.IntN(5000))
			}
			if w.rng.IntN(2) == 0 {
				w.check(to.Sync())
			}
			w.check(to.Close())
		})
	})
}

// fragment makes a file of many extents, the mapping of which is a tree.
func (w *workload) fragment() {
	f := w.create(w.name())
	w.files = append(w.files, f.Name())
	n := 10 + w.rng.IntN(150)
	for i := range n {
		_, err := f.Seek(int64(i)*32768, 0)
		w.check(err)
		w.write(f, 1+w.rng.IntN(2000))
	}
	for range n / 10 {
		w.check(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, w.rng.Int64N(int64(n))*32768, 65536))
	}
	w.check(f.Sync())
	w.check(f.Close())
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
