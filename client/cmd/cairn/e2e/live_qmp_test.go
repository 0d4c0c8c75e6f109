//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"net"
	"time"
)

// qmp executes one command of a monitor that nothing manages. Like the agent it
// comes, asks and goes: a monitor has one client at a time.
func (l *live) qmp(socket, command string) string {
	l.Helper()
	conn, err := net.Dial("unix", socket)
	l.must(err)
	defer conn.Close()
	l.must(conn.SetDeadline(time.Now().Add(liveLimit)))
	lines := bufio.NewReader(conn)
	_, err = lines.ReadString('\n') // its greeting
	l.must(err)
	var line string
	for _, c := range []string{`{"execute":"qmp_capabilities"}`, command} {
		_, err = conn.Write([]byte(c + "\n"))
		l.must(err)
		for event := true; event; {
			line, err = lines.ReadString('\n')
			l.must(err)
			var m map[string]json.RawMessage
			l.must(json.Unmarshal([]byte(line), &m))
			_, event = m["event"]
			if _, bad := m["error"]; bad {
				l.Fatalf("%s: %s", c, line)
			}
		}
	}
	return line
}
