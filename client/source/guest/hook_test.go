package guest

import (
	"strings"
	"testing"
)

func TestParseArgs(t *testing.T) {
	for args, want := range map[string][2]string{
		"":                                     {"", defaultConfig},
		"-d":                                   {"", defaultConfig},
		"-F":                                   {defaultHook, defaultConfig},
		"-F /other":                            {defaultHook, defaultConfig}, // the next word is not its value
		"-F/x":                                 {"/x", defaultConfig},
		"-dvF/x":                               {"/x", defaultConfig},
		"--fsfreeze-hook":                      {defaultHook, defaultConfig},
		"--fsfreeze-hook=/x y":                 {"/x", defaultConfig},
		"--fsf=/x":                             {"/x", defaultConfig},
		"-m virtio-serial -p /dev/F":           {"", defaultConfig},
		"-p -F":                                {"", defaultConfig}, // the value of -p
		"-pF":                                  {"", defaultConfig},
		"--path=-F -c /c":                      {"", "/c"},
		"--config /c --fsfreeze-hook=/x -t /t": {"/x", "/c"},
		"--config=/c":                          {"", "/c"},
		"-- -F":                                {"", defaultConfig},
		"-F -F/last":                           {"/last", defaultConfig},
	} {
		hook, config := parseArgs(append([]string{"qemu-ga"}, strings.Fields(args)...))
		if hook != want[0] || config != want[1] {
			t.Errorf("%q: hook %q, configuration %q", args, hook, config)
		}
	}
	parseArgs(nil)
}

func TestParseConfig(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		"[general]\nfsfreeze-hook=/x\n":      "/x",
		"[general]\n fsfreeze-hook = /x":     "/x",
		"[general]\r\nfsfreeze-hook=/x\r\n":  "/x",
		"[general]\n#fsfreeze-hook=/x":       "",
		"[general]\n[other]\nfsfreeze-hook=": "",
		"[other]\nfsfreeze-hook=/x":          "",
	} {
		if got := parseConfig(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
