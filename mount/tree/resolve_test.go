package tree

import (
	"errors"
	"strings"
	"testing"

	"cairn/mount/filesys"
)

func TestResolve(t *testing.T) {
	tr := NewPoint(testPoint(), Options{OpenFS: onlyExt})
	for _, tc := range []struct {
		path, want string
		err        error
	}{
		{"", "/", nil},
		{"/", "/", nil},
		{"//volumes/./vda1//etc/", "/volumes/vda1/etc", nil},
		{"volumes/vda1/bin/sh", "/volumes/vda1/usr/bin/sh", nil},
		{"volumes/vda1/abs", "/volumes/vda1/etc/hostname", nil},
		{"volumes/vda1/etc/alternatives/bin", "/volumes/vda1/usr/bin", nil},
		{"volumes/vda1/escape", "/volumes/vda1/etc/hostname", nil},
		{"volumes/vda1/etc/up", "", filesys.ErrNotExist},
		{"volumes/vda1/etc/../../vdb/etc/hostname", "/volumes/vdb/etc/hostname", nil},
		{"volumes/vda1/bin/../../etc", "/volumes/vda1/etc", nil},
		{"../../..", "/", nil},
		{"volumes/vda1/loop1", "", ErrLoop},
		{"volumes/vda1/loop1/x", "", ErrLoop},
		{"volumes/vda1/etc/hostname/", "", filesys.ErrNotDir},
		{"volumes/vda1/etc/hostname/x", "", filesys.ErrNotDir},
		{"volumes/vda1/nope/x", "", filesys.ErrNotExist},
	} {
		f, err := tr.Resolve(ctx, tc.path, true)
		if !errors.Is(err, tc.err) || f.Path != tc.want {
			t.Errorf("%q: %q, %v; want %q, %v", tc.path, f.Path, err, tc.want, tc.err)
		}
	}
	f, err := tr.Resolve(ctx, "volumes/vda1/bin", false)
	if err != nil || f.Path != "/volumes/vda1/bin" || f.Attr.Mode&filesys.TypeMask != filesys.TypeSymlink {
		t.Errorf("not followed: %+v, %v", f, err)
	}
	if f, err = tr.Resolve(ctx, "volumes/vda1/bin/", false); err != nil || f.Path != "/volumes/vda1/usr/bin" {
		t.Errorf("a slash at the end: %+v, %v", f, err)
	}
	_, err = tr.Resolve(ctx, "/etc/hostname", true)
	if err == nil || !strings.Contains(err.Error(), "the files of this point are in /volumes/vda1, /volumes/vdb") {
		t.Errorf("hint: %v", err)
	}
}
