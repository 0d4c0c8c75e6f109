package qemu

import (
	"fmt"
	"strconv"
	"strings"
)

// checkpoint is the name of one, cairn-0123456789abcdef. All that a snapshot puts
// into QEMU has a name that begins with its checkpoint's and a hyphen. (Names of
// nodes may have 31 bytes.)
type checkpoint string

func (c checkpoint) owns(name string) bool {
	return c != "" && strings.HasPrefix(name, string(c)+"-")
}

// bitmap is what records from this checkpoint on, on a disk of that size.
func (c checkpoint) bitmap(size int64) string { return fmt.Sprintf("%s-%d", c, size) }

// records tells whether name is a bitmap of this checkpoint, and for which size.
func (c checkpoint) records(name string) (size int64, ok bool) {
	if !c.owns(name) {
		return 0, false
	}
	size, err := strconv.ParseInt(name[len(c)+1:], 10, 64)
	return size, err == nil
}

// changes is the copy of the earlier checkpoint's bitmap, for reading.
func (c checkpoint) changes() string { return string(c) + "-changes" }

// scratch is the node of a disk's scratch file, its job and its export.
func (c checkpoint) scratch(n int) string { return fmt.Sprintf("%s-s%d", c, n) }

// filter is the node that the job puts above the disk.
func (c checkpoint) filter(n int) string { return fmt.Sprintf("%s-f%d", c, n) }
