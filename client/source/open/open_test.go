package open

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cairn/client/source"
)

func TestSources(t *testing.T) {
	if _, _, err := Sources(Options{State: t.TempDir()}); !errors.Is(err, ErrNothing) {
		t.Errorf("no source: %v", err)
	}
	dir := t.TempDir()
	s, kinds, err := Sources(Options{Images: dir})
	if err != nil || kinds != "images" {
		t.Fatalf("kinds %q, %v", kinds, err)
	}
	if _, ok := s.(*source.Images); !ok {
		t.Errorf("one source became a %T", s)
	}
	s, kinds, err = Sources(Options{Images: dir, QEMU: dir, State: t.TempDir()})
	if err != nil || kinds != "qemu,images" {
		t.Fatalf("kinds %q, %v", kinds, err)
	}
	if _, ok := s.(source.Restorer); !ok {
		t.Errorf("two sources became a %T", s)
	}
	for _, o := range []Options{{Images: filepath.Join(dir, "none")}, {QEMU: filepath.Join(dir, "none")}} {
		if _, _, err := Sources(o); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a directory that is not there: %v", err)
		}
	}
}

func TestOpenGuestOfNoKind(t *testing.T) {
	for _, args := range [][]string{nil, {""}, {"images", "x"}} {
		if _, _, err := openGuest(context.Background(), args); err == nil {
			t.Errorf("%q was opened", args)
		}
	}
}

// Every kind has a name and an option of its own.
func TestKinds(t *testing.T) {
	all := Options{Images: "i", Libvirt: "l", QEMU: "q"}
	seen := map[string]bool{}
	for _, k := range kinds {
		for _, s := range []string{k.name, k.given(all)} {
			if seen[s] {
				t.Errorf("%q is there twice", s)
			}
			seen[s] = true
		}
		if (k.guard == "") != (k.guest == nil) {
			t.Errorf("%s: guard without guest, or the other way round", k.name)
		}
	}
}
