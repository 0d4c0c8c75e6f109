package main

import "testing"

func TestNamesDoNotDriveTheTerminal(t *testing.T) {
	for _, c := range []struct{ name, quoted, printable string }{
		{"résumé 한국.odt", "résumé 한국.odt", "résumé 한국.odt"},
		{"a\x1b[31mb", `"a\x1b[31mb"`, `a\x1b[31mb`},
		{"a\nb", `"a\nb"`, "a\nb"},
		{"a\rb", `"a\rb"`, `a\rb`},
		{"csi\u009b31m", `"csi\u009b31m"`, `csi\u009b31m`},          // what UTF-8 terminals take for ESC [
		{"exe.\u202etxt", `"exe.\u202etxt"`, `exe.\u202etxt`},       // writes from right to left
		{"zero\u200bwidth", `"zero\u200bwidth"`, `zero\u200bwidth`}, // looks like another name
		{"bad\xffutf", `"bad\xffutf"`, `bad\xffutf`},
	} {
		if got := quoted(c.name); got != c.quoted {
			t.Errorf("quoted %q: %s", c.name, got)
		}
		if got := printable(c.name); got != c.printable {
			t.Errorf("printable %q: %s", c.name, got)
		}
	}
}

func TestSplitPath(t *testing.T) {
	for _, c := range []struct{ arg, point, path string }{
		{"web1@latest", "web1@latest", "/"},
		{"web1@latest:/etc/hosts", "web1@latest", "/etc/hosts"},
		{"web1@latest:etc/hosts", "web1@latest", "/etc/hosts"},
		{"web1@latest:/etc/../x/", "web1@latest", "/x/"},
		{"web1@2026-11-20T22:00", "web1@2026-11-20T22:00", "/"},
		{"web1@2026-11-20T22:00:05Z", "web1@2026-11-20T22:00:05Z", "/"},
		{"web1@2026-11-20T22:00:/00", "web1@2026-11-20T22:00", "/00"},
		{"web1@2026-11-20T22:00:etc", "web1@2026-11-20T22:00", "/etc"},
		{"web1:/home/a@b:c", "web1", "/home/a@b:c"},
		{"web1@latest:/a:/b", "web1@latest", "/a:/b"},
	} {
		point, p, err := splitPath(c.arg)
		if err != nil || point != c.point || p != c.path {
			t.Errorf("%s: %q %q, %v", c.arg, point, p, err)
		}
	}
}
