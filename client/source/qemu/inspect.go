package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"cairn/client/source"
	"cairn/client/source/qmp"
)

// What QEMU answers to queries, as far as it is used.
type (
	blockDevice struct { // query-block
		Device    string `json:"device"`
		QDev      string `json:"qdev"`
		Removable bool   `json:"removable"`
		Inserted  *struct {
			ReadOnly bool   `json:"ro"`
			NodeName string `json:"node-name"`
		} `json:"inserted"`
	}
	blockStats struct { // query-blockstats
		NodeName string      `json:"node-name"`
		Device   string      `json:"device"`
		QDev     string      `json:"qdev"`
		Parent   *blockStats `json:"parent"` // in truth what it is made of: the node below
	}
	blockNode struct { // query-named-block-nodes
		NodeName string `json:"node-name"`
		Driver   string `json:"drv"`
		ReadOnly bool   `json:"ro"`
		File     string `json:"file"`
		Image    struct {
			VirtualSize    int64  `json:"virtual-size"`
			ActualSize     int64  `json:"actual-size"`
			Filename       string `json:"filename"`
			FormatSpecific *struct {
				Data struct {
					Compat   string `json:"compat"`
					DataFile string `json:"data-file"`
				} `json:"data"`
			} `json:"format-specific"`
		} `json:"image"`
		Bitmaps []dirtyBitmap `json:"dirty-bitmaps"`
	}
	dirtyBitmap struct {
		Name         string `json:"name"`
		Granularity  int64  `json:"granularity"`
		Recording    bool   `json:"recording"`
		Busy         bool   `json:"busy"`
		Persistent   bool   `json:"persistent"`
		Inconsistent bool   `json:"inconsistent"`
	}
	chardev struct { // query-chardev
		Label    string `json:"label"`
		Filename string `json:"filename"`
		Open     bool   `json:"frontend-open"`
	}
)

// answers are what QEMU said of itself, in its own words.
type answers map[string]json.RawMessage

// queries are asked for an inspection; all are kept as the machine's definition.
var queries = []struct {
	command   string
	arguments args
}{
	{"query-version", nil},
	{"query-name", nil},
	{"query-uuid", nil},
	{"query-status", nil},
	{"query-block", nil},
	{"query-blockstats", nil},
	{"query-named-block-nodes", args{"flat": true}},
	{"query-chardev", nil},
	{"query-memory-size-summary", nil},
	{"query-cpus-fast", nil},
}

// inspection is a machine as QEMU describes it.
type inspection struct {
	answers answers
	status  string
	uuid    string
	disks   []*disk
	nodes   []blockNode
	agentUp bool // the guest has the agent's channel open, as far as QEMU knows it
}

// disk is a disk of a running QEMU.
type disk struct {
	source.Disk
	node       string // the format's node: where bitmaps are, and backups of
	persistent bool   // it can hold bitmaps
	bitmaps    []dirtyBitmap
}

// inspect asks QEMU for everything.
func inspect(ctx context.Context, c *shared, d *descriptor) (*inspection, error) {
	i := &inspection{answers: answers{}}
	for _, q := range queries {
		var value json.RawMessage
		var refused *qmp.Error // an older or smaller QEMU does not know all
		if err := c.ask(ctx, q.command, q.arguments, &value); err != nil && !errors.As(err, &refused) {
			return nil, err
		}
		i.answers[q.command] = value
	}
	var status struct{ Status string }
	var uuid struct{ UUID string }
	var devices []blockDevice
	var stats []blockStats
	var chardevs []chardev
	for command, into := range map[string]any{
		"query-status": &status, "query-uuid": &uuid, "query-block": &devices,
		"query-blockstats": &stats, "query-named-block-nodes": &i.nodes, "query-chardev": &chardevs,
	} {
		if err := json.Unmarshal(i.answers[command], into); err != nil {
			return nil, fmt.Errorf("%w: %s: unexpected answer: %w", source.ErrHypervisor, command, err)
		}
	}
	i.status = status.Status
	switch {
	case d.UUID != "":
		i.uuid = d.UUID
	case strings.Trim(uuid.UUID, "0-") != "":
		i.uuid = uuid.UUID
	}
	i.agentUp = d.Agent != ""
	for _, ch := range chardevs {
		// "unix:PATH,server=on", "disconnected:unix:PATH,server=on"
		if d.Agent != "" && strings.Contains(ch.Filename, "unix:"+d.Agent+",") {
			i.agentUp = ch.Open
		}
	}
	i.findDisks(devices, stats)
	return i, nil
}

// findDisks picks the devices that are disks.
func (i *inspection) findDisks(devices []blockDevice, stats []blockStats) {
	taken := map[string]bool{}
	for _, dev := range devices {
		if dev.Removable || dev.Inserted == nil || dev.Inserted.ReadOnly || dev.QDev == "" || strings.Contains(dev.QDev, "flash") {
			continue
		}
		d := &disk{}
		n := slices.IndexFunc(stats, func(s blockStats) bool { return s.QDev == dev.QDev && s.Device == dev.Device })
		if n < 0 {
			continue // it has gone since
		}
		node := i.below(&stats[n])
		if node == nil {
			d.Problem = fmt.Sprintf("QEMU does not say what its device %s%s is made of", dev.Device, dev.QDev)
			node = &blockNode{NodeName: dev.Inserted.NodeName}
		}
		d.Path, d.Format, d.node = node.File, node.Driver, node.NodeName
		d.Size, d.Allocated = node.Image.VirtualSize, node.Image.ActualSize
		d.bitmaps = node.Bitmaps
		if node.Driver == "qcow2" && node.Image.FormatSpecific != nil {
			f := node.Image.FormatSpecific.Data
			d.persistent = f.Compat != "0.10" && f.DataFile == ""
		}
		d.Target = target(dev, node.NodeName, len(i.disks))
		if taken[d.Target] {
			d.Target = source.IDOf(d.Target+"\x80"+dev.QDev, "disk") // with a hash in it
		}
		taken[d.Target] = true
		i.disks = append(i.disks, d)
	}
}

// filters are drivers that have no data of their own. They are looked through:
// what is below sees all that the guest writes, too. One of them is a snapshot's.
var filters = []string{"copy-before-write", "backup-top", "throttle", "copy-on-read", "preallocate", "compress", "mirror_top", "commit_top"}

// below follows a device down to the node of its image's format.
func (i *inspection) below(s *blockStats) *blockNode {
	for ; s != nil; s = s.Parent {
		n := slices.IndexFunc(i.nodes, func(n blockNode) bool { return n.NodeName == s.NodeName })
		if n >= 0 && !slices.Contains(filters, i.nodes[n].Driver) {
			return &i.nodes[n]
		}
	}
	return nil
}

// peripheral is the QOM path of a device with an id of its own.
var peripheral = regexp.MustCompile(`^/machine/peripheral/([^/]+)`)

// target names a disk by what its owner named.
func target(dev blockDevice, node string, order int) string {
	name := dev.Device
	if m := peripheral.FindStringSubmatch(dev.QDev); m != nil {
		name = m[1]
	} else if !strings.HasPrefix(dev.QDev, "/") {
		name = dev.QDev // QEMU gives the id itself of SCSI and IDE disks
	}
	if name == "" && !strings.HasPrefix(node, "#") {
		name = node
	}
	if name == "" {
		return letters(order)
	}
	return source.IDOf(name, "disk")
}

// letters is vda, vdb, …, vdz, vdaa, … .
func letters(n int) string {
	s := ""
	for n++; n > 0; n = (n - 1) / 26 {
		s = string(rune('a'+(n-1)%26)) + s
	}
	return "vd" + s
}

// states are QEMU's RunStates. "inmigrate" is none of them: nothing is there yet.
var states = map[string]source.State{
	"running": source.StateRunning, "debug": source.StatePaused, "paused": source.StatePaused,
	"prelaunch": source.StatePaused, "suspended": source.StatePaused, "postmigrate": source.StatePaused,
	"finish-migrate": source.StateRunning, "save-vm": source.StatePaused, "restore-vm": source.StatePaused,
	"shutdown": source.StateStopped, "io-error": source.StateCrashed, "internal-error": source.StateCrashed,
	"guest-panicked": source.StateCrashed, "watchdog": source.StateCrashed, "colo": source.StateRunning,
}
