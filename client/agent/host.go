package agent

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Version is what Cairn's programs say they are.
const Version = "0.1.0"

var notInID = regexp.MustCompile(`[^a-z0-9]+`)

// HostID makes an id of this host's name: "Web1.example.org" is "web1".
func HostID() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name of this host: %w", err)
	}
	name, _, _ = strings.Cut(name, ".")
	id := strings.Trim(notInID.ReplaceAllString(strings.ToLower(name), "-"), "-")
	if id == "" || id[0] < 'a' {
		id = "host-" + id
	}
	return strings.TrimRight(id[:min(len(id), 63)], "-"), nil
}
