package extract

import (
	"os"
	"strings"
	"testing"

	"cairn/mount/mounttest"
)

// TestSeveralPoints: files of two points have the same numbers, and are not the same.
func TestSeveralPoints(t *testing.T) {
	var trees []Source
	for _, content := range []string{"of the first", "of the second"} {
		fs := mounttest.NewFS()
		fs.Dir("/d")
		n := fs.File("/d/a", content)
		fs.Link("/d/b", n)
		tr := guest(fs)
		trees = append(trees, source(t, tr, "/d"), source(t, tr, "/d/a"), source(t, tr, "/d/b"))
	}
	dest := t.TempDir()
	var rep report
	if _, err := Copy(ctx, []Source{trees[1], trees[5]}, dest, Options{Archive: true, Report: rep.add}); err != nil {
		t.Fatal(err, &rep)
	}
	a, _ := os.ReadFile(dest + "/a")
	b, _ := os.ReadFile(dest + "/b")
	if string(a) != "of the first" || string(b) != "of the second" {
		t.Errorf("a %q, b %q", a, b)
	}
	if stat(t, dest+"/a").Ino == stat(t, dest+"/b").Ino {
		t.Error("files of two points are linked")
	}

	// Directories of two points, and one inside of another of the same point.
	dest = t.TempDir()
	other := trees[3]
	other.Path = "/volumes/vda/e"
	inner := trees[0]
	inner.Path = "/volumes/vda/f"
	if _, err := Copy(ctx, []Source{trees[0], other, inner}, dest, Options{Archive: true, Report: rep.add}); err != nil {
		t.Error(err, &rep)
	}

	// Which of two would be there in the end is nobody's wish.
	dest = t.TempDir()
	_, err := Copy(ctx, []Source{trees[1], trees[4]}, dest, Options{Force: true})
	if err == nil || !strings.Contains(err.Error(), "two of the sources are called \"a\"") {
		t.Error(err)
	}
	if list, _ := os.ReadDir(dest); len(list) != 0 {
		t.Errorf("%d files were copied", len(list))
	}
}
