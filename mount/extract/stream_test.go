package extract

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cairn/mount/filesys"
	"cairn/mount/mounttest"
)

func TestStreamFile(t *testing.T) {
	tr := guest(sample())
	var out bytes.Buffer
	res, err := Stream(ctx, source(t, tr, "/d/sub/sparse"), &out, Options{})
	want := strings.Repeat("\x00", 1<<20) + mounttest.Pattern(8192)
	if err != nil || out.Len() != 16<<20 || out.String()[:len(want)] != want || len(strings.Trim(out.String()[len(want):], "\x00")) > 0 || res.Bytes != 8192 {
		t.Errorf("%d bytes, %+v, %v", out.Len(), res, err)
	}
	if _, err := Stream(ctx, source(t, tr, "/d"), io.Discard, Options{}); err == nil || !strings.Contains(err.Error(), "use -r") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Stream(ctx, source(t, tr, "/d/dev"), io.Discard, Options{}); err == nil {
		t.Error("a device was streamed")
	}
	broken := errors.New("broken pipe")
	if _, err := Stream(ctx, source(t, tr, "/d/one"), writerFunc(func([]byte) (int, error) { return 0, broken }), Options{}); !errors.Is(err, broken) {
		t.Errorf("a broken pipe: %v", err)
	}
	fs := sample()
	fs.Get("/d/one").ReadErr = errors.New("block 1234 does not match its digest")
	if _, err := Stream(ctx, source(t, guest(fs), "/d/one"), io.Discard, Options{}); err == nil || !strings.Contains(err.Error(), "1234") {
		t.Errorf("a lost block: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A tar stream holds what Copy would have made, and tar can unpack it.
func TestStreamTar(t *testing.T) {
	fs := sample()
	fs.File("/d/broken", "").Err = filesys.ErrCorrupt
	fs.Add("/d/bigdev", filesys.TypeBlock|0o600).Rdev = unix.Mkdev(0xabc, 0x12345)
	fs.File("/d/"+strings.Repeat("long", 60), "x")
	fs.Get("/d/empty").Mtime = time.Date(1960, 1, 1, 0, 0, 0, 5, time.UTC)
	var out bytes.Buffer
	var rep report
	res, err := Stream(ctx, source(t, guest(fs), "/d"), &out, Options{Archive: true, Report: rep.add})
	if !errors.Is(err, ErrIncomplete) || res.Failed != 1 || res.Files != 5 || res.HardLinks != 1 || res.Specials != 3 || res.Skipped != 1 || res.Dirs != 2 {
		t.Errorf("%+v, %v", res, err)
	}
	got := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(out.Bytes())); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h
		if b, err := io.ReadAll(r); err != nil || h.Name == "d/one" && string(b) != mounttest.Pattern(3<<20+17) {
			t.Errorf("content of %s: %v", h.Name, err)
		}
	}
	if h := got["d/one"]; h == nil || h.Mode != 0o4755 || h.Uid != 1234 || h.PAXRecords["SCHILY.xattr.user.note"] != "a\x00b" || h.ModTime.Nanosecond() != 123 {
		t.Errorf("one: %+v", h)
	}
	if h := got["d/sub/two"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "d/one" {
		t.Errorf("two: %+v", h)
	}
	if h := got["d/bigdev"]; h == nil || h.Devmajor != 0xabc || h.Devminor != 0x12345 {
		t.Errorf("bigdev: %+v", h)
	}
	cmd := exec.Command("tar", "-tf", "-", "--quoting-style=literal")
	cmd.Stdin = bytes.NewReader(out.Bytes())
	list, err := cmd.CombinedOutput()
	if err != nil || !slices.Contains(strings.Split(string(list), "\n"), "d/sub/two") || !strings.Contains(string(list), "d/\xff raw\nname") {
		t.Errorf("tar lists %v\n%s", err, list)
	}
}
