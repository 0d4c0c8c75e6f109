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
	if _, err := Sources(Options{State: t.TempDir()}); !errors.Is(err, ErrNothing) {
		t.Errorf("no source: %v", err)
	}
	dir := t.TempDir()
	open := func(kinds string, o Options) source.Source {
		t.Helper()
		s, err := Sources(o)
		if err != nil || s.Kinds != kinds {
			t.Fatalf("opened %+v, %v, want %s", s, err, kinds)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		return s.Source
	}
	if s, ok := open("images", Options{Images: dir}).(*source.Images); !ok {
		t.Errorf("one source became a %T", s)
	}
	all := Options{Images: dir, QEMU: dir, Libvirt: "qemu:///system", State: t.TempDir()}
	if s, ok := open("libvirt,qemu,images", all).(source.Restorer); !ok {
		t.Errorf("three sources became a %T", s)
	}
	if s, ok := open("libvirt", Options{Libvirt: "qemu:///system"}).(source.Restorer); !ok {
		t.Errorf("libvirt became a %T", s)
	}
	for _, uri := range []string{"system", "xen:///system", "qemu+ssh://other/system", "qemu:///nowhere"} {
		if _, err := Sources(Options{Libvirt: uri}); err == nil {
			t.Errorf("URI %s was taken", uri)
		}
	}
	for _, o := range []Options{{Images: filepath.Join(dir, "none")}, {QEMU: filepath.Join(dir, "none")}} {
		if _, err := Sources(o); !errors.Is(err, os.ErrNotExist) {
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
