package live

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"
)

// childEnv is the state directory of a child that makes a session and waits to
// be killed.
const childEnv = "CAIRN_LIVE_TEST_STATE"

func child() bool {
	state := os.Getenv(childEnv)
	if state == "" {
		return false
	}
	s, err := NewSession(state, Record{Machine: "web", Checkpoint: "cairn-1", Agent: true, Extra: map[string]string{"a": "b"}})
	if err != nil {
		fmt.Println(err)
		return true
	}
	fmt.Println(s.Dir())
	select {}
}

func leftovers(t *testing.T, state string) []*Session {
	t.Helper()
	list, err := Leftovers(state)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestSession(t *testing.T) {
	state := filepath.Join(t.TempDir(), "a", "b")
	if list := leftovers(t, state); len(list) != 0 {
		t.Fatalf("%d leftovers of nothing", len(list))
	}
	want := Record{Machine: "web", Checkpoint: NewCheckpoint(), HypervisorID: "u", Agent: true, Time: time.Unix(1700000000, 0).UTC(), Extra: map[string]string{"x": "y"}}
	s, err := NewSession(state, want)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(s.Dir()); err != nil || st.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if list := leftovers(t, state); len(list) != 0 {
		t.Error("a living session is a leftover")
	}
	want.Checkpoint = "cairn-2"
	if err := s.Update(want); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path("scratch"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Release()
	for range 2 { // released again, it is found again
		list := leftovers(t, state)
		if len(list) != 1 || fmt.Sprint(list[0].Record()) != fmt.Sprint(want) || list[0].Dir() != s.Dir() {
			t.Fatalf("%v", list)
		}
		if more := leftovers(t, state); len(more) != 0 {
			t.Error("two got the same session")
		}
		list[0].Release()
	}
	list := leftovers(t, state)
	if err := list[0].Remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(state); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// The kernel tells that a process has died, whatever it died of.
func TestSessionOfAKilledProcess(t *testing.T) {
	state := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+state)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	if list := leftovers(t, state); len(list) != 0 {
		t.Error("a living session is a leftover")
	}
	cmd.Process.Kill()
	cmd.Wait()
	list := leftovers(t, state)
	if len(list) != 1 || list[0].Dir() != lines.Text() || list[0].Record().Extra["a"] != "b" {
		t.Fatalf("%v, want %s", list, lines.Text())
	}
	list[0].Remove()
}

// What died before its record was written has done nothing; what cannot be read
// is told and stays.
func TestLeftoversOdd(t *testing.T) {
	state := t.TempDir()
	for _, dir := range []string{"s00", "s01", "other"} {
		if err := os.Mkdir(filepath.Join(state, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(state, "s01", recordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := Leftovers(state)
	if err == nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	left, _ := filepath.Glob(filepath.Join(state, "*"))
	if len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

// Sessions that are made while others look for leftovers are not taken away.
func TestSessionsAndLeftoversAtOnce(t *testing.T) {
	state := t.TempDir()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if list, _ := Leftovers(state); len(list) != 0 {
				t.Error("a living session is a leftover")
				return
			}
		}
	})
	for range 30 {
		s, err := NewSession(state, Record{Machine: "web"})
		if err != nil {
			t.Error(err)
			break
		}
		if _, err := os.Stat(s.Path(recordName)); err != nil {
			t.Error(err)
		}
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestCheckpointNames(t *testing.T) {
	a, b := NewCheckpoint(), NewCheckpoint()
	if !regexp.MustCompile(`^cairn-[0-9a-f]{16}$`).MatchString(a) || a == b {
		t.Errorf("%s, %s", a, b)
	}
}
