package guest

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// OSInfo is what the guest tells of its system; every field may be "".
type OSInfo struct {
	ID            string `json:"id"`             // "debian", "mswindows"
	Name          string `json:"name"`           // "Debian GNU/Linux"
	PrettyName    string `json:"pretty-name"`    // "Debian GNU/Linux 12 (bookworm)"
	Version       string `json:"version"`        // "12 (bookworm)", "Microsoft Windows Server 2019"
	VersionID     string `json:"version-id"`     // "12", "2019"
	KernelRelease string `json:"kernel-release"` // "6.1.0-18-amd64", of Windows the build: "17763"
	KernelVersion string `json:"kernel-version"` // "#1 SMP …", of Windows "10.0"
	Machine       string `json:"machine"`        // "x86_64"
	Variant       string `json:"variant"`        // "server"
}

// OSInfo asks for the guest's system. Agents before 2.10 do not know the
// command.
func (c *Client) OSInfo(ctx context.Context) (*OSInfo, error) {
	var i OSInfo
	if err := c.ask(ctx, "guest-get-osinfo", nil, &i); err != nil {
		return nil, err
	}
	return &i, nil
}

// Family is a kind of system, by what a freeze means in it.
type Family int

const (
	FamilyUnknown Family = iota // the guest does not say
	FamilyLinux
	FamilyWindows
	FamilyOther
)

// Family tells the system's kind.
func (i *OSInfo) Family() Family {
	switch {
	case i == nil:
		return FamilyUnknown
	case i.ID == "mswindows":
		return FamilyWindows
	case strings.HasPrefix(i.KernelVersion, "#"):
		// Of all kernels only Linux begins its build's description so.
		return FamilyLinux
	case i.KernelVersion != "":
		return FamilyOther
	case slices.Contains([]string{"freebsd", "openbsd", "netbsd", "dragonfly", "ghostbsd", "opnsense", "solaris", "omnios", "illumos", "smartos", "macos", "darwin"}, strings.ToLower(i.ID)):
		return FamilyOther
	case i.ID != "" || i.PrettyName != "":
		return FamilyLinux // every other distribution with an os-release(5)
	}
	return FamilyUnknown
}

// GuestOS names the system for humans: "Debian GNU/Linux 12 (bookworm)",
// "Microsoft Windows Server 2019"; "" when the guest does not say.
func (i *OSInfo) GuestOS() string {
	if i == nil {
		return ""
	}
	known := func(s string) bool { return s != "" && s != "N/A" }
	switch {
	case i.Family() == FamilyWindows && known(i.Version):
		return i.Version
	case known(i.PrettyName):
		return i.PrettyName
	case i.Family() == FamilyWindows:
		return strings.TrimSpace("Microsoft Windows " + i.KernelVersion)
	case known(i.Name):
		return strings.TrimSpace(i.Name + " " + i.Version)
	case known(i.ID):
		return i.ID
	case i.Family() == FamilyLinux:
		return strings.TrimSpace("Linux " + i.KernelRelease)
	}
	return ""
}

// Supported tells whether the system is one that backups are made for: Linux,
// and Windows from Server 2008 R2 (and so from Windows 7, which is the same
// kernel). A guest that does not say gets the benefit of the doubt.
func (i *OSInfo) Supported() bool {
	switch i.Family() {
	case FamilyOther:
		return false
	case FamilyWindows:
		var major, minor int
		if _, err := fmt.Sscanf(i.KernelVersion, "%d.%d", &major, &minor); err != nil {
			return true
		}
		return major > 6 || major == 6 && minor >= 1
	}
	return true
}
