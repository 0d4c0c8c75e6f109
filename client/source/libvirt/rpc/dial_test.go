package rpc

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestURI(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	for uri, want := range map[string]struct {
		name    string
		sockets []string
		err     string
	}{
		"qemu:///system":                       {"qemu:///system", []string{"/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"}, ""},
		"qemu+unix:///system":                  {"qemu:///system", []string{"/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"}, ""},
		"qemu:///session":                      {"qemu:///session", []string{"/run/user/7/libvirt/virtqemud-sock", "/run/user/7/libvirt/libvirt-sock"}, ""},
		"qemu:///system?socket=/x%20y":         {"qemu:///system", []string{"/x y"}, ""},
		"qemu+ssh://host/system":               {err: `driver "qemu+ssh": only`},
		"xen:///system":                        {err: `driver "xen": only`},
		"qemu://host/system":                   {err: `host "host": only the local host`},
		"qemu:///embed?root=/x":                {err: `path "/embed": must be`},
		"qemu:///system?mode=direct":           {err: `parameter "mode": only socket`},
		"":                                     {err: `driver "": only`},
		"qemu:///%zz":                          {err: "invalid URL escape"},
		"/run/libvirt/libvirt-sock":            {err: `driver "": only`},
		"qemu:///system?socket=/x;y":           {err: "semicolon"},
		"qemu://user@/system?socket=/run/sock": {err: "only the local host"},
	} {
		name, sockets, err := parseURI(uri)
		if want.err != "" {
			if err == nil || !strings.Contains(err.Error(), want.err) {
				t.Errorf("%s: error %v, want %q", uri, err, want.err)
			}
		} else if err != nil || name != want.name || !reflect.DeepEqual(sockets, want.sockets) {
			t.Errorf("%s: got %q %q %v", uri, name, sockets, err)
		}
	}
}

// listen runs script for the first connection and returns the URI to dial.
func listen(t *testing.T, script func(*daemon)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if nc, err := l.Accept(); err == nil {
			defer nc.Close()
			script(newDaemon(t, nc))
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return "qemu:///system?socket=" + path
}

// auth answers the question for authentication.
func (d *daemon) auth(methods ...uint32) {
	e := args().u32(uint32(len(methods)))
	for _, m := range methods {
		e.u32(m)
	}
	d.reply(d.takeCall(procAuthList), e)
}

func TestDial(t *testing.T) {
	for name, test := range map[string]struct {
		script func(*daemon)
		code   error
		text   string
	}{
		"none":   {script: func(d *daemon) { d.auth(authNone) }},
		"either": {script: func(d *daemon) { d.auth(authSASL, authNone) }},
		"polkit": {script: func(d *daemon) {
			d.auth(authSASL, authPolkit)
			d.reply(d.takeCall(procAuthPolkit), args().u32(1))
		}},
		"polkit refuses": {script: func(d *daemon) {
			d.auth(authPolkit)
			d.refuse(d.takeCall(procAuthPolkit), &Error{Code: ErrAuthUnavailable, Text: "no agent"})
			d.reply(d.takeCall(procConnectClose), args())
		}, code: ErrAuthUnavailable, text: "run as root"},
		"SASL": {script: func(d *daemon) {
			d.auth(authSASL, 3)
			d.reply(d.takeCall(procConnectClose), args())
		}, text: "SASL or method 3"},
		"open refused": {script: func(d *daemon) {
			d.auth(authNone)
			d.refuse(d.takeCall(procConnectOpen), &Error{Code: 5, Text: "no driver"})
			d.reply(d.takeCall(procConnectClose), args())
		}, code: Code(5), text: "no driver"},
		"hangs up": {script: func(d *daemon) { d.auth(); d.Close() }, code: ErrDisconnected},
		"auth list too long": {script: func(d *daemon) {
			d.auth(make([]uint32, 21)...)
			d.reply(d.takeCall(procConnectClose), args())
		}, code: ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			uri := listen(t, func(d *daemon) {
				test.script(d)
				if test.code == nil && test.text == "" {
					d.reply(d.takeCall(procConnectOpen), args())
					d.reply(d.takeCall(procConnectClose), args())
				}
			})
			c, err := Dial(t.Context(), uri)
			if test.code == nil && test.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			if test.code != nil {
				wantErr(t, err, test.code)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want %q", err, test.text)
			}
		})
	}
}

func TestDialWithoutDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	_, err := Dial(t.Context(), "qemu:///system?socket="+path)
	wantErr(t, err, os.ErrNotExist)
	if !strings.Contains(err.Error(), "is libvirtd or virtqemud running?") || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	// The context bounds the handshake with one that does not answer.
	ctx, cancel := context.WithCancel(t.Context())
	uri := listen(t, func(d *daemon) {
		d.takeCall(procAuthList)
		cancel()
		d.takeCall(procConnectClose)
	})
	_, err = Dial(ctx, uri)
	wantErr(t, err, context.Canceled)
}

// The second socket is tried if nobody listens at the first.
func TestDialFallsBack(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	uri := listen(t, func(d *daemon) {
		d.auth(authNone)
		d.reply(d.takeCall(procConnectOpen), args())
		d.reply(d.takeCall(procConnectClose), args())
	})
	_, path, _ := strings.Cut(uri, "=")
	sub := filepath.Join(dir, "libvirt")
	for _, err := range []error{
		os.Mkdir(sub, 0o700),
		os.WriteFile(filepath.Join(sub, "virtqemud-sock"), nil, 0o600),
		os.Symlink(path, filepath.Join(sub, "libvirt-sock")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := Dial(t.Context(), "qemu:///session")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
