package source

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
)

// maxID is the longest id there may be, in bytes.
const maxID = 63

// IDOf turns a name into an id that matches ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$,
// always the same for the same name. A name that starts with something else
// than a letter gets prefix in front; one that has nothing to offer, or is too
// long, gets a hash of itself.
func IDOf(name, prefix string) string {
	var b strings.Builder
	lost := false // letters or digits that an id cannot hold
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		default:
			lost = lost || r > 0x7f
			if s := b.String(); s != "" && (r == '-' || !strings.HasSuffix(s, "-")) {
				b.WriteByte('-')
			}
		}
	}
	id := strings.TrimRight(b.String(), "-")
	if id != "" && (id[0] < 'a' || id[0] > 'z') {
		id = prefix + "-" + id
	}
	if id != "" && !lost && len(id) <= maxID {
		return id
	}
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:8]
	if id == "" {
		id = prefix
	}
	return strings.TrimRight(id[:min(len(id), maxID-1-len(hash))], "-") + "-" + hash
}

// stem is a file's name without its extension.
func stem(name string) string { return strings.TrimSuffix(name, filepath.Ext(name)) }

// formats maps the extensions that make a file a disk image to QEMU's name of
// its format.
var formats = map[string]string{
	".raw":   "raw",
	".dd":    "raw",
	".img":   "raw",
	".qcow2": "qcow2",
	".qcow":  "qcow", // or qcow2: see formatOf
	".qed":   "qed",
	".vmdk":  "vmdk",
	".vhdx":  "vhdx",
	".vhd":   "vpc",
	".vpc":   "vpc",
	".vdi":   "vdi",
}

// extFormat returns the format that a file's extension stands for, or "" if
// the file is none of ours.
func extFormat(name string) string {
	if strings.HasPrefix(name, ".") {
		return ""
	}
	return formats[strings.ToLower(filepath.Ext(name))]
}

// knownFormat tells whether a format that an image header names is one that
// may be opened. QEMU has drivers under the same kind of name that open
// network connections and the like.
func knownFormat(format string) bool {
	for _, f := range formats {
		if f == format {
			return true
		}
	}
	return format == "qcow2"
}

// hasBacking tells whether images of a format can have a backing file.
func hasBacking(format string) bool {
	switch format {
	case "qcow", "qcow2", "qed", "vmdk":
		return true
	}
	return false
}
