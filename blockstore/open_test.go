package blockstore

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"cairn/blockstore/block"
)

func TestCreateOpenClose(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "vault")
	s, err := Create(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	made := s.Info()
	if made.BlockSize != block.DefaultSize || made.Version != 1 || len(made.UUID) != 36 || made.ReadOnly || made.Failed != nil {
		t.Errorf("info %+v", made)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v, want 0700 (%v)", fi.Mode(), err)
	}
	_, err = Create(dir, Options{})
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("create over an open vault: %v", err)
	}
	testClose(t, s)
	wantErr(t, "close again", s.Close(), ErrClosed)
	_, err = Create(dir, Options{})
	wantErr(t, "create over a vault", err, ErrExists)
	s = testOpen(t, dir, Options{})
	if got := s.Info(); got != made {
		t.Errorf("opened %+v, made %+v", got, made)
	}
	testClose(t, s)
}

func TestClosedStore(t *testing.T) {
	s := testCreate(t, "v", Options{FS: vfs.NewMem()})
	p := testBackup(t, s, "p", 0, 3)
	u := startUpload(t, s, "u")
	testClose(t, s)
	ctx := context.Background()
	_, err := u.Put(ctx, testBlocks(1))
	wantErr(t, "put", err, ErrClosed)
	_, err = u.FindMissing(ctx, digestsOf(testBlocks(1)))
	wantErr(t, "find missing", err, ErrClosed)
	wantErr(t, "flush", u.Flush(ctx), ErrClosed)
	wantErr(t, "commit", u.Commit(ctx, Point{ID: "q"}), ErrClosed)
	u.Abort()
	_, err = s.StartUpload("v")
	wantErr(t, "start upload", err, ErrClosed)
	_, err = s.ReadBlocks(ctx, []block.Digest{p.Disks[0].Map.Root})
	wantErr(t, "read", err, ErrClosed)
	_, err = s.Point("p")
	wantErr(t, "point", err, ErrClosed)
	wantErr(t, "points", s.Points("", "", func(Point) bool { return true }), ErrClosed)
	wantErr(t, "delete point", s.DeletePoint(ctx, "p"), ErrClosed)
	wantErr(t, "apply", s.Apply(ctx, Mutation{Key: "k"}), ErrClosed)
	_, err = s.Record("k")
	wantErr(t, "record", err, ErrClosed)
	_, err = s.Verify(ctx, nil)
	wantErr(t, "verify", err, ErrClosed)
	_, err = s.VerifyPoint(ctx, "p", nil)
	wantErr(t, "verify point", err, ErrClosed)
	_, err = s.Stats()
	wantErr(t, "stats", err, ErrClosed)
}

// TestCloseInTheMiddle closes a store under the hands of who uses it: they get
// ErrClosed, and what was acknowledged is there afterwards.
func TestCloseInTheMiddle(t *testing.T) {
	mem := vfs.NewMem()
	for round := range 10 {
		var s *Store
		if round == 0 {
			s = testCreate(t, "v", Options{FS: mem, TableSize: 100 << 10})
		} else {
			s = testOpen(t, "v", Options{FS: mem, TableSize: 100 << 10})
		}
		ctx := context.Background()
		var puts atomic.Int64
		enough := make(chan struct{})
		acked := make(chan []block.Digest)
		for w := range 3 {
			go func() {
				var done []block.Digest
				defer func() { acked <- done }()
				u, err := s.StartUpload(string(rune('a' + w)))
				for n := 0; err == nil; n++ {
					if puts.Add(1) == int64(5*round) {
						close(enough)
					}
					bs := testBlocks(round*10000 + w*1000 + n)
					var a *Ack
					if a, err = u.Put(ctx, bs); err != nil {
						break
					}
					if n%3 == 0 {
						err = u.Flush(ctx)
					}
					if n%5 == 0 {
						<-a.Done()
						if err = a.Err(); err == nil {
							done = append(done, bs[0].Digest)
						}
					}
					if n%7 == 0 && err == nil {
						_, err = s.Verify(ctx, nil)
					}
				}
				if !errors.Is(err, ErrClosed) {
					t.Errorf("ended with %v", err)
				}
			}()
		}
		if round > 0 {
			<-enough
		}
		testClose(t, s)
		again := testOpen(t, "v", Options{FS: mem}) // the writers still have s
		u := startUpload(t, again, "check")
		for range 3 {
			if m, err := u.FindMissing(ctx, <-acked); err != nil || len(m) > 0 {
				t.Errorf("%d acknowledged blocks missing, %v", len(m), err)
			}
		}
		testClose(t, again)
	}
}

func TestCreateRefuses(t *testing.T) {
	mem := vfs.NewMem()
	touch := func(path string) {
		t.Helper()
		if err := errors.Join(mem.MkdirAll(mem.PathDir(path), 0o755), writeFile(mem, path, "x")); err != nil {
			t.Fatal(err)
		}
	}
	touch("foreign/my-photos.tar")
	_, err := Create("foreign", Options{FS: mem})
	wantErr(t, "directory with a foreign file", err, ErrExists)
	if err == nil || !strings.Contains(err.Error(), "my-photos.tar") {
		t.Errorf("the error does not name the file: %v", err)
	}
	// A vault that lost its FORMAT file is not to be cleared away.
	s := testCreate(t, "lost", Options{FS: mem})
	testBackup(t, s, "p", 0, 3)
	testClose(t, s)
	if err := mem.Remove("lost/FORMAT"); err != nil {
		t.Fatal(err)
	}
	_, err = Create("lost", Options{FS: mem})
	wantErr(t, "vault without FORMAT", err, ErrExists)
	_, err = Open("lost", Options{FS: mem})
	wantErr(t, "open a vault without FORMAT", err, ErrNotVault)

	_, err = Create("v", Options{FS: mem, BlockSize: 1000})
	wantErr(t, "odd block size", err, ErrInvalid)
	_, err = Create("v", Options{FS: mem, ReadOnly: true})
	wantErr(t, "read-only", err, ErrReadOnly)
}

func TestOpenRefuses(t *testing.T) {
	mem := vfs.NewMem()
	_, err := Open("nowhere", Options{FS: mem})
	wantErr(t, "no directory", err, ErrNotVault)
	good := formatFile{FormatVersion, "0193f4c2-7a1e-4b6f-9d3c-5e8f7a6b5c4d", testBlock}.String()
	for _, c := range []struct {
		name, format string
		want         error
		has          string
	}{
		{"empty FORMAT", "", ErrNotVault, "FORMAT"},
		{"another program's", "FORMAT 3\n", ErrNotVault, "cairn vault"},
		{"no version", "cairn vault\nuuid: x\n", ErrNotVault, "version"},
		{"version 0", "cairn vault\nversion: 0\n", ErrNotVault, "version"},
		{"newer", "cairn vault\nversion: 7\nsomething: else\n", ErrNewerFormat, "format 7, this program reads up to format 1: use"},
		{"newer by far", "cairn vault\nversion: 99999\n", ErrNewerFormat, "99999"},
		{"no uuid", strings.Replace(good, "uuid: 0", "uuid: q", 1), ErrCorrupt, "uuid"},
		{"odd block size", strings.Replace(good, "size: 16384", "size: 16385", 1), ErrCorrupt, "16385"},
		{"no block size", strings.Replace(good, "block-size", "size", 1), ErrCorrupt, "block-size"},
		{"no databases", good, ErrCorrupt, "index is missing"},
	} {
		dir := strings.ReplaceAll(c.name, " ", "-")
		if err := errors.Join(mem.MkdirAll(dir, 0o755), writeFile(mem, mem.PathJoin(dir, formatName), c.format)); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, Options{FS: mem})
		wantErr(t, c.name, err, c.want)
		if err != nil && (!strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), c.has)) {
			t.Errorf("%s: message %q lacks the directory or %q", c.name, err, c.has)
		}
	}
	// No database is touched before the version is known.
	s := testCreate(t, "v", Options{FS: mem})
	testClose(t, s)
	if err := writeFile(mem, "v/FORMAT", "cairn vault\nversion: 2\n"); err != nil {
		t.Fatal(err)
	}
	before, _ := mem.List("v/index")
	_, err = Open("v", Options{FS: mem})
	wantErr(t, "newer", err, ErrNewerFormat)
	if after, _ := mem.List("v/index"); len(after) != len(before) {
		t.Errorf("index/ was changed: %v, then %v", before, after)
	}
	// A database that is gone is not made anew.
	for _, db := range []string{indexName, blocksName} {
		s := testCreate(t, "gone-"+db, Options{FS: mem})
		testClose(t, s)
		if err := mem.RemoveAll("gone-" + db + "/" + db); err != nil {
			t.Fatal(err)
		}
		_, err = Open("gone-"+db, Options{FS: mem})
		wantErr(t, db+" is gone", err, ErrCorrupt)
	}
}

// TestCreateBrokenOff cuts the power at every file operation of Create. Another
// Create must then succeed, or the vault be there.
func TestCreateBrokenOff(t *testing.T) {
	for at := 1; ; at++ {
		mem := vfs.NewCrashableMem()
		var after *vfs.MemFS
		hook := onWrite(mem, func(n int) error {
			if n == at {
				after = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: newQuietRand(at)})
			}
			return nil
		})
		s, err := Create("v", testOptions(Options{FS: hook}))
		if err != nil {
			t.Fatal(err)
		}
		testClose(t, s)
		if after == nil {
			t.Logf("%d file operations", at-1)
			return
		}
		s, err = Open("v", testOptions(Options{FS: after}))
		if errors.Is(err, ErrNotVault) {
			s, err = Create("v", testOptions(Options{FS: after}))
		}
		if err != nil {
			t.Fatalf("power cut at operation %d: %v", at, err)
		}
		testBackup(t, s, "p", 0, 2)
		testClose(t, s)
	}
}

func TestLockedHere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	s := testCreate(t, dir, Options{})
	link := dir + "-link"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, dir + "/.", link} {
		for _, o := range []Options{{}, {ReadOnly: true}} {
			_, err := Open(d, o)
			wantErr(t, "open twice", err, ErrLocked)
			if err != nil && !strings.Contains(err.Error(), dir) {
				t.Errorf("message %q does not name %s", err, dir)
			}
		}
	}
	testBackup(t, s, "p", 0, 2) // the owner goes on
	testClose(t, s)
	testClose(t, testOpen(t, link, Options{}))
}

func TestLockedByProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vault")
	s := testCreate(t, dir, Options{})
	testBackup(t, s, "p", 0, 2)
	hold := func() (said string, release func() string) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), lockHelper+"="+dir)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		said, _ = lines.ReadString('\n')
		return said, func() string {
			in.Close()
			l, _ := lines.ReadString('\n')
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			return l
		}
	}
	said, release := hold()
	release()
	if !strings.Contains(said, ErrLocked.Error()) || !strings.Contains(said, dir) {
		t.Errorf("the other process says %q", said)
	}
	testBackup(t, s, "q", 2, 4) // the owner goes on
	testClose(t, s)

	said, release = hold()
	if said != "opened: <nil>\n" {
		t.Fatalf("the other process says %q", said)
	}
	_, err := Open(dir, Options{})
	wantErr(t, "open what another process has", err, ErrLocked)
	if said := release(); said != "closed: <nil>\n" {
		t.Errorf("the other process says %q", said)
	}
	s = testOpen(t, dir, Options{})
	if err := errors.Join(s.checkPoint("p", 0, 2), s.checkPoint("q", 2, 4)); err != nil {
		t.Error(err)
	}
}

func TestReadOnly(t *testing.T) {
	mem := vfs.NewMem()
	s := testCreate(t, "v", Options{FS: mem})
	testBackup(t, s, "p", 0, 5)
	testClose(t, s)
	s = testOpen(t, "v", Options{FS: mem, ReadOnly: true})
	checkReadOnly(t, s, "p", 0, 5)
	testClose(t, s)
	if err := mem.RemoveAll("v/incoming"); err != nil {
		t.Fatal(err)
	}
	testClose(t, testOpen(t, "v", Options{FS: mem, ReadOnly: true}))
	if _, err := mem.Stat("v/incoming"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a read-only store made a directory: %v", err)
	}
}

// checkReadOnly tries everything on a store that must not write.
func checkReadOnly(t *testing.T, s *Store, point string, from, to int) {
	t.Helper()
	if !s.Info().ReadOnly {
		t.Error("info does not say read-only")
	}
	if err := s.checkPoint(point, from, to); err != nil {
		t.Error(err)
	}
	if r, err := s.Verify(context.Background(), nil); err != nil || r.BadCount > 0 {
		t.Errorf("verify: %v, %+v", err, r)
	}
	if st, err := s.Stats(); err != nil || st.Points != 1 {
		t.Errorf("stats: %v, %+v", err, st)
	}
	ctx := context.Background()
	_, err := s.StartUpload("u")
	wantErr(t, "start upload", err, ErrReadOnly)
	wantErr(t, "delete point", s.DeletePoint(ctx, point), ErrReadOnly)
	wantErr(t, "update point", s.UpdatePoint(ctx, point, nil), ErrReadOnly)
	wantErr(t, "apply", s.Apply(ctx, Mutation{Key: "k"}), ErrReadOnly)
	if release, err := s.HoldPoint(point); err != nil {
		t.Error(err)
	} else {
		release()
	}
}
