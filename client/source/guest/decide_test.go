package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// recording is a guest of which we have the answers: a file of testdata.
type recording struct {
	About string
	Want  struct {
		Class, GuestOS, Hook string
		Supported            bool
		Warnings             []Kind
		Writers              []string // that failed
		FileSystems          int
	}
	// Answers are raw replies by the command's name, followed by its path,
	// handle or process id, if it has one.
	Answers map[string]json.RawMessage
	open    int // files that were opened and not closed
}

func (r *recording) Execute(_ context.Context, command string) ([]byte, error) {
	var c struct {
		Execute   string
		Arguments struct {
			Path        string
			Handle, PID int
		}
	}
	if err := json.Unmarshal([]byte(command), &c); err != nil {
		return nil, err
	}
	key := c.Execute
	switch a := c.Arguments; {
	case a.Path != "":
		key += " " + a.Path
	case a.Handle+a.PID != 0:
		key += fmt.Sprint(" ", a.Handle+a.PID)
	}
	reply, ok := r.Answers[key]
	if !ok {
		return []byte(refusal("CommandNotFound", "The command "+c.Execute+" has not been found")), nil
	}
	if string(reply) == `"unavailable"` {
		return nil, fmt.Errorf("%w: QEMU guest agent is not connected", ErrUnavailable)
	}
	if strings.HasPrefix(string(reply), `{"return"`) {
		switch c.Execute {
		case "guest-file-open":
			r.open++
		case "guest-file-close":
			r.open--
		}
	}
	return reply, nil
}

// Every recorded guest gets the class that its answers deserve.
func TestRecordedGuests(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.json")
	if len(files) < 20 {
		t.Fatalf("only %d recordings", len(files))
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var r recording
			if err := json.Unmarshal(text, &r); err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			c := NewClient(&r)
			f := c.Survey(ctx)
			if f.Agent == nil {
				frozen, err := c.Freeze(ctx, FreezeOptions{Limit: time.Hour})
				f.Froze(frozen, err)
				if frozen != nil {
					_, err := frozen.Thaw(ctx)
					f.Thawed(err)
				}
				c.Aftermath(ctx, &f)
			}
			class, warnings := Decide(f)
			var kinds []Kind
			for _, w := range warnings {
				t.Logf("%s: %s", w.Kind, w.Text)
				kinds = append(kinds, w.Kind)
			}
			for _, w := range r.Want.Writers {
				if !slices.ContainsFunc(warnings, func(g Warning) bool { return strings.Contains(g.Text, w) }) {
					t.Errorf("no warning of %s", w)
				}
			}
			hook := map[HookState]string{HookUnknown: "unknown", HookNone: "none", HookPresent: "present"}[f.Hook.State]
			got := []any{class.String(), f.OS.GuestOS(), hook, f.OS.Supported(), len(kinds) > 0, r.Want.Writers, f.FileSystems, 0}
			want := []any{r.Want.Class, r.Want.GuestOS, r.Want.Hook, r.Want.Supported, len(r.Want.Warnings) > 0, failedWriters(f.Writers), r.Want.FileSystems, r.open}
			if !reflect.DeepEqual(got, want) || !slices.Equal(kinds, r.Want.Warnings) {
				t.Errorf("%s\n got %v %q\nwant %v %q", r.About, got, kinds, want, r.Want.Warnings)
			}
			if _, ok := r.Answers["guest-get-fsinfo"]; ok {
				if list, err := c.FSInfo(ctx); err != nil || len(list) > 0 && list[0].Mountpoint == "" {
					t.Errorf("file systems: %+v, %v", list, err)
				}
			}
		})
	}
}

func TestDecideWithoutAgent(t *testing.T) {
	for _, tc := range []struct {
		facts Facts
		want  []Kind
	}{
		{Facts{Off: true}, nil},
		{Facts{Agent: ErrUnavailable}, []Kind{KindAgentUnavailable}},
		{Facts{FileSystems: 1, FreezeErr: errors.Join(ErrFreezeFailed, ErrThawFailed)}, []Kind{KindThawFailed}},
		{Facts{FreezeErr: fmt.Errorf("%w: %w", ErrFreezeFailed, ErrUnavailable)}, []Kind{KindFreezeFailed}},
		{Facts{FreezeErr: ErrUnavailable}, []Kind{KindAgentUnavailable}},
		{Facts{FileSystems: 1, ThawErr: errors.Join(ErrFreezeExpired, ErrThawFailed)}, []Kind{KindFreezeExpired, KindThawFailed}},
	} {
		class, warnings := Decide(tc.facts)
		var kinds []Kind
		for _, w := range warnings {
			kinds = append(kinds, w.Kind)
		}
		if class != CrashConsistent || !slices.Equal(kinds, tc.want) {
			t.Errorf("%+v: %s, %v", tc.facts, class, kinds)
		}
	}
	// A guest that cannot be thawed was frozen all the same.
	if class, _ := Decide(Facts{FileSystems: 1, ThawErr: ErrThawFailed}); class != FileSystemConsistent {
		t.Errorf("got %s", class)
	}
}

func TestFamily(t *testing.T) {
	for _, tc := range []struct {
		os   *OSInfo
		want Family
	}{
		{nil, FamilyUnknown},
		{&OSInfo{}, FamilyUnknown},
		{&OSInfo{KernelVersion: "#1 SMP"}, FamilyLinux},
		{&OSInfo{ID: "alpine"}, FamilyLinux},
		{&OSInfo{ID: "freebsd"}, FamilyOther},
		{&OSInfo{KernelVersion: "NetBSD 9.3 (GENERIC) #0: Thu"}, FamilyOther},
		{&OSInfo{ID: "mswindows", KernelVersion: "10.0"}, FamilyWindows},
	} {
		if got := tc.os.Family(); got != tc.want {
			t.Errorf("%+v: %d", tc.os, got)
		}
	}
}
