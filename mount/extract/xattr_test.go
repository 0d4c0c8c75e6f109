package extract

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"cairn/mount/filesys"
	"cairn/mount/mounttest"
)

// badXattrs is a file system of which extended attributes cannot be read.
type badXattrs struct{ *mounttest.FS }

func (badXattrs) Xattr(uint64, string) ([]byte, error) { return nil, filesys.ErrCorrupt }

// An attribute that the point has and that cannot be read is missing in the copy:
// that is a failure, of the copy as of the archive, but the file is there.
func TestUnreadableXattr(t *testing.T) {
	fs := mounttest.NewFS()
	fs.Dir("/d")
	fs.File("/d/one", "content").Xattrs = map[string][]byte{"user.note": []byte("x")}
	tr := guest(badXattrs{fs})
	dest := t.TempDir()
	var rep report
	res, err := Copy(ctx, []Source{source(t, tr, "/d")}, dest, Options{Archive: true, Report: rep.add})
	if !errors.Is(err, ErrIncomplete) || res.Failed != 1 || !strings.Contains(rep.String(), "one: read extended attribute user.note") {
		t.Errorf("%+v, %v, reported %q", res, err, rep.lines)
	}
	if b, _ := os.ReadFile(dest + "/d/one"); string(b) != "content" {
		t.Errorf("copied %q", b)
	}

	var out bytes.Buffer
	rep = report{}
	res, err = Stream(ctx, source(t, tr, "/d"), &out, Options{Archive: true, Report: rep.add})
	if !errors.Is(err, ErrIncomplete) || res.Failed != 1 || !strings.Contains(rep.String(), "one: read extended attribute user.note") {
		t.Errorf("%+v, %v, reported %q", res, err, rep.lines)
	}
	r := tar.NewReader(&out)
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("no file in the archive: %v", err)
		}
		if h.Name == "d/one" {
			if b, err := io.ReadAll(r); err != nil || string(b) != "content" {
				t.Errorf("archived %q, %v", b, err)
			}
			return
		}
	}
}
